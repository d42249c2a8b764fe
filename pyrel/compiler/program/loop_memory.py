# SPDX-License-Identifier: Apache-2.0
"""The memory plan of programs with loops: values of all iterations are placed together.

As in `pyrel.compiler.program.memory`, what one operand touches as one run is a block. Blocks that
the same operands touch at the same places, each in an iteration of its own, are a family: the cell
states of a layer, say. Time is counted in items here, instructions or whole loops, and families are
placed by it, so planning a thousand steps takes hardly longer than planning ten. Within a loop
three things are known. What is needed only there, for a few iterations, takes a ring of places that
later blocks use again. What is read for the last time in a loop leaves its places, one after the
other, to a family that the loop writes. And a family that lives longer has a place for every block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import LINE
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Instruction, Repeat
from pyrel.compiler.program.limits import NO_LIMITS, Limits
from pyrel.compiler.program.memory import place_blocks

Integers = npt.NDArray[np.int64]
Items = tuple[Instruction | Repeat, ...]

_MOST_TRIED = 1 << 16  # pairs of families, that one might leave its places to the other
_MOST_BEHIND = 4  # iterations between the last use of a place and its next one


@dataclass(frozen=True, eq=False)
class _Touches:
    """What operands read or write: each from ``start`` to ``stop``; by ascending start."""

    start: Integers
    stop: Integers
    item: Integers
    iteration: Integers
    who: Integers  # which operand of which instruction, in which row of a body


@dataclass(frozen=True, eq=False)
class _Family:
    """Blocks in the order in which they are born; what lives in one loop only knows a ring."""

    blocks: Integers
    size: int  # floats, of each
    birth: int  # item
    death: int
    ring: int  # how many places they need


@dataclass(eq=False)
class _Line:
    """Places that a family has, and after it those that it leaves them to."""

    size: int  # floats, of a place
    birth: int
    death: int
    places: int
    held_from: int  # the item in which those who hold it now are born
    last: Integers = field(default_factory=lambda: np.zeros(0, np.int64))  # of a family, its blocks
    held: list[tuple[Integers, Integers]] = field(default_factory=list)  # blocks, their places


def plan_items(items: Items, limits: Limits = NO_LIMITS) -> tuple[Items, int]:
    """Let operands in the arena share memory, as `pyrel.compiler.program.memory.plan` does.

    Parameters
    ----------
    items : tuple of Instruction or Repeat
        In the order in which they will run, with a place of its own for every value.
    limits : Limits
        Of the number of families.

    Returns
    -------
    items : tuple of Instruction or Repeat
        The same with other offsets; every block starts on a cache line.
    arena_size : int
        Floats per sample that they address.
    """
    touches = _touches(items)
    first = _edges(touches)
    place, arena_size = _placed(touches, first, limits)
    start = touches.start[first]
    shift = place - start

    def moved(instruction: Instruction) -> Instruction:
        offsets = instruction.offsets.copy()
        for row, operand in enumerate(instruction.template.operands()):
            if operand.space == Space.arena:
                offsets[row] += shift[np.searchsorted(start, offsets[row], "right") - 1]
        return replace(instruction, offsets=offsets)

    found = tuple(
        replace(item, body=tuple(map(moved, item.body)))
        if isinstance(item, Repeat)
        else moved(item)
        for item in items
    )
    return found, arena_size


def _touches(items: Items) -> _Touches:
    columns: list[list[Integers]] = [[], [], [], [], []]
    who = 0
    for number, item in enumerate(items):
        body, count = (item.body, item.count) if isinstance(item, Repeat) else ((item,), 1)
        for instruction in body:
            rows = instruction.offsets.shape[1]
            iteration = np.arange(rows) // (rows // count)
            row = np.arange(rows) % (rows // count) if count > 1 else np.zeros(rows, np.int64)
            for operand, offsets in zip(
                instruction.template.operands(), instruction.offsets, strict=True
            ):
                if operand.space == Space.arena:
                    touched = offsets, offsets + operand.size
                    for column, values in zip(
                        columns,
                        (*touched, np.full(rows, number), iteration, who + row),
                        strict=True,
                    ):
                        column.append(values)
                who += rows // count if count > 1 else 1
    start, *others = (np.concatenate(column) for column in columns)
    order = np.argsort(start, kind="stable")
    return _Touches(start[order], *(other[order] for other in others))


def _edges(touches: _Touches) -> Integers:
    """Return the first touch of each block."""
    reach = np.maximum.accumulate(touches.stop)
    return np.flatnonzero(np.append(True, touches.start[1:] >= reach[:-1]))


def _placed(touches: _Touches, first: Integers, limits: Limits) -> tuple[Integers, int]:
    """Return where each block goes, and the size of the whole."""
    floats = np.maximum.reduceat(touches.stop, first) - touches.start[first]
    sizes = -(-floats // LINE) * LINE
    birth = np.minimum.reduceat(touches.item, first)
    death = np.maximum.reduceat(touches.item, first)
    block = np.repeat(np.arange(first.size), np.diff(np.append(first, touches.start.size)))
    at_birth, at_death = touches.item == birth[block], touches.item == death[block]
    far = int(touches.iteration.max()) + 1
    # By block: its first iteration in the item that it is born in, its last in that it dies in.
    begins = np.minimum.reduceat(np.where(at_birth, touches.iteration, far), first)
    ends = np.maximum.reduceat(np.where(at_death, touches.iteration, -1), first)
    families = []
    for alike in _alike(touches, first, block, limits):
        blocks = alike[np.argsort(begins[alike], kind="stable")]
        born, dead = int(birth[blocks[0]]), int(death[blocks[0]])
        ring = _ring(begins[blocks], ends[blocks]) if born == dead else blocks.size
        families.append(_Family(blocks, int(sizes[blocks].max()), born, dead, ring))
    lines = _lines(families, begins, ends)
    base, arena_size = place_blocks(
        np.array([line.places * line.size for line in lines]),
        np.array([line.birth for line in lines]),
        np.array([line.death for line in lines]),
    )
    place = np.zeros(first.size, dtype=np.int64)
    for origin, line in zip(base.tolist(), lines, strict=True):
        for blocks, places in line.held:
            place[blocks] = origin + places * line.size
    return place, arena_size


def _alike(
    touches: _Touches, first: Integers, block: Integers, limits: Limits
) -> Iterator[Integers]:
    """Yield the blocks of each family: those that the same operands touch at the same places."""
    within = touches.start - touches.start[first[block]]
    length = touches.stop - touches.start
    touch = _mixed(_mixed(_mixed(touches.who) + _mixed(within)) + length.astype(np.uint64))
    marks = np.add.reduceat(touch, first)
    order = np.argsort(marks, kind="stable")
    edges = np.flatnonzero(np.diff(marks[order])) + 1
    limits.check("values", edges.size + 1, "families of values")
    yield from np.split(order, edges)


def _ring(begins: Integers, ends: Integers) -> int:
    """How many places blocks need of which each is needed in one loop, for some iterations."""
    # Block i may leave its place to the first that begins after it ends, and to all behind that.
    behind = np.searchsorted(begins, ends, "right") - np.arange(begins.size)
    return max(1, int(behind.max()))


def _lines(families: list[_Family], begins: Integers, ends: Integers) -> list[_Line]:
    """Give places to families, those that others leave to them where they can."""
    lines: list[_Line] = []
    dying: dict[int, set[int]] = {}  # numbers of lines, by the item in which they do
    tried = 0
    for family in sorted(families, key=lambda f: (f.birth, -f.size)):
        blocks = family.blocks
        if family.ring == blocks.size > 1 and tried < _MOST_TRIED:
            dies = dying.get(family.birth, set())
            tried += len(dies)
            heirs = [
                (behind, line.size, number)
                for number in dies
                if (line := lines[number]).held_from < family.birth
                and line.size // 2 < family.size <= line.size
                and (behind := _behind(ends[line.last], begins[blocks]))
            ]
            if heirs:
                behind, _, number = min(heirs)
                dies.remove(number)
                _inherit(lines[number], behind, family, ends)
                dying.setdefault(family.death, set()).add(number)
                continue
        line = _Line(family.size, family.birth, family.death, family.ring, family.birth)
        _hold(line, family, np.arange(blocks.size) % family.ring, ends)
        dying.setdefault(line.death, set()).add(len(lines))
        lines.append(line)
    return lines


def _behind(ends: Integers, begins: Integers) -> int:
    """How many blocks later than one that dies, in this order, one is born in its place; or 0."""
    for behind in range(1, _MOST_BEHIND + 1):
        common = min(ends.size, begins.size - behind)
        if common > 0 and (ends[:common] < begins[behind : behind + common]).all():
            return behind
    return 0


def _inherit(line: _Line, behind: int, family: _Family, ends: Integers) -> None:
    known = dict(zip(*(each.tolist() for each in line.held[-1]), strict=True))
    left = [known[block] for block in line.last.tolist()][: family.blocks.size - behind]
    more = line.places + np.arange(family.blocks.size - len(left))
    line.places += more.size
    line.held_from, line.death = family.birth, family.death
    places = np.concatenate([more[:behind], np.array(left, np.int64), more[behind:]])
    _hold(line, family, places, ends)


def _hold(line: _Line, family: _Family, places: Integers, ends: Integers) -> None:
    line.held.append((family.blocks, places))
    line.last = family.blocks[np.argsort(ends[family.blocks], kind="stable")]


def _mixed(values: npt.NDArray[np.int64] | npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Hash 64 bits to 64 bits (the end of splitmix64)."""
    bits = values.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
