# SPDX-License-Identifier: Apache-2.0
"""Values of a reference graph, their float32 rounding bounds, and how near they are to a kink."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from reference_functions import FUNCTIONS
from reference_graph import (
    EPS32,
    Activation,
    Affine,
    Array,
    Constant,
    Embedding,
    Gather,
    Input,
    MaxPool,
    Node,
    Normalise,
    Part,
    Product,
    Relu,
    Scale,
    Sum,
    reachable,
)

Pair = tuple[Array, Array]


@dataclass
class Forward:
    """Values and their float32 rounding bounds (both (n, features)) by node serial.

    A product sum that float32 accumulates term by term is off by eps/4 · Σ|terms| in the mean (each
    partial sum rounds by half an eps of itself); 4 · eps · Σ|terms| is the bound of one linear node
    here, half as much again as the worst of ten thousand random graphs. Roundings of different
    units are independent, so the bounds of the inputs add to it in quadrature, times the weights.

    The margins (n,) are in units of bounds: the smallest |pre-activation| before a ReLU, and the
    smallest lead of a pool's winner. Where one is ≤ 1 a unit may switch, and what is handed down
    changes by more than rounding.

    `type` float32 evaluates in single precision, to try the bounds on.
    """

    type: Any = np.float64
    values: dict[int, Array] = field(default_factory=dict)
    bounds: dict[int, Array] = field(default_factory=dict)
    relu_margin: Array = field(default_factory=lambda: np.empty(0))
    pool_margin: Array = field(default_factory=lambda: np.empty(0))

    def cast(self, values: npt.ArrayLike) -> Array:
        """`values` in the precision of this run."""
        return np.asarray(values, self.type)

    def of(self, node: Node) -> Array:
        """The values of a node."""
        return self.values[node.serial]

    def bound(self, node: Node) -> Array:
        """The rounding bounds of a node."""
        return self.bounds[node.serial]


def forward(output: Node, x: npt.ArrayLike, precision: Any = np.float64) -> Forward:
    """Evaluate the graph on a batch `x` (n, *shape)."""
    batch = np.asarray(x, np.float64)
    run = Forward(precision)
    run.relu_margin, run.pool_margin = np.full((2, batch.shape[0]), np.inf)
    for node in reachable(output):
        value, bound = _evaluate(node, batch, run)
        run.values[node.serial], run.bounds[node.serial] = run.cast(value), bound
        if isinstance(node, Relu) or (isinstance(node, Activation) and _has_kink(node)):
            nearest = margin(np.abs(run.of(node.parent)), run.bound(node.parent))
            run.relu_margin = np.minimum(run.relu_margin, nearest)
        if isinstance(node, MaxPool):
            run.pool_margin = np.minimum(run.pool_margin, _lead(node, run))
    return run


def _has_kink(node: Activation) -> bool:
    return node.function in ("leaky_relu", "elu")


def margin(size: Array, bound: Array) -> Array:
    """The smallest size in units of its bound, per sample; what has no bound is exact."""
    ratio = np.divide(size, bound, out=np.full(size.shape, np.inf), where=bound > 0)
    return np.asarray(ratio.min(axis=1, initial=np.inf))


def windowed(values: Array, node: MaxPool, missing: float) -> Array:
    """Values of each window, (n, window, outputs), `missing` outside the map."""
    return np.where(node.windows < 0, values.dtype.type(missing), values[:, node.windows])


def _lead(node: MaxPool, run: Forward) -> Array:
    """By how much the winner exceeds each other value, in units of both bounds."""
    values = windowed(run.of(node.parent), node, -np.inf)
    bounds = windowed(run.bound(node.parent), node, 0.0)
    first = values.argmax(axis=1)[:, None]
    lead = run.of(node)[:, None] - values
    doubt = bounds + np.take_along_axis(bounds, first, axis=1)
    np.put_along_axis(lead, first, np.inf, axis=1)
    return margin(lead.reshape(len(lead), -1), doubt.reshape(len(lead), -1))


def _evaluate(node: Node, batch: Array, run: Forward) -> Pair:
    n = batch.shape[0]
    own = [(run.of(parent), run.bound(parent)) for parent in node.parents]
    match node:
        case Input():
            return batch.reshape(n, node.size), np.zeros((n, node.size))
        case Constant():
            return np.tile(node.value, (n, 1)), np.zeros((n, node.size))
        case Relu():
            z, bound = own[0]
            return np.maximum(z, 0), np.where(z > -bound, bound, 0.0)
        case Activation():
            return _activation(node, *own[0])
        case Scale():
            z, bound = own[0]
            value = z * run.cast(node.coefficients)
            return value, bound * np.abs(node.coefficients) + EPS32 * np.abs(value)
        case Gather():
            value, bound = (np.concatenate(parts, axis=1) for parts in zip(*own, strict=True))
            return value[:, node.index], bound[:, node.index]
        case Sum():
            value, bound = (np.sum(parts, axis=0) for parts in zip(*own, strict=True))
            return value, bound + EPS32 * np.sum([np.abs(addend) for addend, _ in own], axis=0)
        case Product():
            (one, e1), (other, e2) = own
            return one * other, np.hypot(one * e2, other * e1) + EPS32 * np.abs(one * other)
        case MaxPool():
            values, bounds = own[0]
            largest = windowed(values, node, -np.inf).max(axis=1)
            return largest, windowed(bounds, node, 0.0).max(axis=1)
        case Normalise():
            return _normalise(node, *own[0])
        case Embedding():
            ids = batch.reshape(n, -1).astype(np.intp)
            return node.table[ids].reshape(n, node.size), np.zeros((n, node.size))
        case Affine():
            return _affine(node, run)
    raise TypeError(type(node).__name__)


def _activation(node: Activation, z: Array, bound: Array) -> Pair:
    f, p = FUNCTIONS[node.function], node.parameter
    value = f.value(z, p)
    # The slope varies by at most |f''| ≤ 2 per unit within the bound; no value leaves its domain.
    rise = np.abs(f.slope(z, p)) * bound + 2 * bound**2
    rise = np.minimum(rise, node.high - node.low)
    own = 4 * EPS32 * (np.abs(value) + np.abs(z * f.slope(z, p)))
    return value, rise + own + 4 * f.absolute(z, p)


def rows(values: Array, node: Normalise) -> Array:
    """(n, rows, width)."""
    return values.reshape(len(values), -1, node.width)


def deviation(values: Array, node: Normalise) -> Array:
    """√(variance + ε) of each row, (n, rows, 1)."""
    spread = rows(values, node).var(axis=2, keepdims=True)
    return np.sqrt(spread + values.dtype.type(node.epsilon))


def _normalise(node: Normalise, values: Array, bounds: Array) -> Pair:
    a, e, sigma = rows(values, node), rows(bounds, node), deviation(values, node)
    y = (a - a.mean(axis=2, keepdims=True)) / sigma
    # The mean moves by that of the bounds, σ by at most their root mean square: y by |y| times it.
    moved = e + e.mean(axis=2, keepdims=True)
    moved = moved + np.abs(y) * np.sqrt((e**2).mean(axis=2, keepdims=True))
    rounded = 4 * EPS32 * (np.abs(y) + np.abs(a).max(axis=2, keepdims=True) / sigma)
    return y.reshape(values.shape), (moved / sigma + rounded).reshape(values.shape)


def preactivation(part: Part, run: Forward) -> tuple[Array, Array, Array]:
    """Σ source @ weight + bias of a part, its Σ|terms|, and the variance that its inputs bring."""
    n = run.relu_margin.size
    value = np.tile(run.cast(part.bias), (n, 1))
    magnitude, variance = np.abs(value), np.zeros(value.shape)
    for term in part.terms:
        a, bound = run.of(term.source), run.bound(term.source)
        value = value + a @ run.cast(term.weight)
        magnitude = magnitude + np.abs(a) @ term.magnitude
        variance = variance + bound**2 @ term.weight**2
    return value, magnitude, variance


def _affine(node: Affine, run: Forward) -> Pair:
    total, magnitude, variance = np.zeros((3, run.relu_margin.size, node.size))
    total = run.cast(total)
    for part in node.units:
        value, own, inherited = preactivation(part, run)
        if part.gate is None:
            total, magnitude = total + value, magnitude + own
            variance = variance + inherited
            continue
        gate = run.of(part.gate)
        total, magnitude = total + gate * value, magnitude + np.abs(gate) * own
        variance = variance + gate**2 * inherited + (value * run.bound(part.gate)) ** 2
    return total, np.sqrt(variance + (4 * EPS32 * magnitude) ** 2)
