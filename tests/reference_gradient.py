# SPDX-License-Identifier: Apache-2.0
"""The gradient of a reference graph by the chain rule, and its guided form."""

from __future__ import annotations

import numpy as np
from reference_backward import Backward
from reference_forward import Forward, deviation, preactivation, rows
from reference_functions import FUNCTIONS
from reference_graph import (
    EPS32,
    Activation,
    Affine,
    Array,
    Gather,
    MaxPool,
    Node,
    Normalise,
    Part,
    Product,
    Relu,
    Scale,
    Sum,
)


def gradient(output: Node, run: Forward, seed: Array, method: str) -> Backward:
    """∂(seed · output) at every node, where some methods do another thing at a ReLU."""
    back = Backward(output, run, seed)
    for node in reversed(back.nodes):
        arrived, variance = back.at(node)
        match node:
            case Relu():
                match method:
                    case "guided_backprop":
                        passes = (run.of(node.parent) > 0) & (arrived > 0)
                    case "deconvnet":
                        passes = arrived > 0
                    case _:
                        passes = run.of(node.parent) > 0
                back.give(node.parent, np.where(passes, arrived, 0), passes * variance)
            case Activation():
                _activation(node, back)
            case Scale():
                factors = run.cast(node.coefficients)
                back.give(node.parent, arrived * factors, variance * factors**2)
            case Gather():
                back.scatter(node)
            case Sum():
                for addend in node.addends:
                    back.give(addend, arrived, variance)
            case Product():
                for one, other in ((node.gate, node.signal), (node.signal, node.gate)):
                    moved = (arrived * run.bound(other)) ** 2
                    value = run.of(other)
                    back.give(one, arrived * value, variance * value**2 + moved)
            case MaxPool():
                back.give_winners(node, below_relu=method != "deconvnet")
            case Normalise():
                _normalise(node, back)
            case Affine():
                for part in node.units:
                    _part(part, node, back)
    return back


def _activation(node: Activation, back: Backward) -> None:
    """g f'(z); within its bound e of z, f' varies by what it does at the ends, and rounds."""
    f, p = FUNCTIONS[node.function], node.parameter
    arrived, variance = back.at(node)
    z, e = back.run.of(node.parent), back.run.bound(node.parent)
    slope = f.slope(z, p)
    # f' of a kinked function jumps only where the sample's margin says so.
    smooth = (z - e > 0) | (z + e < 0) if node.function in ("leaky_relu", "elu") else e >= 0
    ends = [np.abs(f.slope(z + sign * e, p) - slope) for sign in (-1, 1)]
    moved = np.where(smooth, np.maximum(*ends), 0.0) + 4 * EPS32
    given = back.run.cast(arrived * slope)
    back.give(node.parent, given, variance * slope**2 + (arrived * moved) ** 2)


def _normalise(node: Normalise, back: Backward) -> None:
    """(g − mean g − y · mean(g y)) / σ, row by row."""
    arrived, variance = back.at(node)
    g, y, v = (rows(a, node) for a in (arrived, back.run.of(node), variance))
    sigma = deviation(back.run.of(node.parent), node)
    mean, shared = g.mean(axis=2, keepdims=True), (g * y).mean(axis=2, keepdims=True)
    given = (g - mean - y * shared) / sigma
    # Roundings of y and σ relative to the terms, those of g in quadrature.
    e = rows(back.run.bound(node), node)
    terms = np.abs(g) + np.abs(mean) + np.abs(y) * (np.abs(g * y)).mean(axis=2, keepdims=True)
    loose = (terms * (4 * EPS32 + e.max(axis=2, keepdims=True))) ** 2
    total = v + v.mean(axis=2, keepdims=True) + y**2 * (v * y**2).mean(axis=2, keepdims=True)
    given_variance = (total + loose) / sigma**2
    back.give(node.parent, given.reshape(arrived.shape), given_variance.reshape(arrived.shape))


def _part(part: Part, node: Affine, back: Backward) -> None:
    arrived, variance = back.at(node)
    through, doubt = arrived, variance
    if part.gate is not None:
        gate, e = back.run.of(part.gate), back.run.bound(part.gate)
        value, magnitude, inherited = preactivation(part, back.run)
        loose = inherited + (4 * EPS32 * magnitude) ** 2
        back.give(part.gate, arrived * value, variance * value**2 + arrived**2 * loose)
        through, doubt = arrived * gate, variance * gate**2 + (arrived * e) ** 2
    for term in part.terms:
        weight = back.run.cast(term.weight)
        rounded = (4 * EPS32 * np.abs(through) @ term.magnitude.T) ** 2
        back.give(term.source, through @ weight.T, doubt @ (weight**2).T + rounded)
