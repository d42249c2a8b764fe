# SPDX-License-Identifier: Apache-2.0
"""Derives a length-parametric program from the programs of a few numbers of steps.

A model over sequences is captured and lowered for a few lengths T, by
`pyrel.compiler.lowering.lower.lower_apart`, which leaves every value a place of its own.
`generalise` finds the loops of each (`pyrel.compiler.program.loops`), and from two of the programs
how everything depends on T: how often loops run, where their operands lie at T and in an iteration,
how many rows an instruction over all steps has. What it finds is checked with the other programs,
in every number::

    programs = {T: lower_apart(graph_of(T), method, low, high, precision)[0] for T in TRIED}
    pattern = generalise(programs)  # or NoPatternError: each T is lowered by itself

Results of what the pattern writes are those of the program that
`pyrel.compiler.lowering.lower.lower` makes for T, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any, cast

import numpy as np

from pyrel.compiler.program.instructions import Float32s, Gemm, Instruction, Map, Offsets, Repeat
from pyrel.compiler.program.loops import codes_of, loops, repeat
from pyrel.compiler.program.memory import pack
from pyrel.compiler.program.program import Contents, Program
from pyrel.compiler.program.rows import Growth, Rows, around_longest, slope_of
from pyrel.compiler.program.step_pattern import (
    STORED,
    Item,
    Part,
    Pattern,
    Share,
    stores_of,
)

# Numbers of steps to generalise from: what is done apart for up to eight values is behind them, and
# what is divided by sixteen is known exactly. Two show how numbers grow, and the last whether they
# grow so on: whatever depends on the parity of T, or on its remainder by four or five, does not.
TRIED = (10, 11, 16)
_MOST_TURNS = 4  # sequences whose rows come in turn
LEAST_LOOP = 3  # iterations that show how offsets go on


def generalise(programs: Mapping[int, Program]) -> Pattern:
    """Find the length-parametric program of which these are the instances at several T.

    Parameters
    ----------
    programs : mapping from int to Program
        At least three, of the same model and method, by T in ascending order, as
        `pyrel.compiler.lowering.lower.lower_apart` makes them. The smallest two must differ by one
        step. `TRIED` are numbers of steps that suffice for recurrent layers.

    Returns
    -------
    Pattern

    Raises
    ------
    NoPatternError
        If there is none: weights that depend on T, loops that do not run T + c times, or places
        that do not move in step.
    """
    steps = sorted(programs)
    if len(steps) < 3 or steps[1] != steps[0] + 1:
        raise ValueError(f"wanted programs of three numbers of steps or more, got {steps}")
    by_steps = [programs[n] for n in steps]
    fit = _Fit(steps, by_steps)
    items = tuple(fit.items())
    size = fit.growth([p.input_size for p in by_steps])
    classes = fit.growth([p.classes for p in by_steps])
    matrix_shares, vector_shares = fit.shares
    return Pattern(
        steps[0],
        size,
        classes,
        by_steps[0].conserves,
        items,
        *fit.stores,
        matrix_shares,
        vector_shares,
        fit.growing,
        keeps_forward=by_steps[0].keeps_forward,
    )


class NoPatternError(Exception):
    """Programs of different T are not of one pattern; the message says why."""


class _Fit:
    """Fits numbers at the same place of several programs as functions of T."""

    def __init__(self, steps: Sequence[int], programs: Sequence[Program]) -> None:
        self._steps = np.array(steps)
        self._programs = programs
        self._instructions = [cast(tuple[Instruction, ...], pack(p.instructions)) for p in programs]
        matrices, vectors, indices, tables = map(list, stores_of(programs[0]))
        self.stores = matrices, vectors, indices, tables
        self.shares: tuple[list[Share], list[Share]] = [], []
        self.growing: list[Rows] = []
        self._interned = [[[Contents(a) for a in s] for s in stores_of(p)] for p in programs]

    def growth(self, numbers: Sequence[int]) -> Growth:
        """Fit a number that the programs have in the order of their T."""
        values = self._affine(np.array(numbers, dtype=np.int64))
        return int(values[0]), int(values[1])

    def _affine(self, values: Offsets) -> Offsets:
        """Fit values, the first axis being T: the last axis of the result is as in `Growth`."""
        slope = slope_of(values, self._steps)
        if slope is None:
            raise NoPatternError("places or sizes do not grow evenly with the number of steps")
        return np.stack([values[0], slope], axis=-1)

    def items(self) -> list[Item]:
        """Fit the instructions."""
        cuts = [loops(codes_of(i), least_saved=1) for i in self._instructions]
        if len({tuple(period for _, period, _ in cut) for cut in cuts}) > 1:
            raise NoPatternError("loops depend on the number of steps")
        items: list[Item] = []
        for pieces in zip(*cuts, strict=True):
            period = pieces[0][1]
            counts = np.array([count for _, _, count in pieces])
            stretches = [
                instructions[start : start + period * count]
                for instructions, (start, _, count) in zip(self._instructions, pieces, strict=True)
            ]
            if (counts == counts[0]).all():
                items += [self._plain(each) for each in zip(*stretches, strict=True)]
            else:
                items += self._loop(stretches, period, counts)
        return items

    def _loop(self, stretches: list[Any], period: int, counts: Offsets) -> list[Item]:
        """Fit a loop; the first and last iterations stand alone where their places do not fit."""
        repeats = [repeat(stretch, period) for stretch in stretches]
        edges = np.array([_regular(r) for r in repeats])
        before, behind = edges.max(axis=0).tolist()
        count = self.growth((counts - before - behind).tolist())
        if count[0] < LEAST_LOOP or count[1] < 0:
            raise NoPatternError("a loop does not run once more for each further step")
        head = [s[: before * period] for s in stretches]
        middle = [s[before * period : len(s) - behind * period] for s in stretches]
        tail = [s[len(s) - behind * period :] for s in stretches]
        body = [
            self._rows(list(parts), counts - before - behind)
            for parts in zip(*(repeat(m, period).body for m in middle), strict=True)
        ]
        return [
            *(self._plain(each) for each in zip(*head, strict=True)),
            Item(tuple(body), count),
            *(self._plain(each) for each in zip(*tail, strict=True)),
        ]

    def _rows(self, parts: list[Instruction], counts: Offsets) -> Part:
        """Fit an instruction in the body of a loop."""
        offsets = [
            part.offsets.reshape(len(part.offsets), count, -1)
            for part, count in zip(parts, counts.tolist(), strict=True)
        ]
        if len({o.shape[2] for o in offsets}) > 1:
            raise NoPatternError("rows of a loop depend on the number of steps")
        strides = self._affine(np.stack([o[:, 1] - o[:, 0] for o in offsets]))
        starts = self._affine(np.stack([o[:, 0] for o in offsets]))
        lengths = np.tile(self._affine(counts), (starts.shape[1], 1))
        return self._part(parts, Rows(lengths, starts, strides))

    def _plain(self, instructions: Sequence[Instruction]) -> Item:
        """Fit an instruction of which each program has one."""
        offsets: Sequence[Offsets] = [i.offsets for i in instructions]
        if len({len(o) for o in offsets}) > 1:
            raise NoPatternError("operands depend on the number of steps")
        grow = len({o.shape[1] for o in offsets}) > 1
        if grow and isinstance(instructions[0].template, Gemm | Map):
            offsets = _in_turn(offsets)
        return Item((self._part(instructions, self._growing(offsets)),))

    def _growing(self, offsets: Sequence[Offsets]) -> Rows:
        """Fit rows of numbers."""
        if len({o.shape[1] for o in offsets}) == 1:
            starts = self._affine(np.stack(offsets))
            return Rows(np.tile([1, 0], (starts.shape[1], 1)), starts, np.zeros_like(starts))
        runs = [_runs(o) for o in offsets]
        if len({len(r) for r in runs}) > 1:
            raise NoPatternError("rows do not grow evenly with the number of steps")
        lengths = self._affine(np.stack([[stop - first for first, stop in r] for r in runs]))
        if (lengths[:, 1] < 0).any():
            raise NoPatternError("rows become fewer with more steps")
        starts = self._affine(
            np.stack([o[:, [first for first, _ in r]] for o, r in zip(offsets, runs, strict=True)])
        )
        strides = self._affine(
            np.stack([_strides(o, r) for o, r in zip(offsets, runs, strict=True)])
        )
        return Rows(lengths, starts, strides)

    def _part(self, instructions: Sequence[Instruction], rows: Rows) -> Part:
        templates = [i.template for i in instructions]
        if len({type(t) for t in templates}) > 1:
            raise NoPatternError("instructions depend on the number of steps")
        template, grows = self._record(templates, "")
        return Part(template, tuple(grows), rows)

    def _record(self, records: Sequence[Any], path: str) -> tuple[Any, list[tuple[str, int]]]:
        """Fit the fields of a dataclass."""
        changed: dict[str, Any] = {}
        grows = []
        for name in (f.name for f in fields(records[0])):
            values = [getattr(record, name) for record in records]
            if name in STORED:
                changed[name] = self._stored(STORED[name], values)
            elif is_dataclass(values[0]):
                changed[name], more = self._record(values, f"{path}{name}.")
                grows += more
            elif any(value != values[0] for value in values):
                if type(values[0]) is not int:
                    raise NoPatternError("options of instructions depend on the number of steps")
                grows.append((path + name, self.growth(values)[1]))
        return replace(records[0], **changed), grows

    def _stored(self, kind: int, numbers: Sequence[int]) -> int:
        """Return the number of what has these numbers in the programs' stores."""
        if -1 in numbers:
            if set(numbers) != {-1}:
                raise NoPatternError("a bias or vector is there for some numbers of steps only")
            return -1
        contents = [own[kind][n] for own, n in zip(self._interned, numbers, strict=True)]
        if all(content == contents[0] for content in contents):
            return numbers[0]
        if kind == 2:
            indices = [p.indices[n][None] for p, n in zip(self._programs, numbers, strict=True)]
            self.growing.append(self._growing(indices))
            return len(self.stores[2]) + len(self.growing) - 1
        if kind == 3:
            raise NoPatternError("a table depends on the number of steps")
        arrays: list[Float32s] = [
            stores_of(p)[kind][n] for p, n in zip(self._programs, numbers, strict=True)
        ]
        return len(self.stores[kind]) + self._share(arrays, self.shares[kind])

    def _share(self, arrays: Sequence[Float32s], shares: list[Share]) -> int:
        """Return the number of an array over T among others such."""
        steps = self._steps.tolist()
        exact = next((i for i, n in enumerate(steps) if n & (n - 1) == 0), 0)
        power = np.float32(steps[exact])
        for share in (Share(arrays[exact] * power, True), Share(arrays[exact] / power, False)):
            found = [share.at(n) for n in steps]
            if all(np.array_equal(f, a) for f, a in zip(found, arrays, strict=True)):
                break
        else:
            raise NoPatternError("weights depend on the number of steps")
        for number, known in enumerate(shares):
            if known.divided == share.divided and np.array_equal(known.one, share.one):
                return number
        shares.append(share)
        return len(shares) - 1


def _regular(loop: Repeat) -> tuple[int, int]:
    """Numbers of iterations before and behind the longest stretch of fixed strides."""
    fixed = np.ones(loop.count - 2, dtype=bool)
    for part in loop.body:
        places = part.offsets.reshape(len(part.offsets), loop.count, -1)
        fixed &= (np.diff(places, 2, axis=1) == 0).all(axis=(0, 2))
    return around_longest(fixed)


def _runs(offsets: Offsets) -> list[tuple[int, int]]:
    """Return (first, stop) of the stretches of rows with a fixed stride in every operand.

    A stretch has at least three rows: two would have a stride by chance.
    """
    runs, first = [], 0
    steps = np.diff(offsets, axis=1)
    while first < offsets.shape[1]:
        stop = first + 1
        while stop < offsets.shape[1] and (steps[:, stop - 1] == steps[:, first]).all():
            stop += 1
        stop = stop if stop - first > 2 else first + 1
        runs.append((first, stop))
        first = stop
    return runs


def _in_turn(offsets: Sequence[Offsets]) -> Sequence[Offsets]:
    """Put rows that go on in turn, as those of both directions do, one sequence after the other.

    The rows of a product or a copy do not depend on each other. Those that are in as many runs for
    each number of steps stay as they are.
    """
    for turns in range(1, _MOST_TURNS + 1):
        if any(o.shape[1] % turns for o in offsets):
            continue
        apart = [
            np.concatenate([o[:, first::turns] for first in range(turns)], axis=1) for o in offsets
        ]
        if len({len(_runs(o)) for o in apart}) == 1:
            return apart
    return offsets


def _strides(offsets: Offsets, runs: list[tuple[int, int]]) -> Offsets:
    """Return the stride of each run, zero for a single row; (operands, runs)."""
    return np.stack(
        [offsets[:, min(first + 1, stop - 1)] - offsets[:, first] for first, stop in runs], axis=1
    )
