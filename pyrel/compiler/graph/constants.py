# SPDX-License-Identifier: Apache-2.0
"""Numbers in a graph: each value has one negative address."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import Addresses, Floats

UNKNOWN = np.iinfo(np.int64).min  # no address


class Constants:
    """The constants of one graph, numbered in the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[float, bool], int] = {}
        self._gated_zero: int | None = None
        self._table = np.empty(64)  # their values, and room for more

    def table(self) -> Floats:
        """Copy the values, in the order of their numbers."""
        return self._table[: len(self._numbers)].copy()

    def of(self, values: npt.ArrayLike) -> Addresses:
        """Addresses of numbers, in their shape."""
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.size == 1:
            return np.full(numbers.shape, self.one(float(numbers.item())))
        unique, inverse = np.unique(numbers, return_inverse=True)
        addresses = np.array([self.one(v) for v in unique.tolist()], dtype=np.int64)
        return np.asarray(addresses[inverse.reshape(numbers.shape)])

    def one(self, value: float, of_gate: bool = False) -> int:
        """Address of a number; that of a gate has one of its own."""
        index = self._numbers.setdefault((value, of_gate), len(self._numbers))
        if index == self._table.size:
            self._table = np.append(self._table, np.empty_like(self._table))
        self._table[index] = value
        return -1 - index

    def zero_of_gate(self) -> int:
        """Address of a zero of its own, for what a gate leaves of zeros."""
        if self._gated_zero is None:
            self._gated_zero = self.one(0.0, of_gate=True)
        return self._gated_zero

    def is_of_gate(self, addresses: Addresses) -> bool:
        """Whether the zero of a gate is among addresses."""
        return self._gated_zero is not None and bool((addresses == self._gated_zero).any())

    def values(self, addresses: Addresses) -> Floats:
        """Values of constant addresses, 0 elsewhere."""
        return np.where(addresses < 0, self._table[np.maximum(-1 - addresses, 0)], 0.0)

    def infinite_sums(self, addends: Addresses) -> Addresses:
        """Return sums over (addends, size) that a mask makes infinite: these have no gradient.

        Beside them, what zeros of that mask are added to. ``UNKNOWN`` is for all others.
        """
        unknown = np.full(addends.shape[1], UNKNOWN)
        if (addends >= 0).all():
            return unknown
        values = self.values(addends)
        with np.errstate(invalid="ignore"):
            sums = values.sum(axis=0)
        infinite = np.isinf(sums)
        if not infinite.any():
            return unknown
        counts = (addends >= 0) | (values != 0)
        if (counts.sum(axis=0) == 1)[~infinite].all():
            unknown = addends[counts.argmax(axis=0), np.arange(sums.size)]
        return np.where(infinite, self.of(np.where(infinite, sums, 0.0)), unknown)
