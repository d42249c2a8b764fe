# SPDX-License-Identifier: Apache-2.0
"""What elementwise functions and their derivatives are, in NumPy and float64."""

from __future__ import annotations

from collections.abc import Callable
from math import erf, pi, sqrt

import numpy as np

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import Floats


def function_value(function: Function, values: Floats, parameter: float) -> Floats:
    """Return the function of each value; infinity or NaN where it has no finite one."""
    with np.errstate(all="ignore"):
        return np.asarray(_FUNCTIONS[function](values, parameter))


def function_slope(function: Function, values: Floats, parameter: float) -> Floats:
    """Return its derivative at each value."""
    with np.errstate(all="ignore"):
        return np.asarray(_SLOPES[function](values, parameter))


def _sigmoid(z: Floats) -> Floats:
    small = np.exp(-np.abs(z))
    return np.where(z < 0, small, 1.0) / (1.0 + small)


def _sigmoid_slope(z: Floats) -> Floats:
    return _sigmoid(z) * _sigmoid(-z)


_erf = np.vectorize(erf, otypes=[np.float64])
_BEND = 0.044715  # of the polynomial within GELU's tanh


def _gelu_tanh(z: Floats, _: float) -> Floats:
    return np.asarray(0.5 * z * (1.0 + np.tanh(sqrt(2.0 / pi) * (z + _BEND * z**3))))


def _gelu_tanh_slope(z: Floats, _: float) -> Floats:
    t = np.tanh(sqrt(2.0 / pi) * (z + _BEND * z**3))
    inner = sqrt(2.0 / pi) * (1.0 + 3.0 * _BEND * z**2)
    return np.asarray(0.5 * (1.0 + t) + 0.5 * z * (1.0 - t**2) * inner)


_FUNCTIONS: dict[Function, Callable[[Floats, float], Floats]] = {
    Function.sigmoid: lambda z, _: _sigmoid(z),
    Function.tanh: lambda z, _: np.tanh(z),
    Function.softplus: lambda z, _: np.logaddexp(z, 0.0),
    Function.leaky_relu: lambda z, slope: np.where(z > 0, z, slope * z),
    Function.elu: lambda z, alpha: np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0.0))),
    Function.gelu: lambda z, _: 0.5 * z * (1.0 + _erf(z / sqrt(2.0))),
    Function.gelu_tanh: _gelu_tanh,
    Function.silu: lambda z, _: z * _sigmoid(z),
    Function.reciprocal: lambda z, _: 1.0 / z,
    Function.power: lambda z, p: (1.0 + np.maximum(z, 0.0)) ** p,
    Function.exp: lambda z, _: np.exp(z),
    Function.log: lambda z, _: np.log(z),
    Function.log1p: lambda z, _: np.log1p(z),
    Function.sqrt: lambda z, _: np.sqrt(z),
    Function.sin: lambda z, _: np.sin(z),
    Function.cos: lambda z, _: np.cos(z),
    Function.erf: lambda z, _: _erf(z),
    Function.absolute: lambda z, _: np.abs(z),
    Function.square: lambda z, _: z * z,
    Function.pow: lambda z, p: z**p,
    Function.at_least: np.maximum,
    Function.above: np.maximum,
    Function.at_most: np.minimum,
    Function.below: np.minimum,
    Function.step: lambda z, _: np.where(z > 0, 1.0, 0.0),
}

_SLOPES: dict[Function, Callable[[Floats, float], Floats]] = {
    Function.sigmoid: lambda z, _: _sigmoid_slope(z),
    Function.tanh: lambda z, _: 4.0 * _sigmoid_slope(2.0 * z),
    Function.softplus: lambda z, _: _sigmoid(z),
    Function.leaky_relu: lambda z, slope: np.where(z > 0, 1.0, slope),
    Function.elu: lambda z, alpha: np.where(z > 0, 1.0, alpha * np.exp(np.minimum(z, 0.0))),
    Function.gelu: lambda z, _: (
        0.5 * (1.0 + _erf(z / sqrt(2.0))) + z * np.exp(-0.5 * z**2) / sqrt(2.0 * pi)
    ),
    Function.gelu_tanh: _gelu_tanh_slope,
    Function.silu: lambda z, _: _sigmoid(z) + z * _sigmoid_slope(z),
    Function.reciprocal: lambda z, _: -1.0 / z**2,
    Function.power: lambda z, p: np.where(z < 0, 0.0, p * (1.0 + np.maximum(z, 0.0)) ** (p - 1)),
    Function.exp: lambda z, _: np.exp(z),
    Function.log: lambda z, _: np.where(z < 0, np.nan, 1.0 / z),
    Function.log1p: lambda z, _: np.where(z < -1, np.nan, 1.0 / (1.0 + z)),
    Function.sqrt: lambda z, p: np.where((z == 0) & (p > 0), 0.0, 0.5 / np.sqrt(z)),
    Function.sin: lambda z, _: np.cos(z),
    Function.cos: lambda z, _: -np.sin(z),
    Function.erf: lambda z, _: 2.0 / sqrt(pi) * np.exp(-z * z),
    Function.absolute: lambda z, _: np.sign(z),
    Function.square: lambda z, _: 2.0 * z,
    Function.pow: lambda z, p: p * z ** (p - 1.0),
    Function.at_least: lambda z, p: np.where(z >= p, 1.0, 0.0),
    Function.above: lambda z, p: np.where(z > p, 1.0, 0.0),
    Function.at_most: lambda z, p: np.where(z <= p, 1.0, 0.0),
    Function.below: lambda z, p: np.where(z < p, 1.0, 0.0),
    Function.step: lambda z, _: np.zeros_like(z),
}
