# SPDX-License-Identifier: Apache-2.0
"""Sums over many rows, against NumPy in float64 and bit by bit between instruction sets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine.building_programs import Building, Space, epilogue
from engine.running import ARENA, INPUT, instruction, program, run

from pyrel import _core
from pyrel.compiler.program.instructions import Epilogue, Map, Operand, Reduce

EPS = float(np.finfo(np.float32).eps)  # twice the largest error of one rounding
ISAS = _core.instruction_sets()
SAMPLES = 19  # more than one group of lanes, and not a whole number of them
ROWS = 2


def normal(*shape: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def strides(columns: int) -> tuple[int, ...]:
    """Return distances of terms that overlap, follow each other, and have a gap between them."""
    return (1, columns, columns + 3)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("columns", [1, 3, 16, 37, 70])
@pytest.mark.parametrize("count", [1, 17, 4097])
@pytest.mark.parametrize("accumulate", [False, True])
def test_sums_of_many_rows(isa: str, columns: int, count: int, accumulate: bool) -> None:
    """Against float64: n additions round n times, each by at most ε/2 of Σ|a|."""
    for stride in strides(columns):
        span = (count - 1) * stride + columns
        x = normal(SAMPLES, span + 5 + ROWS * columns)
        before = x[:, -ROWS * columns :]
        reduce = Reduce(INPUT, count, stride, columns, ARENA, accumulate)
        steps = [
            instruction(Map(INPUT, ROWS * columns, ARENA), [span + 5], [0]),
            instruction(reduce, [0, 5], [0, columns]),
        ]
        found, _ = run(program(ROWS * columns), steps, x, 0, ROWS * columns, isa)
        for row, first in enumerate((0, 5)):
            places = first + stride * np.arange(count)[:, None] + np.arange(columns)
            terms = x[:, places].astype(np.float64)
            own = slice(row * columns, (row + 1) * columns)
            wanted = terms.sum(1) + accumulate * before[:, own]
            size = np.abs(terms).sum(1) + accumulate * np.abs(before[:, own])
            assert (np.abs(found[:, own] - wanted) <= (count + 1) / 2 * EPS * size).all()


def of_terms(x: Any, count: int, stride: int, columns: int, isa: str, by_maps: bool) -> bytes:
    """Sum terms by one instruction or by one each; returns the bits."""
    reduce = instruction(Reduce(INPUT, count, stride, columns, ARENA), [0], [0])
    add = Map(INPUT, columns, ARENA, Epilogue(accumulate=True))
    maps = [
        instruction(Map(None, columns, ARENA), [0]),
        *(instruction(add, [i * stride], [0]) for i in range(count)),
    ]
    steps = maps if by_maps else [reduce]
    found: bytes = run(program(columns), steps, x, 0, columns, isa)[0].tobytes()
    return found


@pytest.mark.parametrize("columns", [1, 8, 37, 130])
def test_bits_are_those_of_additions_one_by_one(columns: int) -> None:
    """On every instruction set; zeros below zero, too."""
    count = 23
    for stride in strides(columns):
        x = normal(SAMPLES, (count - 1) * stride + columns)
        x[::4] = -0.0
        every = {of_terms(x, count, stride, columns, isa, False) for isa in ISAS}
        assert every == {of_terms(x, count, stride, columns, ISAS[0], True)}


def test_gaps_may_be_unwritten() -> None:
    """Only what is added up must be there, and only that keeps its memory's contents."""
    assert Reduce(ARENA, 3, 4, 2, ARENA).operands() == (
        Operand(ARENA, 10, whole=False),
        Operand(ARENA, 2, False, True),
    )
    assert Reduce(ARENA, 3, 2, 2, ARENA, True).operands() == (
        Operand(ARENA, 6),
        Operand(ARENA, 2, True, True),
    )
    x = normal(SAMPLES, 6)
    steps = [
        instruction(Map(INPUT, 2, ARENA), [0, 2, 4], [0, 4, 8]),
        instruction(Reduce(ARENA, 3, 4, 2, ARENA), [0], [10]),
    ]
    found, _ = run(program(12), steps, x, 10, 2, "baseline")
    np.testing.assert_array_equal(found, (x[:, :2] + x[:, 2:4]) + x[:, 4:])


def test_parts_of_an_instruction_keep_the_order() -> None:
    """Where so much is touched that rows run part by part, sums wait for all that they read."""
    rows, columns = 64, 1024
    x = normal(SAMPLES, rows * columns)
    firsts = np.arange(rows) * columns
    behind = rows * columns
    steps = [
        instruction(Map(INPUT, columns, ARENA), firsts, firsts),
        instruction(Reduce(ARENA, 2, columns, columns, ARENA), firsts[-2::-1], behind + firsts[1:]),
        instruction(Reduce(ARENA, rows - 1, columns, columns, ARENA), [behind + columns], [0]),
    ]
    found, _ = run(program(2 * behind), steps, x, 0, columns, ISAS[-1])
    terms = x.reshape(SAMPLES, rows, columns)
    wanted = np.zeros((SAMPLES, columns), np.float32)
    for first in range(rows - 2, -1, -1):
        wanted += terms[:, first] + terms[:, first + 1]
    np.testing.assert_array_equal(found, wanted)


def test_looking_for_scattered_terms_is_limited() -> None:
    own = Building(input_size=2, arena_size=40, classes=1, conserves=False, most_looked_up=5)
    for place in range(0, 40, 4):
        own.map((Space.input, [0]), 2, (Space.arena, [place]), epilogue())
    own.reduce((Space.arena, [0]), 5, 4, 2, (Space.arena, [2]), False)
    with pytest.raises(ValueError, match="reads scattered places"):
        own.reduce((Space.arena, [8]), 5, 4, 2, (Space.arena, [38]), False)


def test_what_a_sum_takes_counts_as_work() -> None:
    own = Building(input_size=100, arena_size=4, classes=1, conserves=False, most_work=300.0)
    own.reduce((Space.input, [0]), 99, 1, 2, (Space.arena, [0]), False)
    with pytest.raises(ValueError, match="more work"):
        own.reduce((Space.input, [0]), 99, 1, 2, (Space.arena, [0]), False)
