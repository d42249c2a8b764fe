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
LARGEST = float(np.finfo(np.float32).max)
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


def where(defined: Any, values: Any) -> Any:
    return np.where(defined, values, np.nan)


def near(values: Any, x: Any) -> Any:
    """Return values of the sine or cosine, where they are defined."""
    return where(np.abs(x) <= CIRCLE, values)


def erf(x: Any) -> Any:
    return torch.special.erf(torch.from_numpy(np.asarray(x, np.float64))).numpy()


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
    Function.exp: ((lambda x: [np.exp(x)], 1.5), (lambda x: [np.exp(x)], 1.5)),
    # 1 for (1 − x)/x, 2 for the logarithm.
    Function.log: ((lambda x: [np.log(x)], 3), (lambda x: [where(x >= 0, 1 / x)], 0.5)),
    Function.log1p: (
        (lambda x: [np.log1p(x)], 3),
        (lambda x: [where(x >= -1, 1 / (1 + x))], 1),
    ),
    Function.sqrt: (
        (lambda x: [np.sqrt(x)], 0.5),
        (lambda x: [np.where(x == 0, 0, 0.5 / np.sqrt(x))], 1),
    ),
    # 1/2 for r and 1 for the polynomial.
    Function.sin: ((lambda x: [near(np.sin(x), x)], 1.5), (lambda x: [near(np.cos(x), x)], 1.5)),
    Function.cos: ((lambda x: [near(np.cos(x), x)], 1.5), (lambda x: [near(-np.sin(x), x)], 1.5)),
    Function.erf: (
        (lambda x: [erf(x)], 2),
        (lambda x: [2 / np.sqrt(np.pi) * np.exp(-x * x)], 2.5),
    ),
    Function.absolute: ((lambda x: [np.abs(x)], 0), (lambda x: [np.sign(x)], 0)),
    Function.square: ((lambda x: [x * x], 0.5), (lambda x: [2 * x], 0)),
    # 3 for the logarithm of |x|, the product with it is the argument of e^x.
    Function.pow: (
        (lambda x: [where(x >= 0, np.abs(x) ** float(SLOPE))], 4),
        (lambda x: [where(x >= 0, SLOPE * np.abs(x) ** (float(SLOPE) - 1))], 4.5),
    ),
    Function.at_least: ((lambda x: [np.maximum(x, SLOPE)], 0), (lambda x: [1.0 * (x >= SLOPE)], 0)),
    Function.above: ((lambda x: [np.maximum(x, SLOPE)], 0), (lambda x: [1.0 * (x > SLOPE)], 0)),
    Function.at_most: ((lambda x: [np.minimum(x, SLOPE)], 0), (lambda x: [1.0 * (x <= SLOPE)], 0)),
    Function.below: ((lambda x: [np.minimum(x, SLOPE)], 0), (lambda x: [1.0 * (x < SLOPE)], 0)),
    Function.step: ((lambda x: [1.0 * (x > 0)], 0), (lambda x: [0.0 * x], 0)),
}


# By how much more a rounding of the argument of e^x counts.
CONDITION: dict[Function, Callable[[Any], Any]] = {
    Function.gelu_tanh: lambda x: 1 + np.abs(argument(x)),
    Function.power: lambda x: 1 + np.log1p(np.maximum(x, 0)),
    Function.pow: lambda x: 1 + np.abs(np.log(np.abs(x) + SMALLEST)),
}

# Beyond, float32 tells few places of a period apart.
CIRCLE = 8192


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
    with np.errstate(all="ignore"):
        exact = terms(x)
        condition = CONDITION.get(function, lambda x: 1.0)(x)
    wanted, size = sum(exact), sum(np.abs(term) for term in exact)
    found = evaluate(function, given, isa, derivative)
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    # A factor that counts as 0 may be multiplied by as much as x³.
    lost = SMALLEST * (4 + np.minimum(np.abs(x), 20) ** 3)
    if function in (Function.sin, Function.cos):  # what π/2 has beyond its three parts
        lost = lost + 2.0**-47 * np.abs(x)
    with np.errstate(over="ignore", invalid="ignore"):
        allowed = np.where(size == 0, 0, bound * EPS * size * condition) + lost
        error = np.abs(found - wanted)
        overflows = np.isinf(found) & (np.sign(found) == np.sign(wanted))
        overflows &= np.abs(wanted) + allowed >= LARGEST
    ok = (error <= allowed) | np.isnan(wanted) | overflows
    assert ok.all(), (x[~ok][:5], found[~ok][:5], wanted[~ok][:5])


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


INF, NAN = np.inf, np.nan
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
    Function.exp: ((0, 1, INF), (0, 1, INF)),
    Function.log: ((NAN, -INF, INF), (NAN, INF, 0)),
    Function.log1p: ((NAN, 0, INF), (NAN, 1, 0)),
    Function.sqrt: ((NAN, 0, INF), (NAN, 0, 0)),  # with a parameter above 0
    Function.sin: ((NAN, 0, NAN), (NAN, 1, NAN)),
    Function.cos: ((NAN, 1, NAN), (NAN, 0, NAN)),
    Function.erf: ((-1, 0, 1), (0, float(np.float32(2 / np.sqrt(np.pi))), 0)),
    Function.absolute: ((INF, 0, INF), (-1, 0, 1)),
    Function.square: ((INF, 0, INF), (-INF, 0, INF)),
    Function.pow: ((NAN, 0, INF), (NAN, INF, 0)),
    Function.at_least: ((SLOPE, SLOPE, INF), (0, 0, 1)),
    Function.above: ((SLOPE, SLOPE, INF), (0, 0, 1)),
    Function.at_most: ((-INF, 0, SLOPE), (1, 1, 0)),
    Function.below: ((-INF, 0, SLOPE), (1, 1, 0)),
    Function.step: ((0, 0, 1), (0, 0, 0)),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("derivative", [False, True])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_limits(function: Function, derivative: bool, isa: str) -> None:
    x = np.float32([-INF, 0, INF, np.nan])
    found = evaluate(function, x, isa, derivative)
    np.testing.assert_allclose(found, [*LIMITS[function][derivative], np.nan], rtol=7 * EPS)
    far = evaluate(function, np.float32([-3e38, 0, 3e38]), isa, derivative)
    # All have reached their limits there but slopes of powers, (3e38)^(p − 1), and of logarithms.
    there = np.isfinite(found[:3])
    reached = {Function.power: 3.6e-28, Function.pow: 3.6e-28, Function.sqrt: 2.9e-20}
    reached |= {Function.log: 3.4e-39, Function.log1p: 3.4e-39}
    allowed = reached.get(function, 0.0) if derivative else 0.0
    np.testing.assert_allclose(far[there], found[:3][there], rtol=0, atol=allowed)


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


@pytest.mark.parametrize("isa", ISAS)
def test_a_root_without_parameter_rises_without_bound(isa: str) -> None:
    x = np.float32([[1.0, 0.0, 4.0]])
    ones = instruction(Map(INPUT, 3, ARENA), [0], [0])
    steps = [ones, instruction(Slope(ARENA, INPUT, 3, ARENA, Function.sqrt), [0], [3], [0])]
    rows = np.concatenate([np.ones_like(x), x], axis=1)
    found, _ = run(program(3), steps, rows, 0, 3, isa, check_finite=False)
    np.testing.assert_array_equal(found, [[0.5, INF, 0.25]])
