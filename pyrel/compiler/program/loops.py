# SPDX-License-Identifier: Apache-2.0
"""Loops in programs: consecutive repetitions of some instructions become one `Repeat`.

Recurrent layers are unrolled while a model is captured, so a program of a thousand steps has tens
of thousands of instructions, most of which differ in their offsets only. Rolling changes neither
the instructions nor their order, and offsets may be any.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pyrel.compiler.program.instructions import Instruction, Repeat, Seed, Template

LONGEST_BODY = 1024  # instructions
LEAST_SAVED = 16  # instructions: a program of a few steps reads better as it is

Codes = npt.NDArray[np.int64]


def roll(instructions: Sequence[Instruction]) -> tuple[Instruction | Repeat, ...]:
    """Replace repetitions among instructions by loops, the one that saves most first.

    Parameters
    ----------
    instructions : sequence of Instruction

    Returns
    -------
    tuple of Instruction or Repeat
        The same, in the same order.
    """
    rolled: list[Instruction | Repeat] = []
    for start, period, count in loops(codes_of(instructions)):
        if count == 1:
            rolled += instructions[start : start + period]
        else:
            rolled.append(repeat(instructions[start : start + period * count], period))
    return tuple(rolled)


def codes_of(instructions: Sequence[Instruction]) -> Codes:
    """Assign numbers to instructions, by template and number of rows.

    A seed gets a number of its own: a program has one, and a `Repeat` cannot hold it.
    """
    known: dict[tuple[Template, int], int] = {}
    codes = [known.setdefault((i.template, i.offsets.shape[1]), len(known)) for i in instructions]
    seeds = [-1 - n if isinstance(i.template, Seed) else 0 for n, i in enumerate(instructions)]
    return np.where(seeds, seeds, codes)


def loops(codes: Codes, least_saved: int = LEAST_SAVED) -> list[tuple[int, int, int]]:
    """Cut a sequence into (start, period, count): ``period`` elements that come ``count`` times."""
    found = []
    left = [(0, codes.size)]
    while left:
        start, stop = left.pop()
        if start == stop:
            continue
        first, period, count = _most_saving(codes[start:stop])
        if (count - 1) * period < least_saved:
            found.append((start, stop - start, 1))
            continue
        found.append((start + first, period, count))
        left += [(start, start + first), (start + first + period * count, stop)]
    return sorted(found)


def _most_saving(codes: Codes) -> tuple[int, int, int]:
    """Start, period and count of the repetition that saves most instructions."""
    best = (0, codes.size, 1)
    saved = 0
    for period in range(1, min(LONGEST_BODY, codes.size // 2) + 1):
        changes = np.flatnonzero(codes[period:] != codes[:-period])
        edges = np.concatenate([[-1], changes, [codes.size - period]])
        lengths = np.diff(edges) - 1
        longest = int(lengths.argmax())
        count = int(lengths[longest]) // period + 1
        if (count - 1) * period > saved:
            saved = (count - 1) * period
            best = (int(edges[longest]) + 1, period, count)
    return best


def repeat(instructions: Sequence[Instruction], period: int) -> Repeat:
    """Make a loop of instructions, each of which returns after ``period`` instructions."""
    body = [
        Instruction(
            instructions[place].template,
            np.concatenate([i.offsets for i in instructions[place::period]], axis=1),
        )
        for place in range(period)
    ]
    return Repeat(tuple(body), len(instructions) // period)
