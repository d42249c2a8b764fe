# SPDX-License-Identifier: Apache-2.0
"""Elementwise activations: value, derivative and range, from their definitions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from reference_graph import EPS32, Activation, Array, Constant, Node, constant

_erf = np.vectorize(math.erf, otypes=[np.float64])
_TANH_SCALE = math.sqrt(2 / math.pi)


def _normal(z: Array) -> Array:
    """Φ(z), the distribution function of the standard normal."""
    return (1 + _erf(z / math.sqrt(2))) / 2


def _sigmoid(z: Array) -> Array:
    return (1 + np.tanh(z / 2)) / 2


def _gelu_tanh_slope(z: Array) -> Array:
    inner = np.tanh(_TANH_SCALE * (z + 0.044715 * z**3))
    return (1 + inner) / 2 + z / 2 * (1 - inner**2) * _TANH_SCALE * (1 + 3 * 0.044715 * z**2)


@dataclass(frozen=True)
class Function:
    """f(z, p) and f'(z, p), the range of f for its p, and what rounding adds beside eps · |f|.

    `through_zero` says that f(0) = 0, so that f(z) / z has no pole.
    """

    value: Callable[[Array, float], Array]
    slope: Callable[[Array, float], Array]
    bounds: Callable[[float], tuple[float, float]]
    through_zero: bool
    absolute: Callable[[Array, float], Array] = lambda z, p: np.zeros_like(z)


_REAL = -math.inf, math.inf

FUNCTIONS = {
    "sigmoid": Function(
        lambda z, p: _sigmoid(z),
        lambda z, p: _sigmoid(z) * (1 - _sigmoid(z)),
        lambda p: (0.0, 1.0),
        False,
    ),
    "tanh": Function(
        lambda z, p: np.tanh(z), lambda z, p: 1 - np.tanh(z) ** 2, lambda p: (-1.0, 1.0), True
    ),
    "softplus": Function(
        lambda z, p: np.logaddexp(0.0, z),
        lambda z, p: _sigmoid(z),
        lambda p: (0.0, math.inf),
        False,
        lambda z, p: np.full_like(z, EPS32),
    ),
    "leaky_relu": Function(
        lambda z, p: np.where(z > 0, z, p * z),
        lambda z, p: np.where(z > 0, 1.0, p),
        lambda p: _REAL,
        True,
    ),
    "elu": Function(
        lambda z, p: np.where(z > 0, z, p * np.expm1(np.minimum(z, 0.0))),
        lambda z, p: np.where(z > 0, 1.0, p * np.exp(np.minimum(z, 0.0))),
        lambda p: (-abs(p), math.inf),
        True,
        lambda z, p: np.where(z > 0, 0.0, abs(p) * EPS32),
    ),
    # The least values of GELU (either form) and SiLU, rounded down.
    "gelu": Function(
        lambda z, p: z * _normal(z),
        lambda z, p: _normal(z) + z * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi),
        lambda p: (-0.171, math.inf),
        True,
        lambda z, p: EPS32 * np.abs(z),
    ),
    "gelu_tanh": Function(
        lambda z, p: z / 2 * (1 + np.tanh(_TANH_SCALE * (z + 0.044715 * z**3))),
        lambda z, p: _gelu_tanh_slope(z),
        lambda p: (-0.171, math.inf),
        True,
        lambda z, p: EPS32 * np.abs(z),
    ),
    "silu": Function(
        lambda z, p: z * _sigmoid(z),
        lambda z, p: _sigmoid(z) * (1 + z * (1 - _sigmoid(z))),
        lambda p: (-0.279, math.inf),
        True,
        lambda z, p: EPS32 * np.abs(z),
    ),
}


def activation(function: str, node: Node, parameter: float = 0.0) -> Node:
    """function(node)."""
    f = FUNCTIONS[function]
    if isinstance(node, Constant):
        return constant(f.value(node.value, parameter).reshape(node.shape))
    low, high = (np.full(node.size, end) for end in f.bounds(parameter))
    return Activation(
        shape=node.shape, low=low, high=high, parent=node, function=function, parameter=parameter
    )


def sigmoid(node: Node) -> Node:
    """1 / (1 + e^−z), a gate."""
    return activation("sigmoid", node)


def tanh(node: Node) -> Node:
    """tanh z."""
    return activation("tanh", node)
