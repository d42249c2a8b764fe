# SPDX-License-Identifier: Apache-2.0
"""Samples in lanes give the bits that they give one by one, whatever the model and the batch."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import Floats, by_name, compiled, inputs
from engine.checks import unchecked
from engine.running import ARENA, INPUT, instruction
from engine.zoo import Exhibit, every_exhibit
from torch import nn

import pyrel
from pyrel import _core
from pyrel._core import Outcome
from pyrel.compiler.program.enums import Post, Share
from pyrel.compiler.program.instructions import Absorb, Epilogue, Gather, Gemm, Map, Scatter, Seed
from pyrel.compiler.program.program import Program
from pyrel.engine.loaded import bind
from pyrel.methods.enums import Start

LANES = 16  # of the widest vectors
BATCHES = (LANES - 1, 2 * LANES + 1)


def results(core: Any, x: Floats, classes: int, in_lanes: bool | None, threads: int) -> Any:
    """Run a program; return all that it writes, as bytes."""
    n = len(x)
    relevance = np.full(x.shape, np.nan, np.float32) if core.explains else None
    places = (
        relevance,
        np.full((n, classes), np.nan, np.float32),
        np.full(n, -1),
        *(np.full(n, np.nan, np.float32) for _ in range(3)),
    )
    status = core.run(x, None, None, None, True, threads, *places, in_lanes=in_lanes)
    assert status.outcome == Outcome.done
    return [place.tobytes() for place in places if place is not None]


def assert_same(core: Any, x: Floats, classes: int) -> None:
    """In lanes and one by one, for batches around whole groups of lanes."""
    for count in BATCHES:
        some = np.ascontiguousarray(x[:count], np.float32)
        apart = results(core, some, classes, False, 1)
        assert results(core, some, classes, True, 2) == apart, count


@every_exhibit
@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon", "deep_taylor"])
def test_models(exhibit: Exhibit, method: str) -> None:
    if method == "deep_taylor" and not exhibit.explained_by_deep_taylor:
        return
    try:
        explainer = exhibit.compiled(method)
    except pyrel.UnsupportedModelError:
        return
    core = explainer._programs.at(explainer.inputs.steps).core
    assert_same(core, exhibit.inputs, explainer.classes)


@functools.cache
def large_cell(x_shape: tuple[int, ...]) -> Any:
    return pyrel.capture(pyrel.nn.ConvDeep.for_majority(12).eval(), np.zeros(x_shape, np.float32))


@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon", "deep_taylor"])
def test_a_cell_whose_steps_do_not_fit_a_cache_together(method: str) -> None:
    """Its convolutions run step by step."""
    x = np.random.default_rng(0).random((max(BATCHES), 12, 28, 7), np.float32)
    explainer = unchecked(large_cell(x[:1].shape), x[:1], method=method, low=0.0, high=1.0)
    core = explainer._programs.at(12).core
    assert core.gain_in_lanes > 1.05
    assert_same(core, x, explainer.classes)


ROWS, WIDTH = 256, 64
FIRST = [row * WIDTH for row in range(ROWS)]
SECOND = [(ROWS + row) * WIDTH for row in range(ROWS)]
PLAIN, SQUARE, SUM = Epilogue(), Epilogue(post=Post.square), Epilogue(accumulate=True)


def long_program(between: Callable[[Program], list[Any]]) -> _core.Engine:
    """Return rows that are computed, ``between``, and summed up: too many for a cache."""
    size = ROWS * WIDTH
    program = Program(input_size=ROWS, classes=3, conserves=False, arena_size=2 * size + 8)
    weight = program.matrix(np.linspace(-1.0, 1.0, WIDTH)[None])
    spread = instruction(Gemm(((INPUT, 1),), weight, WIDTH, ARENA), range(ROWS), FIRST)
    total = program.matrix(np.cos(np.arange(size * 3)).reshape(-1, 3))
    output = Gemm(((ARENA, size),), total, 3, ARENA)
    steps = [
        spread,
        *between(program),
        instruction(output, [size], [2 * size]),
        instruction(Seed(3, Start.one), [2 * size], [2 * size + 4]),
    ]
    program.instructions = tuple(steps)
    return bind(program, _core.instruction_sets()[-1])


def copy(source: list[int] | None, out: list[int], epilogue: Epilogue = PLAIN) -> Any:
    """Return the instruction that copies rows, or writes what the epilogue makes of zero."""
    offsets = [out] if source is None else [source, out]
    return instruction(Map(None if source is None else ARENA, WIDTH, ARENA, epilogue), *offsets)


def turned(program: Program) -> list[Any]:
    """Return a gather and a scatter of rows in reverse."""
    index = program.index(np.arange(WIDTH)[::-1].copy())
    return [
        instruction(Gather(ARENA, WIDTH, index, WIDTH, ARENA), FIRST, SECOND),
        instruction(Scatter(ARENA, WIDTH, index, WIDTH, ARENA), FIRST, SECOND),
    ]


BETWEEN = {
    "in order": [copy(FIRST, SECOND, SQUARE)],
    # Rows of the first part read what the last one writes.
    "reversed": [copy(FIRST[::-1], SECOND)],
    # The first part writes over what the last one has still to read.
    "there and back": [copy(FIRST, SECOND), copy(SECOND[::-1], FIRST), copy(FIRST, SECOND, SQUARE)],
    # All parts read, and one writes, a row that cannot be divided.
    "one row": [copy(FIRST, SECOND), copy(None, FIRST[-1:]), copy(FIRST[-1:] * ROWS, SECOND, SUM)],
}


@pytest.mark.parametrize("name", [*BETWEEN, "turned"])
def test_parts_of_rows_keep_the_order_that_matters(name: str) -> None:
    x = np.random.default_rng(1).normal(size=(max(BATCHES), ROWS)).astype(np.float32)
    between = turned if name == "turned" else lambda _: BETWEEN[name]
    assert_same(long_program(between), x, 3)


def test_what_is_absorbed_is_summed_in_one_order() -> None:
    """Shares so large that every other order of their sum rounds to another one."""
    wave = np.cos(3 * np.arange(WIDTH))

    def shares(program: Program) -> list[Any]:
        vectors = [program.vector(each) for each in (1e17 * wave, np.cos(wave), -1e17 * wave)]
        absorbs = [Absorb(ARENA, each, WIDTH, Share.weighted, None, 0.0) for each in vectors]
        return [copy(FIRST, SECOND, SQUARE), *(instruction(each, FIRST) for each in absorbs)]

    x = np.random.default_rng(1).normal(size=(max(BATCHES), ROWS)).astype(np.float32)
    assert_same(long_program(shares), x, 3)


def test_a_failed_run_leaves_the_relevance_alone() -> None:
    case = by_name("Elman")
    explainer = compiled(case, "gradient")
    core = explainer._programs.at(explainer.inputs.steps).core
    x = inputs(case, 2 * LANES).copy()
    x[3] = np.finfo(np.float32).max  # overflows, and is found in the outputs
    for in_lanes in (False, True):
        relevance = np.full(x.shape, 7.0, np.float32)
        n, classes = len(x), explainer.classes
        places = (
            relevance,
            np.empty((n, classes), np.float32),
            np.empty(n, np.int64),
            *(np.empty(n, np.float32) for _ in range(3)),
        )
        status = core.run(x, None, None, None, True, 1, *places, in_lanes=in_lanes)
        assert (status.outcome, status.sample) == (Outcome.output_not_finite, 3)
        assert (relevance == 7.0).all()


def test_values_that_are_not_finite_give_the_same_in_every_batch() -> None:
    """A NaN times a weight of zero is NaN, which lanes would leave out."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(192, 2))
    explainer = unchecked(
        model.eval(), torch.zeros(1, 1, 8, 8), method="gradient", check_finite=False
    )
    x = np.random.default_rng(0).random((2 * LANES, 1, 8, 8), np.float32)
    x[0, 0, 3, 4] = np.nan
    assert explainer._programs.at(1).core.gain_in_lanes > 1.05
    whole, single = explainer(x), explainer(x[:1])
    assert whole.relevance[:1].tobytes() == single.relevance.tobytes()
    assert whole.output[:1].tobytes() == single.output.tobytes()
