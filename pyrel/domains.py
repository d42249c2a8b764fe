# SPDX-License-Identifier: Apache-2.0
"""What is known of the range of every value, and the rewrites that deep Taylor needs for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pyrel.graph import (
    Add,
    Addresses,
    Copy,
    Floats,
    Graph,
    Linear,
    Node,
    Relu,
    Scale,
    compact,
    look_up,
)
from pyrel.rules import Mask


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
        value = look_up(self.constants, addresses)
        index = np.maximum(addresses, 0)
        low = np.where(addresses < 0, np.minimum(value, 0.0), self.low[index])
        high = np.where(addresses < 0, np.maximum(value, 0.0), self.high[index])
        return low, high


def propagate(graph: Graph, low: Floats, high: Floats) -> Domains:
    """Ranges of all values from those of one sample's input elements, each (input size,)."""
    size, count = graph.size, graph.input_size
    domains = Domains(
        np.full(size, -np.inf), np.full(size, np.inf), np.zeros(size, dtype=bool), graph.constants
    )
    domains.low[:count], domains.high[:count], domains.raw[:count] = low, high, True
    for node in graph.nodes:
        out = slice(node.start, node.start + node.size)
        match node:
            case Linear(relu=True) | Relu():
                domains.low[out] = 0.0
            case Scale():
                ends = np.stack(domains.of(node.inputs))
                scaled = np.multiply(
                    ends, node.coefficients, where=node.coefficients != 0, out=np.zeros_like(ends)
                )
                domains.low[out], domains.high[out] = scaled.min(axis=0), scaled.max(axis=0)
            case Add():
                lows, highs = domains.of(node.inputs)
                domains.low[out], domains.high[out] = lows.sum(axis=0), highs.sum(axis=0)
            case Copy():
                domains.low[out], domains.high[out] = domains.of(node.inputs)
                domains.raw[out] = domains.raw[node.inputs]
    return domains


def fold(graph: Graph, low: Floats, high: Floats) -> Graph:
    """Fold inner values that cannot be explained as activations into the nodes that read them.

    A linear node after a linear one, or after a sum with negative addends, is one linear node. So
    no decomposition has to go through the values between them, for which there is no rule. A sum of
    values in boxes is folded too: the z^β rule gives relevance to a sum that is zero, which could
    not be divided among addends that are zero.
    """
    graph = _linear_at_signed_sums(graph, low, high)
    signed = _signed(graph, low, high)
    owner = graph.owners()
    nodes: list[Node] = []
    folded: list[Node] = list(graph.nodes)
    for index, node in enumerate(graph.nodes):
        while isinstance(node, Linear) and signed[node.inputs[node.inputs >= 0]].any():
            node = _fold_once(node, signed, owner, folded, graph.constant_values)
        folded[index] = node
        nodes.append(node)
    return compact(replace(graph, nodes=tuple(nodes)))


def _signed(graph: Graph, low: Floats, high: Floats) -> Mask:
    """Mark the addresses of linear nodes and sums that cannot be explained as activations."""
    domains = propagate(graph, low, high)
    signed = np.zeros(graph.size, dtype=bool)
    for node in graph.nodes:
        out = slice(node.start, node.start + node.size)
        match node:
            case Linear(relu=False):
                signed[out] = True
            case Add():
                # The whole sum, so that no part of it is left with addends of both kinds.
                below_zero = (domains.of(node.inputs)[0] < 0).any()
                signed[out] = below_zero or np.isfinite(domains.high[out]).any()
            case Scale():
                signed[out] = (domains.low[out] < 0) | signed[node.inputs]
    return signed


def _linear_at_signed_sums(graph: Graph, low: Floats, high: Floats) -> Graph:
    """Give ReLUs and outputs of signed sums a linear node, which the sums can be folded into."""
    signed = _signed(graph, low, high)
    owner = graph.owners()
    is_sum = np.array([isinstance(node, Add | Scale) for node in graph.nodes] + [False])
    apart = signed & is_sum[owner]
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Relu) and apart[node.inputs].any():
            size, module = node.size, node.module
            identity = np.eye(size)
            node = Linear(node.start, node.inputs, identity, np.zeros(size), True, module=module)
        nodes.append(node)
    outputs = graph.outputs
    if apart[outputs].any():
        identity, zeros = np.eye(outputs.size), np.zeros(outputs.size)
        nodes.append(Linear(graph.size, outputs, identity, zeros))
        outputs = nodes[-1].addresses
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _fold_once(
    node: Linear,
    signed: Mask,
    owner: Addresses,
    nodes: list[Node],
    constants: Callable[[Addresses], Floats],
) -> Linear:
    """Replace every signed input by what it is made of."""
    index = np.maximum(node.inputs, 0)
    belongs = np.where(signed[index] & (node.inputs >= 0), owner[index], -1)
    breaks = np.flatnonzero(np.diff(belongs) != 0) + 1
    inputs: list[Addresses] = []
    weights: list[Floats] = []
    bias = node.bias
    for part in np.split(np.arange(node.inputs.size), breaks):
        weight, addresses = node.weight[:, part], node.inputs[part]
        source = nodes[belongs[part[0]]] if belongs[part[0]] >= 0 else None
        if source is None:
            pieces = [(addresses, weight)]
        else:
            units = addresses - source.start
            match source:
                case Linear():
                    pieces = [(source.inputs, weight @ source.weight[units])]
                    bias = bias + weight @ source.bias[units]
                case Scale():
                    pieces = [(source.inputs[units], weight * source.coefficients[units])]
                case _:  # a sum: its constants are a bias
                    addends = source.inputs[:, units]
                    bias = bias + weight @ constants(addends).sum(axis=0)
                    pieces = [(a[a >= 0], weight[:, a >= 0]) for a in addends]
        inputs += [a for a, _ in pieces]
        weights += [w for _, w in pieces]
    return replace(
        node, inputs=np.concatenate(inputs), weight=np.concatenate(weights, axis=1), bias=bias
    )
