# SPDX-License-Identifier: Apache-2.0
"""How scattered operands are cut into runs that one instruction can take together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.graph import Addresses, Floats

Integers: TypeAlias = npt.NDArray[np.int64]


def runs(addresses: Addresses) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of the maximal runs of consecutive addresses, constants left out."""
    if addresses.size == 0:
        return
    breaks = np.flatnonzero((np.diff(addresses) != 1) | (addresses[:-1] < 0)) + 1
    edges = [0, *breaks.tolist(), addresses.size]
    for first, stop in zip(edges[:-1], edges[1:], strict=True):
        if addresses[first] >= 0:
            yield first, stop


def common_runs(addresses: Addresses) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of the maximal runs of columns in which every row is consecutive.

    ``addresses`` is (rows, columns); a constant ends a run of its row.
    """
    if addresses.shape[1] == 0:
        return
    apart = (np.diff(addresses, axis=1) != 1) | (addresses[:, :-1] < 0)
    edges = [0, *(np.flatnonzero(apart.any(axis=0)) + 1).tolist(), addresses.shape[1]]
    yield from zip(edges[:-1], edges[1:], strict=True)


def apart(starts: Addresses, size: int) -> Iterator[Integers]:
    """Cut runs of ``size`` addresses into groups in which none overlaps another."""
    yield from apart_together(starts[None], size)


def apart_together(starts: Addresses, size: int) -> Iterator[Integers]:
    """Do the same for rows that write several runs each; ``starts`` is (runs, rows)."""
    order = np.argsort(starts.min(axis=0), kind="stable")
    ends: list[int] = []
    groups: list[list[int]] = []
    for row in order.tolist():
        first, stop = int(starts[:, row].min()), int(starts[:, row].max()) + size
        group = next((g for g, end in enumerate(ends) if end <= first), len(ends))
        if group == len(ends):
            ends.append(0)
            groups.append([])
        ends[group] = stop
        groups[group].append(row)
    for members in groups:
        yield np.array(members)


def variable_parts(inputs: Addresses) -> Iterator[Integers]:
    """Where consecutive elements are no constants."""
    variable = np.flatnonzero(inputs >= 0)
    for part in np.split(variable, np.flatnonzero(np.diff(variable) != 1) + 1):
        if part.size:
            yield part


def by_vector(values: Floats, starts: Integers, size: int) -> Iterator[tuple[Floats, Integers]]:
    """Group runs of ``size`` that have the same values; yields values and starts."""
    parts = values[starts[:, None] + np.arange(size)]
    if (parts == parts[0]).all():
        yield parts[0], starts
        return
    distinct, which = np.unique(parts, axis=0, return_inverse=True)
    for number, part in enumerate(distinct):
        yield part, starts[np.ravel(which) == number]
