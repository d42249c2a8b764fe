# SPDX-License-Identifier: Apache-2.0
"""What is known of the range of every value, and the rewrites that deep Taylor needs for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.gates import Gates, find_gates, only_through
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Choice,
    Copy,
    Embedding,
    Floats,
    Graph,
    Linear,
    Lookup,
    MaxPool,
    Node,
    Product,
    Relu,
    Scale,
    StopGradient,
    look_up,
    picked,
)
from pyrel.compiler.graph.softmax import Softmax
from pyrel.methods.terms import Domain, Mask


@dataclass(frozen=True, eq=False)
class Domains:
    """Range of every address, and whether it is an element of the graph's input.

    ``low`` and ``high`` are (addresses,); [0, ∞) after a ReLU, (−∞, ∞) for a pre-activation.
    """

    low: Floats
    high: Floats
    raw: Mask
    constants: Floats

    def of(self, addresses: Addresses) -> tuple[Floats, Floats]:
        """Range of each address; of a constant c it is [min(0, c), max(0, c)]."""
        if not np.count_nonzero(addresses < 0):
            return self.low[addresses], self.high[addresses]
        value = look_up(self.constants, addresses)
        index = np.maximum(addresses, 0)
        low = np.where(addresses < 0, np.minimum(value, 0.0), self.low[index])
        high = np.where(addresses < 0, np.maximum(value, 0.0), self.high[index])
        return low, high

    @property
    def boxed(self) -> Mask:
        """Mark the addresses that are not known to lie in [0, ∞)."""
        return np.asarray((self.low < 0) | np.isfinite(self.high))

    def of_inputs(self, node: Node) -> Domain:
        """Return what is known of a node's inputs, as its rules see it."""
        inputs = np.atleast_2d(node.inputs)
        low, high = self.of(inputs)
        constant = np.asarray((inputs < 0).all(axis=0))
        return Domain(low, high, picked(self.raw, inputs, False), constant)


def propagate(graph: Graph, low: Floats, high: Floats, gates: Gates | None = None) -> Domains:
    """Ranges of all values from those of one sample's input elements, each (input size,).

    ``gates`` are those of `pyrel.compiler.graph.gates.find_gates`, if they are known.
    """
    size, count = graph.size, graph.input_size
    domains = Domains(
        np.full(size, -np.inf), np.full(size, np.inf), np.zeros(size, dtype=bool), graph.constants
    )
    domains.low[:count], domains.high[:count], domains.raw[:count] = low, high, True
    gates = gates or find_gates(graph)
    of_ids = only_through(graph, Lookup)
    for node in graph.nodes:
        out = slice(node.start, node.start + node.size)
        low, high = domains.of(node.inputs)
        match node:
            case Relu() if of_ids[out].all():
                domains.low[out], domains.high[out] = np.maximum(low, 0.0), np.maximum(high, 0.0)
            case Linear(relu=True) | Relu():
                domains.low[out] = 0.0
            case Activation():
                domains.low[out], domains.high[out] = _range(node, low, high)
            case Scale():
                scaled = _times(np.stack([low, high]), node.coefficients)
                domains.low[out], domains.high[out] = scaled.min(axis=0), scaled.max(axis=0)
            case Add():
                domains.low[out], domains.high[out] = low.sum(axis=0), high.sum(axis=0)
                blend = gates.blend(node)
                if blend is not None:
                    low, high = domains.of(blend)
                    domains.low[out], domains.high[out] = low.min(axis=0), high.max(axis=0)
            case Product():
                corners = np.stack([_times(a[0], b[1]) for a in (low, high) for b in (low, high)])
                domains.low[out], domains.high[out] = corners.min(axis=0), corners.max(axis=0)
            case Softmax():
                domains.low[out], domains.high[out] = 0.0, 1.0
            case Choice():
                low, high = domains.of(node.values)
                domains.low[out], domains.high[out] = low.min(axis=0), high.max(axis=0)
            case MaxPool():
                domains.low[out], domains.high[out] = low.max(axis=0), high.max(axis=0)
            case Embedding():
                shape = node.inputs.size, 1
                domains.low[out] = np.tile(np.minimum(node.table.min(axis=0), 0.0), shape).ravel()
                domains.high[out] = np.tile(np.maximum(node.table.max(axis=0), 0.0), shape).ravel()
            case Copy() | StopGradient():
                domains.low[out], domains.high[out] = low, high
                domains.raw[out] = picked(domains.raw, node.inputs, False)
    return domains


def _times(a: Floats, b: Floats) -> Floats:
    """Product of bounds, in which nothing times infinity is nothing."""
    return np.multiply(a, b, where=(a != 0) & (b != 0), out=np.zeros(np.broadcast(a, b).shape))


def _range(node: Activation, low: Floats, high: Floats) -> tuple[Floats | float, Floats | float]:
    """Bounds of an activation's values, from those of what it is of."""
    match node.function:
        case Function.sigmoid | Function.step:
            return 0.0, 1.0
        case Function.tanh | Function.sin | Function.cos | Function.erf:
            return -1.0, 1.0
        case Function.softplus | Function.exp | Function.sqrt | Function.absolute | Function.square:
            return 0.0, np.inf
        case Function.power:
            return (0.0, 1.0) if node.parameter < 0 else (0.0, np.inf)
        case Function.reciprocal | Function.pow | Function.log1p:
            return np.where(low >= 0, 0.0, -np.inf), np.inf
        case Function.at_least | Function.above:
            return np.maximum(low, node.parameter), np.maximum(high, node.parameter)
        case Function.at_most | Function.below:
            return np.minimum(low, node.parameter), np.minimum(high, node.parameter)
        case Function.elu:
            return -node.parameter, np.inf
        case Function.gelu | Function.gelu_tanh | Function.silu:
            return -0.3, np.inf  # their minima are -0.170 and -0.278
        case _:
            return -np.inf, np.inf
