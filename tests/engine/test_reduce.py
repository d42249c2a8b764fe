# SPDX-License-Identifier: Apache-2.0
"""Sums over many rows, and the way back, against NumPy in float64 and bit by bit between sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.running import ARENA, INPUT, instruction, program, run
from engine.test_repeats import HIDDEN, STATE, outputs

from pyrel import _core, methods
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Map, Reduce, Repeat, Seed, Spread
from pyrel.engine.compiled import Compiled
from pyrel.engine.inputs import Inputs
from pyrel.engine.loaded import bind
from pyrel.engine.plan import EXPLAIN
from pyrel.engine.program_file import read_program, write_program
from pyrel.methods.enums import Start

EPS = float(np.finfo(np.float32).eps)
ISAS = _core.instruction_sets()
SAMPLES = 29
SHAPES = [(1, 1), (3, 5), (8, 16), (9, 17), (50, 37), (784, 3)]  # rows and columns


def scattered(rows: int, columns: int) -> Any:
    """Return where rows begin, in no order and apart by a gap."""
    return np.random.default_rng(1).permutation(rows) * (columns + 2)


@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_sums_of_rows(rows: int, columns: int) -> None:
    """A part has ⌈rows / 8⌉ rows, the first added to 0; eight parts are three additions deep."""
    places, factor = scattered(rows, columns), np.float32(1 / rows)
    span = rows * (columns + 2)
    x = np.random.default_rng(0).standard_normal((SAMPLES, span + 1)).astype(np.float32)
    found = []
    for isa in ISAS:
        own = program(2 * columns)
        template = Reduce(INPUT, span, own.index(places), columns, ARENA, float(factor))
        step = instruction(template, [1, 0], [0, columns])
        found.append(run(own, [step], x, 0, 2 * columns, isa)[0])
    assert {each.tobytes() for each in found} == {found[0].tobytes()}
    taken = places[:, None] + np.arange(columns)
    terms = np.concatenate([x[:, taken + 1], x[:, taken]], axis=2).astype(np.float64)
    roundings = -(-rows // 8) - 1 + 3 + 1
    error = np.abs(found[0] - float(factor) * terms.sum(axis=1))
    bound = roundings * EPS / 2 * (1 + EPS) ** roundings * float(factor) * np.abs(terms).sum(axis=1)
    assert (error <= bound).all(), (error - bound).max()


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize(("rows", "columns"), SHAPES)
def test_values_are_spread_over_rows(rows: int, columns: int, accumulate: bool) -> None:
    places, factor = scattered(rows, columns), np.float32(1 / rows)
    span = rows * (columns + 2)
    x = np.random.default_rng(0).standard_normal((SAMPLES, span + columns)).astype(np.float32)
    wanted = x[:, :span].copy()
    taken = places[:, None] + np.arange(columns)
    wanted[:, taken] = (factor * x[:, None, span:]) + (wanted[:, taken] if accumulate else 0)
    for isa in ISAS:
        own = program(span)
        template = Spread(INPUT, span, own.index(places), columns, ARENA, float(factor), accumulate)
        copy = instruction(Map(INPUT, span, ARENA), [0], [0])
        step = instruction(template, [span], [0])
        found, _ = run(own, [copy, step], x, 0, span, isa)
        np.testing.assert_array_equal(found, wanted)


def test_rows_that_lie_over_each_other_are_added_one_by_one() -> None:
    x = np.array([[1.5, 2.0]], np.float32)
    own = program(3)
    template = Spread(INPUT, 3, own.index([0, 1, 0]), 2, ARENA, 2.0, True)
    steps = [instruction(Map(None, 3, ARENA), [0]), instruction(template, [0], [0])]
    found, _ = run(own, steps, x, 0, 3, ISAS[-1])
    np.testing.assert_array_equal(found, [[6.0, 11.0, 4.0]])


def in_a_repeat(steps: int) -> Any:
    """Return a program whose states are each spread from the sum of parts of the one before."""
    own = program(0)
    t = np.arange(steps)
    summed = (steps + 1) * HIDDEN
    index = own.index([0, 12, 4])
    spread = Spread(ARENA, 16, index, 4, ARENA, 0.75, True)
    body = (
        instruction(Reduce(ARENA, 16, index, 4, ARENA, 0.5), t * HIDDEN, summed + 4 * t),
        instruction(Map(INPUT, HIDDEN, ARENA), t * HIDDEN, (t + 1) * HIDDEN),
        instruction(spread, summed + 4 * t, (t + 1) * HIDDEN),
    )
    own.input_size, own.classes = steps * HIDDEN, HIDDEN
    own.arena_size = summed + 4 * steps + HIDDEN
    own.instructions = (
        instruction(Map(INPUT, HIDDEN, ARENA), [0], [STATE]),
        Repeat(body, steps),
        instruction(Seed(HIDDEN, Start.one), [steps * HIDDEN], [summed + 4 * steps]),
        instruction(Map(INPUT, own.input_size, Space.relevance), [0], [0]),
    )
    return own


def test_reductions_are_repeated_and_kept_in_files(tmp_path: Path) -> None:
    steps, file = 3, tmp_path / "program"
    own = in_a_repeat(steps)
    x = np.random.default_rng(1).standard_normal((7, steps * HIDDEN)).astype(np.float32)
    wanted = x[:, :HIDDEN].copy()
    for t in range(steps):
        parts = [wanted[:, i : i + 4] for i in (0, 12, 4)]
        # Of three rows each is a part of its own; parts 0 and 2 are added first.
        total = np.float32(0.5) * ((parts[0] + parts[2]) + parts[1])
        wanted = x[:, t * HIDDEN : (t + 1) * HIDDEN].copy()
        for i in (0, 12, 4):
            wanted[:, i : i + 4] += np.float32(0.75) * total
    np.testing.assert_array_equal(outputs(bind(own, ISAS[-1]), x), wanted)
    write_program(file, methods.Gradient(), Inputs((steps, HIDDEN)), Compiled({EXPLAIN: own}))
    *_, compiled = read_program(file, ISAS[-1])
    np.testing.assert_array_equal(outputs(bind(compiled.program, ISAS[-1]), x), wanted)
