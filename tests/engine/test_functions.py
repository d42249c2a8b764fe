# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions and their derivatives against float64, over all of float32's range."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from engine.running import ARENA, INPUT, instruction, program, run

from pyrel import _core
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.program.instructions import Activate, Map, Slope

ISAS = _core.instruction_sets()
FUSED = [isa for isa in ISAS if isa != "baseline"]
PARAMETER = 0.3
FUNCTIONS = list(Function)
EPS = float(np.finfo(np.float32).eps)
SMALLEST = float(np.finfo(np.float32).tiny)  # what is below may count as 0
ROOT = np.sqrt(2 / np.pi)


def sigmoid(x: Any) -> Any:
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def gauss(x: Any) -> Any:
    """Return Φ(x), as accurate in both tails."""
    a = np.abs(x)
    below = 0.5 * torch.special.erfcx(torch.from_numpy(a / np.sqrt(2))).numpy() * np.exp(-a * a / 2)
    return np.where(x < 0, below, 1 - below)


def argument(x: Any) -> Any:
    return 2 * ROOT * (x + 0.044715 * x**3)


def bell(x: Any) -> Any:
    return np.exp(-x * x / 2) / np.sqrt(2 * np.pi)


def rise(x: Any) -> Any:
    """Return the derivative of `argument`."""
    return 2 * ROOT * (1 + 3 * 0.044715 * x * x)


SLOPE = np.float32(PARAMETER)
# Function and derivative, each as the terms that it is the sum of, and their error in units of
# EPS, twice the largest error of one rounding: 1 for e^x, 1/2 for each operation after it, 5 more
# for the polynomial in Φ. gelu_tanh has as much for each unit of its argument.
Terms = Callable[[Any], list[Any]]
EXACT: dict[Function, tuple[tuple[Terms, float], tuple[Terms, float]]] = {
    Function.sigmoid: ((lambda x: [sigmoid(x)], 2), (lambda x: [sigmoid(x) * sigmoid(-x)], 3)),
    Function.tanh: (
        (lambda x: [np.tanh(x)], 2.5),
        (lambda x: [4 * sigmoid(2 * x) * sigmoid(-2 * x)], 3),
    ),
    Function.softplus: (
        (lambda x: [np.maximum(x, 0), np.log1p(np.exp(-np.abs(x)))], 3),
        (lambda x: [sigmoid(x)], 2),
    ),
    Function.leaky_relu: (
        (lambda x: [np.where(x > 0, x, SLOPE * x)], 0.5),
        (lambda x: [np.where(x > 0, 1, SLOPE)], 0),
    ),
    Function.elu: (
        (lambda x: [np.where(x > 0, x, SLOPE * np.expm1(np.minimum(x, 0)))], 2),
        (lambda x: [np.where(x > 0, 1, SLOPE * np.exp(np.minimum(x, 0)))], 1.5),
    ),
    Function.gelu: (
        (lambda x: [x * gauss(x)], 7),
        (lambda x: [gauss(x), x * bell(x)], 7),
    ),
    Function.gelu_tanh: (
        (lambda x: [x * sigmoid(argument(x))], 2.5),
        (
            lambda x: [
                sigmoid(argument(x)),
                x * sigmoid(argument(x)) * sigmoid(-argument(x)) * rise(x),
            ],
            4,
        ),
    ),
    Function.silu: (
        (lambda x: [x * sigmoid(x)], 2.5),
        (lambda x: [sigmoid(x), x * sigmoid(x) * sigmoid(-x)], 4),
    ),
    Function.reciprocal: ((lambda x: [1 / x], 0.5), (lambda x: [-1 / x**2], 1.5)),
    # 2 for the logarithm, 1 for e^x and 1/2 for 1/x; the product of both is the argument of e^x.
    Function.power: (
        (lambda x: [(1 + np.maximum(x, 0)) ** float(SLOPE)], 4),
        (lambda x: [np.where(x < 0, 0, SLOPE * (1 + np.maximum(x, 0)) ** (float(SLOPE) - 1))], 4.5),
    ),
}


# By how much more a rounding of the argument of e^x counts.
CONDITION: dict[Function, Callable[[Any], Any]] = {
    Function.gelu_tanh: lambda x: 1 + np.abs(argument(x)),
    Function.power: lambda x: 1 + np.log1p(np.maximum(x, 0)),
}


@cache
def grid() -> Any:
    """Return all magnitudes of a float32, and densely those where the functions bend."""
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 0x7F800000, 40_000, dtype=np.uint32).view(np.float32)
    dense = [np.linspace(-end, end, 40_001) for end in (0.01, 1.5, 12, 110)]
    x = np.concatenate([bits, -bits, *dense]).astype(np.float32)
    return np.where(np.abs(x) < SMALLEST, np.float32(0), x)


def evaluate(function: Function, x: Any, isa: str, derivative: bool = False) -> Any:
    rows = x.reshape(-1, x.shape[-1])
    size = rows.shape[1]
    if derivative:
        ones = instruction(Map(INPUT, size, ARENA), [0], [0])
        template: Any = Slope(ARENA, INPUT, size, ARENA, function, PARAMETER)
        rows = np.concatenate([np.ones_like(rows), rows], axis=1)
        steps = [ones, instruction(template, [0], [size], [0])]
    else:
        steps = [instruction(Activate(INPUT, size, ARENA, function, PARAMETER), [0], [0])]
    found, _ = run(program(size), steps, rows, 0, size, isa, check_finite=False)
    return found.reshape(x.shape)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_accuracy(function: Function, derivative: bool, isa: str) -> None:
    given = grid()
    if function == Function.reciprocal:  # nearer to zero it, or its derivative, is infinite
        given = given[np.abs(given) > 2.0 ** (-63 if derivative else -126)]
    x = given.astype(np.float64)
    terms, bound = EXACT[function][derivative]
    with np.errstate(over="ignore", invalid="ignore", under="ignore"):
        exact = terms(x)
        condition = CONDITION.get(function, lambda x: 1.0)(x)
    wanted, size = sum(exact), sum(np.abs(term) for term in exact)
    error = np.abs(evaluate(function, given, isa, derivative) - wanted)
    # A factor that counts as 0 may be multiplied by as much as x³.
    lost = SMALLEST * (4 + np.minimum(np.abs(x), 20) ** 3)
    with np.errstate(over="ignore", invalid="ignore"):
        allowed = np.where(size == 0, 0, bound * EPS * size * condition) + lost
    assert (error <= allowed).all(), x[~(error <= allowed)][:5]


@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_sets_that_fuse_multiply_adds_give_the_same_bits(
    function: Function, derivative: bool
) -> None:
    found = {evaluate(function, grid(), isa, derivative).tobytes() for isa in FUSED}
    assert len(found) <= 1


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_result_depends_on_its_place(function: Function, derivative: bool, isa: str) -> None:
    x = np.concatenate([grid()[::997], np.float32([np.nan, np.inf, -np.inf, 0, -0.0])])
    alone = evaluate(function, x[:, None], isa, derivative)
    for width in (2, 3, 15, 16, 17, 33):
        rows = x[: x.size // width * width].reshape(-1, width)
        found = evaluate(function, rows, isa, derivative)
        np.testing.assert_array_equal(found.ravel(), alone[: rows.size, 0])


INF = np.inf
LIMITS: dict[Function, tuple[tuple[float, float, float], tuple[float, float, float]]] = {
    # At −∞, 0 and ∞: the function, and its derivative.
    Function.sigmoid: ((0, 0.5, 1), (0, 0.25, 0)),
    Function.tanh: ((-1, 0, 1), (0, 1, 0)),
    Function.softplus: ((0, float(np.float32(np.log(2))), INF), (0, 0.5, 1)),
    Function.leaky_relu: ((-INF, 0, INF), (SLOPE, SLOPE, 1)),
    Function.elu: ((-SLOPE, 0, INF), (0, SLOPE, 1)),
    Function.gelu: ((0, 0, INF), (0, 0.5, 1)),
    Function.gelu_tanh: ((0, 0, INF), (0, 0.5, 1)),
    Function.silu: ((0, 0, INF), (0, 0.5, 1)),
    Function.reciprocal: ((0, INF, 0), (0, -INF, 0)),
    Function.power: ((1, 1, INF), (0, SLOPE, 0)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_limits(function: Function, derivative: bool, isa: str) -> None:
    x = np.float32([-INF, 0, INF, np.nan])
    found = evaluate(function, x, isa, derivative)
    np.testing.assert_allclose(found, [*LIMITS[function][derivative], np.nan], rtol=7 * EPS)
    far = evaluate(function, np.float32([-3e38, 0, 3e38]), isa, derivative)
    # All have reached their limits there but the slope of a power, (3e38)^(p − 1).
    near = 3.6e-28 if function == Function.power else 0.0
    there = np.isfinite(found[:3])
    np.testing.assert_allclose(far[there], found[:3][there], rtol=0, atol=near)


@pytest.mark.parametrize("isa", ISAS)
def test_a_derivative_multiplies_and_adds(isa: str) -> None:
    x = np.random.default_rng(0).standard_normal((7, 3 * 19)).astype(np.float32)
    source, value, before = x[:, :19], x[:, 19:38], x[:, 38:]
    for accumulate in (False, True):
        template = Slope(INPUT, INPUT, 19, ARENA, Function.tanh, 0.0, accumulate)
        steps = [
            instruction(Map(INPUT, 19, ARENA), [38], [0]),
            instruction(template, [0], [19], [0]),
        ]
        found, _ = run(program(19), steps, x, 0, 19, isa)
        alone = source * evaluate(Function.tanh, np.ascontiguousarray(value), isa, True)
        np.testing.assert_array_equal(found, alone + before if accumulate else alone)
