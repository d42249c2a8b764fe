# SPDX-License-Identifier: Apache-2.0
"""How scattered operands are cut into runs that one instruction can take together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import Addresses, Floats

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
    """Cut rows that write runs of ``size`` addresses into groups in which none overlaps another.

    ``starts`` is (rows,), or (runs, rows) where each row writes several runs. Yields numbers of
    rows.
    """
    starts = np.atleast_2d(starts)
    if (np.diff(np.sort(starts, axis=None)) >= size).all():
        yield np.arange(starts.shape[1])
        return
    if len(starts) == 1 and _overlap_as_equals(starts[0], size):
        yield from _by_turn(starts[0])
        return
    first = int(starts.min())
    groups: list[list[int]] = []
    taken: list[npt.NDArray[np.bool_]] = []  # by group and address
    touched = (starts[:, :, None] + np.arange(size) - first).swapaxes(0, 1)
    for row in np.argsort(starts[0], kind="stable").tolist():
        places = touched[row].ravel()
        number = next((g for g, those in enumerate(taken) if not those[places].any()), len(taken))
        if number == len(taken):
            groups.append([])
            taken.append(np.zeros(int(starts.max()) + size - first, dtype=bool))
        groups[number].append(row)
        taken[number][places] = True
    for members in groups:
        yield np.array(members)


def _overlap_as_equals(starts: Addresses, size: int) -> bool:
    """Whether two runs that overlap begin at the same address."""
    return bool((np.diff(np.unique(starts)) >= size).all())


def _by_turn(starts: Addresses) -> list[Integers]:
    """Group the first rows of all addresses, then their second ones, …."""
    order = np.argsort(starts, kind="stable")
    first = np.searchsorted(starts[order], starts[order])
    turn = np.arange(order.size) - first
    turns = np.argsort(turn, kind="stable")
    return np.split(order[turns], np.cumsum(np.bincount(turn))[:-1])


def by_vector(values: Floats, starts: Integers, size: int) -> Iterator[tuple[Floats, Integers]]:
    """Group runs of ``size`` that have the same values; yields values and starts."""
    parts = values[starts[:, None] + np.arange(size)]
    if (parts == parts[0]).all():
        yield parts[0], starts
        return
    distinct, which = np.unique(parts, axis=0, return_inverse=True)
    for number, part in enumerate(distinct):
        yield part, starts[np.ravel(which) == number]
