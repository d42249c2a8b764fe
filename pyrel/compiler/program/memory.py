# SPDX-License-Identifier: Apache-2.0
"""The memory plan: places in the arena that are not needed at the same time share memory.

Instructions come here with a place of its own for every value. Places that one operand reads or
writes as one run must stay side by side: together they are a block. A block is alive from the first
instruction that touches it to the last. Rows of one instruction run in no particular order, so
blocks alive in the same instruction never overlap, not even where one ends there and the other
begins.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import LINE
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Instruction, Operand

Integers = npt.NDArray[np.int64]

_ENDLESS = 2**60  # floats


def plan(instructions: tuple[Instruction, ...]) -> tuple[tuple[Instruction, ...], int]:
    """Move the operands in the arena to memory that they share.

    Parameters
    ----------
    instructions : tuple of Instruction
        In the order in which they will run, with a place of its own for every value.

    Returns
    -------
    instructions : tuple of Instruction
        The same with other offsets; every block starts on a cache line.
    arena_size : int
        Floats per sample that they address.

    Raises
    ------
    AssertionError
        If an instruction reads what none before it wrote, which is a fault of the lowering.
    """
    _check_written_before_read(instructions)
    start, stop, births, deaths = _blocks(instructions)
    sizes = -(-(stop - start) // LINE) * LINE
    place, arena_size = place_blocks(sizes, births, deaths)
    return _moved(instructions, start, place), arena_size


def _in_arena(instruction: Instruction) -> Iterator[tuple[int, Operand]]:
    for row, operand in enumerate(instruction.template.operands()):
        if operand.space == Space.arena:
            yield row, operand


def _check_written_before_read(instructions: tuple[Instruction, ...]) -> None:
    ends = [i.offsets[row].max() + o.size for i in instructions for row, o in _in_arena(i)]
    written = np.zeros(max(ends, default=0), dtype=bool)
    for number, instruction in enumerate(instructions):
        touched = [
            (operand, written[offset : offset + operand.size])
            for row, operand in _in_arena(instruction)
            for offset in instruction.offsets[row].tolist()
        ]
        if not all(part.all() for o, part in touched if o.read and o.whole):
            raise AssertionError(
                f"instruction {number} reads what no earlier one wrote: {instruction}"
            )
        for operand, part in touched:
            if operand.written:
                part[:] = True


def pack(instructions: tuple[Instruction, ...]) -> tuple[Instruction, ...]:
    """Put all that operands touch in the arena side by side, with nothing between."""
    start, stop, _, _ = _blocks(instructions)
    return _moved(instructions, start, np.cumsum(stop - start) - (stop - start))


def _moved(
    instructions: tuple[Instruction, ...], start: Integers, place: Integers
) -> tuple[Instruction, ...]:
    """Move the blocks that start there to their places."""
    shift = place - start
    moved = []
    for instruction in instructions:
        offsets = instruction.offsets.copy()
        for row, _ in _in_arena(instruction):
            offsets[row] += shift[np.searchsorted(start, offsets[row], "right") - 1]
        moved.append(replace(instruction, offsets=offsets))
    return tuple(moved)


def _blocks(
    instructions: tuple[Instruction, ...],
) -> tuple[Integers, Integers, Integers, Integers]:
    """Cut the arena wherever no operand reaches across: starts, stops, births, deaths."""
    starts, stops, times = [], [], []
    for number, instruction in enumerate(instructions):
        for row, operand in _in_arena(instruction):
            offsets = instruction.offsets[row]
            starts.append(offsets)
            stops.append(offsets + operand.size)
            times.append(np.full_like(offsets, number))
    start, stop, time = (np.concatenate(each) for each in (starts, stops, times))
    order = np.argsort(start, kind="stable")
    start, stop, time = start[order], stop[order], time[order]
    reach = np.maximum.accumulate(stop)
    first = np.flatnonzero(np.append(True, start[1:] >= reach[:-1]))
    birth, death = np.minimum.reduceat(time, first), np.maximum.reduceat(time, first)
    return start[first], np.maximum.reduceat(stop, first), birth, death


def place_blocks(sizes: Integers, births: Integers, deaths: Integers) -> tuple[Integers, int]:
    """Place the largest first, each in the smallest gap between the blocks alive beside it.

    Parameters
    ----------
    sizes : ndarray
        In floats; of whole cache lines.
    births, deaths : ndarray
        The first and the last moment at which each is needed.

    Returns
    -------
    place : ndarray
        Of each block.
    size : int
        Of the whole.
    """
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
