# SPDX-License-Identifier: Apache-2.0
"""Packs blocks of memory, each alive for some time, into as few floats as it can.

A block is a rectangle: its floats are the height, the moments at which it is alive the width, and
its place is to be found. What is free is a set of rectangles too. The largest blocks are placed
first. A block takes a free rectangle in which it fits, as low as it is and as short-lived as there
is, else memory above all others; what the block leaves of the rectangle stays free: memory before
and behind it in time, and above it. So n blocks take n log n steps. Where that leaves gaps, blocks
are placed backwards in time too, and those that are few are each compared with all others.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import groupby
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Integers = npt.NDArray[np.int64]
_Free: TypeAlias = tuple[int, int, int, int]  # first and last moment, place, floats

_ENDLESS = 2**60  # floats
_FEW = 1 << 11  # blocks for which the best gap is sought among all of them
_CLOSE = 256  # more than what is alive at once by one part in so many is good enough
_MOST_SIZES = 32  # groups of sizes, each of which looks at all that is free
_MOST_HEIGHTS = 256  # of free rectangles, that are looked at for a block


def place(sizes: Integers, births: Integers, deaths: Integers) -> tuple[Integers, int]:
    """Find places for blocks.

    Tries several ways until one takes hardly more than what is alive at once.

    Parameters
    ----------
    sizes : ndarray
        In floats.
    births, deaths : ndarray
        The first and the last moment at which each is alive.

    Returns
    -------
    place : ndarray
        Of each block.
    size : int
        Of the whole.
    """
    enough = peak(sizes, births, deaths) * (_CLOSE + 1) // _CLOSE
    found = _largest_first(sizes, births, deaths)
    if found[1] > enough:
        end = deaths.max()
        found = min(found, _largest_first(sizes, end - deaths, end - births), key=_size)
    if found[1] > enough and sizes.size <= _FEW:
        found = min(found, _smallest_gaps(sizes, births, deaths), key=_size)
    return found


def _size(found: tuple[Integers, int]) -> int:
    return found[1]


def peak(sizes: Integers, births: Integers, deaths: Integers) -> int:
    """Return the most floats that are alive at once, below which no plan can go."""
    moments = np.concatenate([deaths + 1, births])
    changes = np.concatenate([-sizes, sizes])
    return int(np.cumsum(changes[np.argsort(moments, kind="stable")]).max())


def _largest_first(sizes: Integers, births: Integers, deaths: Integers) -> tuple[Integers, int]:
    """Place blocks by size, those of the same size as they are born."""
    distinct = np.unique(-sizes)
    # Where there are many sizes, neighbours among them make a group.
    group = np.searchsorted(distinct, -sizes) * min(distinct.size, _MOST_SIZES) // distinct.size
    order = np.lexsort((-sizes, births, group)).tolist()
    groups, heights = group.tolist(), sizes.tolist()
    blocks = list(zip(heights, births.tolist(), deaths.tolist(), strict=True))
    places = [0] * len(blocks)
    free: list[_Free] = []
    top, end = 0, int(deaths.max())
    for _, same in groupby(order, groups.__getitem__):
        free, top = _place_group(list(same), blocks, places, free, top, end)
    return np.array(places, dtype=np.int64), top


def _place_group(
    group: Sequence[int],
    blocks: Sequence[tuple[int, int, int]],
    places: list[int],
    free: list[_Free],
    top: int,
    end: int,
) -> tuple[list[_Free], int]:
    """Place blocks of one group, by birth; return what is free then, and where that ends."""
    least = min(blocks[block][0] for block in group)
    later = [rectangle for rectangle in free if rectangle[3] >= least]  # a heap by first moment
    left = [rectangle for rectangle in free if rectangle[3] < least]
    heapq.heapify(later)
    # Free at the birth of a block: by height, those that end first come first.
    now: dict[int, list[tuple[int, int, int]]] = {}
    heights: list[int] = []
    for block in group:
        size, birth, death = blocks[block]
        while later and later[0][0] <= birth:
            rectangle = heapq.heappop(later)
            first, last, place, height = rectangle
            if last < birth:
                left.append(rectangle)
                continue
            if height not in now:
                now[height] = []
                insort(heights, height)
            insort(now[height], (last, -first, place))
        lowest = bisect_left(heights, size)
        for height in heights[lowest : lowest + _MOST_HEIGHTS]:
            number = bisect_left(now[height], (death,))
            if number < len(now[height]):
                last, first, place = now[height].pop(number)
                if not now[height]:
                    del now[height], heights[bisect_left(heights, height)]
                taken = (-first, last, place, height)
                break
        else:
            taken, top = (0, end, top, size), top + size
        places[block] = taken[2]
        for rest in _left_of(taken, size, birth, death):
            if rest[3] >= least and rest[1] >= birth:
                heapq.heappush(later, rest)
            else:
                left.append(rest)
    left += later
    left += [(-f, last, place, height) for height in now for last, f, place in now[height]]
    return left, top


def _left_of(taken: _Free, size: int, birth: int, death: int) -> list[_Free]:
    """Return what a block leaves free of a rectangle, at whose lowest place it lies."""
    first, last, place, height = taken
    rests = []
    if first < birth:
        rests.append((first, birth - 1, place, size))
    if death < last:
        rests.append((death + 1, last, place, size))
    if size < height:
        rests.append((first, last, place + size, height - size))
    return rests


def _smallest_gaps(sizes: Integers, births: Integers, deaths: Integers) -> tuple[Integers, int]:
    """Place the largest first, each in the smallest gap between the blocks alive beside it."""
    place = np.zeros_like(sizes)
    order = np.lexsort((births, -sizes))
    # What is placed already, by ascending place: start, stop, birth, death.
    placed = np.zeros((4, place.size), dtype=np.int64)
    for count, block in enumerate(order.tolist()):
        size, birth, death = sizes[block], births[block], deaths[block]
        start, stop, first, last = placed[:, :count]
        beside = np.flatnonzero((first <= death) & (last >= birth))
        # Gaps begin where all blocks below have ended; above the last one there is no end.
        gap = np.append(0, np.maximum.accumulate(stop[beside]))
        room = np.append(start[beside], _ENDLESS) - gap
        room[room < size] = 2 * _ENDLESS
        place[block] = here = gap[room.argmin()]
        position = np.searchsorted(start, here)
        placed[:, position + 1 : count + 1] = placed[:, position:count]
        placed[:, position] = here, here + size, birth, death
    return place, int((place + sizes).max())
