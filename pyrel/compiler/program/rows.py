# SPDX-License-Identifier: Apache-2.0
"""Offsets of a length-parametric program as numbers that grow evenly with the number of steps.

A `Rows` is those of one instruction. What a pattern has is checked, counted and written all at
once: a pattern has thousands of instructions, of a few numbers each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.compiler.program.instructions import Offsets

Growth: TypeAlias = tuple[int, int]  # a number at the least T, and what each further step adds
Counts: TypeAlias = Sequence[int | None]

_LARGEST = 2.0**62  # of offsets and lengths: half of what an integer holds, so rounding is harmless


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of numbers in runs of a fixed stride.

    Attributes
    ----------
    lengths : ndarray, shape (runs, 2)
        Rows of each run, as `Growth`.
    starts : ndarray, shape (columns, runs, 2)
        The first row of each, likewise.
    strides : ndarray, shape (columns, runs, 2)
        From one row to the next, likewise.
    """

    lengths: Offsets
    starts: Offsets
    strides: Offsets


def count_rows(rows: Sequence[Rows], counts: Counts, more: int) -> int:
    """Count the rows of all columns that `write_rows` writes; arguments and errors as of it."""
    lengths, firsts = _lengths(rows, counts, more)
    whole = lengths.tolist()  # whose sum may be more than an integer of NumPy holds
    parts = pairwise([*firsts.tolist(), len(whole)])
    return sum(
        len(each.starts) * sum(whole[first:stop])
        for each, (first, stop) in zip(rows, parts, strict=True)
    )


def write_rows(rows: Sequence[Rows], counts: Counts, more: int) -> list[Offsets]:
    """Write the rows of each, (columns, rows), for so many steps more than the least.

    Parameters
    ----------
    rows : sequence of Rows
    counts : sequence of int or None
        Of each the iterations of the loop that it is in: a run is a row of the body at all of them.
    more : int

    Raises
    ------
    ValueError
        A run has no row, another number than iterations, or more than an integer holds.
    """
    lengths, firsts = _lengths(rows, counts, more)
    runs = np.diff(firsts, append=lengths.size)
    entries = runs * [len(each.starts) for each in rows]  # each is a run of one column
    within = np.arange(entries.sum()) - np.repeat(np.cumsum(entries) - entries, entries)
    lengths = lengths[np.repeat(firsts, entries) + within % np.repeat(runs, entries)]
    starts = _grown(np.concatenate([each.starts.reshape(-1, 2) for each in rows]), more)
    strides = _grown(np.concatenate([each.strides.reshape(-1, 2) for each in rows]), more)
    _check_largest(np.abs(starts) + np.abs(strides).astype(np.float64) * lengths)
    stops = np.cumsum(lengths)
    written = np.arange(stops[-1]) - np.repeat(stops - lengths, lengths)
    written *= np.repeat(strides, lengths)
    written += np.repeat(starts, lengths)
    bounds = pairwise([0, *stops[np.cumsum(entries) - 1].tolist()])
    parts = [written[first:stop] for first, stop in bounds]
    return [_in_order(p, r, c) for p, r, c in zip(parts, rows, counts, strict=True)]


def _in_order(written: Offsets, rows: Rows, count: int | None) -> Offsets:
    """Put what is written run by run into the order of rows, (columns, rows)."""
    columns, runs = rows.starts.shape[:2]
    if count is not None and runs > 1:  # iteration by iteration
        written = written.reshape(columns, runs, count).swapaxes(1, 2)
    return written.reshape(columns, -1)


def _lengths(rows: Sequence[Rows], counts: Counts, more: int) -> tuple[Offsets, Offsets]:
    """Return the rows of each run, and which run is the first of each `Rows`, or refuse them."""
    lengths = _grown(np.concatenate([each.lengths for each in rows]), more)
    sizes = np.array([len(each.lengths) for each in rows])
    firsts = np.cumsum(sizes) - sizes
    shortest, longest = (f.reduceat(lengths, firsts) for f in (np.minimum, np.maximum))
    looped = np.array([count is not None for count in counts])
    wanted = np.array([count or 0 for count in counts], np.int64)
    wrong = (shortest < 1) | (looped & ((shortest != wanted) | (longest != wanted)))
    if wrong.any():
        first = int(wrong.argmax())
        turns = f", in {counts[first]} turns" if looped[first] else ""
        raise ValueError(f"a pattern has runs of {shortest[first]} to {longest[first]} rows{turns}")
    return lengths, firsts


def grown(growth: Growth, more: int) -> int:
    """Compute a number for so many steps more than the least; ValueError if it would wrap."""
    value = growth[0] + growth[1] * more
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"a number of a pattern grows to {value}")
    return value


def _grown(growth: Offsets, more: int) -> Offsets:
    """Compute numbers, given as `Growth` along the last axis, or refuse those that would wrap."""
    sizes = np.abs(growth.astype(np.float64))
    _check_largest(sizes[..., 0] + more * sizes[..., 1])
    return np.asarray(growth[..., 0] + more * growth[..., 1])


def _check_largest(sizes: npt.NDArray[np.float64]) -> None:
    largest = sizes.max(initial=0.0)
    if largest >= _LARGEST:
        raise ValueError(f"a number of a pattern grows to about {largest:.3g}")


def slope_of(values: Offsets, steps: Offsets) -> Offsets | None:
    """Return by what values grow with each step; None if they do not grow evenly.

    Their first axis is that of ``steps``, of which the first two differ by one.
    """
    slope: Offsets = values[1] - values[0]
    for n, value in zip(steps.tolist(), values, strict=True):
        if (value != values[0] + slope * (n - steps[0])).any():
            return None
    return slope


def around_longest(fixed: npt.NDArray[np.bool_]) -> tuple[int, int]:
    """Count the iterations before and behind the longest stretch in which places move evenly.

    ``fixed`` says of each three iterations in a row whether both strides are the same.
    """
    edges = np.concatenate([[-1], np.flatnonzero(~fixed), [fixed.size]])
    lengths = np.diff(edges) - 1
    longest = int(lengths.argmax())
    first = int(edges[longest]) + 1
    return first, fixed.size - (first + int(lengths[longest]))
