# SPDX-License-Identifier: Apache-2.0
"""The memory plan: values that are not needed at the same time share memory.

Instructions come here with a place of its own for every value. What operands read or write as one
run of floats must stay side by side: together it is a block. A block is alive from the first
instruction that touches it to the last. Rows of one instruction run in no particular order, so
blocks alive in the same instruction never overlap, not even where one ends there and the other
begins.

A loop of many iterations makes many blocks. Blocks of one size that are born in the same
instruction, and die in the same one, are a live-range class; where there are more blocks than the
plan has time for, those of a class that follow each other are placed as one.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.compiler.limits import LINE
from pyrel.compiler.program.block_placement import place
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.file_limits import NO_LIMITS, Limits
from pyrel.compiler.program.instructions import Instruction, Operand, Repeat, Seed

Integers = npt.NDArray[np.int64]
Items: TypeAlias = Sequence[Instruction | Repeat]

_MOST_BLOCKS = 1 << 12  # or pieces of several, that are placed


def plan(
    items: Items, limits: Limits = NO_LIMITS, *, keep_forward: bool = False
) -> tuple[tuple[Instruction | Repeat, ...], int]:
    """Move the operands in the arena to memory that they share.

    Parameters
    ----------
    items : sequence of Instruction or Repeat
        In the order in which they will run, with a place of its own for every value.
    limits : Limits
        Of the number of live-range classes.
    keep_forward : bool
        Whether what is written before the seed, and read behind it, stays to the end. For items in
        the order of `pyrel.compiler.program.keep_forward.forward_first`.

    Returns
    -------
    items : tuple of Instruction or Repeat
        The same with other offsets; every block starts on a cache line.
    arena_size : int
        Floats per sample that they address.

    Raises
    ------
    ValueError
        If there are more live-range classes than the limits allow.
    """
    blocks = _blocks(items)
    if keep_forward:
        blocks = _kept_behind(blocks, _moment_of_seed(items))
    sizes = -(-(blocks.stop - blocks.start) // LINE) * LINE
    places, arena_size = _placed(sizes, blocks, limits)
    return _moved(items, blocks.start, places), arena_size


def pack(items: Items) -> tuple[Instruction | Repeat, ...]:
    """Put all that operands touch in the arena side by side, with nothing between."""
    blocks = _blocks(items)
    sizes = blocks.stop - blocks.start
    return _moved(items, blocks.start, np.cumsum(sizes) - sizes)


def _moved(items: Items, start: Integers, places: Integers) -> tuple[Instruction | Repeat, ...]:
    """Move the blocks that start there to their places."""
    shift = places - start

    def moved(instruction: Instruction) -> Instruction:
        offsets = instruction.offsets.copy()
        for row, _ in _in_arena(instruction):
            offsets[row] += shift[np.searchsorted(start, offsets[row], "right") - 1]
        return replace(instruction, offsets=offsets)

    return tuple(
        replace(item, body=tuple(map(moved, item.body)))
        if isinstance(item, Repeat)
        else moved(item)
        for item in items
    )


def _in_arena(instruction: Instruction) -> Iterator[tuple[int, Operand]]:
    for row, operand in enumerate(instruction.template.operands()):
        if operand.space == Space.arena:
            yield row, operand


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Blocks by ascending start.

    Attributes
    ----------
    start, stop : ndarray
        The floats of each.
    birth, death : ndarray
        The first and last moment at which each is alive; every run of an instruction is a moment.
    instruction : ndarray
        By moment, which one runs; those in loops are numbered once.
    """

    start: Integers
    stop: Integers
    birth: Integers
    death: Integers
    instruction: Integers


def _blocks(items: Items) -> _Blocks:
    """Cut the arena wherever no operand reaches across."""
    starts, stops, moments = [], [], []
    order: list[Integers] = []
    now = number = 0
    for item in items:
        body, count = (item.body, item.count) if isinstance(item, Repeat) else ((item,), 1)
        for position, instruction in enumerate(body):
            rows = instruction.offsets.shape[1]
            moment = now + position + len(body) * (np.arange(rows) // (rows // count))
            for row, operand in _in_arena(instruction):
                starts.append(instruction.offsets[row])
                stops.append(instruction.offsets[row] + operand.size)
                moments.append(moment)
        order.append(np.tile(np.arange(number, number + len(body)), count))
        now, number = now + len(body) * count, number + len(body)
    start, stop, moment = (np.concatenate(each) for each in (starts, stops, moments))
    ascending = np.argsort(start, kind="stable")
    start, stop, moment = start[ascending], stop[ascending], moment[ascending]
    reach = np.maximum.accumulate(stop)
    first = np.flatnonzero(np.append(True, start[1:] >= reach[:-1]))
    return _Blocks(
        start[first],
        np.maximum.reduceat(stop, first),
        np.minimum.reduceat(moment, first),
        np.maximum.reduceat(moment, first),
        np.concatenate(order),
    )


def _moment_of_seed(items: Items) -> int:
    """Return at which moment the seed runs."""
    now = 0
    for item in items:
        if isinstance(item, Repeat):
            now += len(item.body) * item.count
        elif isinstance(item.template, Seed):
            break
        else:
            now += 1
    return now


def _kept_behind(blocks: _Blocks, moment: int) -> _Blocks:
    """Keep blocks to the end that are born before a moment, and alive then."""
    kept = (blocks.birth < moment) & (blocks.death >= moment)
    return replace(blocks, death=np.where(kept, blocks.instruction.size - 1, blocks.death))


def _placed(sizes: Integers, blocks: _Blocks, limits: Limits) -> tuple[Integers, int]:
    """Return a place for each block, and the size of the whole."""
    birth, death = blocks.birth, blocks.death
    key = np.stack([sizes, blocks.instruction[birth], blocks.instruction[death]])
    order = np.lexsort((birth, *key))
    changes = (np.diff(key[:, order], axis=1) != 0).any(axis=0)
    first = np.flatnonzero(np.append(True, changes))  # of each class
    counts = np.diff(np.append(first, order.size))
    limits.check("values", first.size, "live-range classes of values")
    together = -(-counts // _most_pieces(counts))  # blocks, that are placed as one piece
    within = np.arange(order.size) - np.repeat(first, counts)
    behind = within % np.repeat(together, counts)
    piece = np.flatnonzero(behind == 0)
    ascending = np.argsort(order[piece])  # so that places depend on classes for many blocks only
    places = np.empty_like(piece)
    places[ascending], arena_size = place(
        np.add.reduceat(sizes[order], piece)[ascending],
        np.minimum.reduceat(birth[order], piece)[ascending],
        np.maximum.reduceat(death[order], piece)[ascending],
    )
    lengths = np.diff(np.append(piece, order.size))
    found = np.empty_like(sizes)
    found[order] = np.repeat(places, lengths) + behind * sizes[order]
    return found, arena_size


def _most_pieces(counts: Integers) -> int:
    """Return into how many pieces a class of that many blocks may be cut at most."""
    most = range(1, int(counts.max()) + 1)
    return max(1, bisect_right(most, _MOST_BLOCKS, key=lambda n: np.minimum(counts, n).sum()))
