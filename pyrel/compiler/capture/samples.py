# SPDX-License-Identifier: Apache-2.0
"""Splits traced elements, and rows of them, by the sample that they belong to.

An element of a traced tensor is a number: its sample and its address within the sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import Addresses, Floats

# An element of sample s at address a is s · 2^44 + a; a constant is its negative address.
SAMPLE_SHIFT = 44
ADDRESS_MASK = (1 << SAMPLE_SHIFT) - 1


class MixedSamplesError(Exception):
    """An operator combines elements of different samples of the batch."""


def addresses_of(ids: npt.NDArray[np.int64]) -> Addresses:
    """Addresses of elements within their samples; those of constants are the same in all."""
    return np.where(ids >= 0, ids & ADDRESS_MASK, ids)


@dataclass
class Rows:
    """Rows of a traced matrix, by sample."""

    addresses: Addresses  # (rows of one sample, width)
    positions: list[npt.NDArray[np.int64]]  # for each sample, where its rows stand
    constant: npt.NDArray[np.int64]  # where the rows stand that no sample owns
    constant_addresses: Addresses


class Samples:
    """The samples of a batch.

    Parameters
    ----------
    size : int
        How many there are.
    values : callable
        Returns the values of constant addresses.
    """

    def __init__(self, size: int, values: Callable[[Addresses], Floats]) -> None:
        self.size, self._values = size, values
        self._shifts = np.arange(size, dtype=np.int64) << SAMPLE_SHIFT

    def of_first(self, array: npt.NDArray[np.int64]) -> Addresses | None:
        """Part of the first sample, if the array has one equal part for each, in their order."""
        if len(array) % self.size:
            return None
        parts = array.reshape(self.size, -1, *array.shape[1:])
        first: Addresses = parts[0]
        if (first > ADDRESS_MASK).any() or not np.array_equal(parts, self.spread(first)):
            return None
        return first

    def _in_sample(self, addresses: Addresses, sample: int) -> Addresses:
        return np.where(addresses >= 0, addresses + self._shifts[sample], addresses)

    def spread(self, addresses: Addresses) -> npt.NDArray[np.int64]:
        """Ids of the same addresses in every sample, shape (batch, ...)."""
        ids = addresses + self._shifts.reshape(-1, *[1] * addresses.ndim)
        return np.where(addresses >= 0, ids, addresses) if (addresses < 0).any() else ids

    def by_owner(
        self, matrix: npt.NDArray[np.int64], make: Callable[[Addresses], Addresses]
    ) -> npt.NDArray[np.int64]:
        """Make something of rows that lie in any order."""
        rows = self.split(matrix)
        made = make(rows.addresses) if rows.addresses.size else None
        constant = make(rows.constant_addresses) if rows.constant.size else None
        some = made if made is not None else constant
        out = np.empty((len(matrix), 0 if some is None else some.shape[1]), dtype=np.int64)
        if made is not None:
            for sample, positions in enumerate(rows.positions):
                out[positions] = self._in_sample(made, sample)
        if constant is not None:
            out[rows.constant] = constant
        return out

    def split(self, matrix: npt.NDArray[np.int64]) -> Rows:
        """Sort rows by the sample that owns them; every sample must own the same addresses."""
        sample = np.where(matrix >= 0, matrix >> SAMPLE_SHIFT, -1)
        owner = sample.max(axis=1, initial=-1)
        if ((sample != owner[:, None]) & (sample >= 0)).any():
            raise MixedSamplesError
        addresses = np.where(matrix >= 0, matrix & ADDRESS_MASK, matrix)
        positions = [np.flatnonzero(owner == s) for s in range(self.size)]
        first = addresses[positions[0]]
        if any(not self._same(addresses[p], first) for p in positions[1:]):
            raise MixedSamplesError
        constant = np.flatnonzero(owner < 0)
        return Rows(first, positions, constant, addresses[constant])

    def _same(self, addresses: Addresses, first: Addresses) -> bool:
        """Whether two samples' rows are the same, constants computed for each up to rounding."""
        if addresses.shape != first.shape:
            return False
        differ = addresses != first
        a, b = addresses[differ], first[differ]
        if (a >= 0).any() or (b >= 0).any():
            return False
        values, wanted = self._values(a), self._values(b)
        return bool(np.allclose(values, wanted, rtol=1e-5, atol=1e-7, equal_nan=True))
