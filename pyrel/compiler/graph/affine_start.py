# SPDX-License-Identifier: Apache-2.0
"""A graph whose first layer is affine as three: that layer, what follows, and the way back."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from pyrel.compiler.graph.builder import Builder
from pyrel.compiler.graph.nodes import Addresses, Floats, Graph, Linear, Node, Relu, aligned
from pyrel.compiler.graph.rewrites import compact

# What a number of a copy of a sample costs, in multiply-adds: it is written, checked and read, and
# its gradient is written and added up. One behind the first layer is moved twice more, by its ReLU.
# A rough estimate, of some 4 ns against 30 multiply-adds a nanosecond: it decides about the time
# that a call takes, and about no result but by rounding.
_COST_OF_INPUT, _COST_OF_IMAGE = 100, 130


class AffineStart(NamedTuple):
    """The graphs of a model that begins with an affine map z of its input.

    Attributes
    ----------
    image : Graph
        From the input to z.
    rest : Graph
        From z to the outputs.
    back : Graph
        From a gradient with respect to z to that with respect to the input: zᵀ without biases.
    """

    image: Graph
    rest: Graph
    back: Graph


def affine_start(graph: Graph) -> AffineStart | None:
    """Cut a graph behind its first linear nodes; None where that is not exact, or no gain.

    It is exact if nothing but linear nodes reads the input, and these read nothing else. It is a
    gain if many copies on a straight line cost less as copies of z than as copies of the input.
    """
    if graph.layout is not None or graph.vocabulary:
        return None
    first = _first_nodes(graph)
    if not first or not _gains(graph, first):
        return None
    image = np.concatenate([node.addresses for node in first])
    whole = replace(graph, outputs=image, output_shape=(), nodes=tuple(map(_affine, first)))
    return AffineStart(compact(whole), _rest(graph, first, image), _back(graph, first, image))


def _first_nodes(graph: Graph) -> list[Linear]:
    """Return the linear nodes that read the input; none if it is not they alone, and it alone."""
    first: list[Linear] = []
    if (graph.outputs < graph.input_size).any():
        return []
    for node in graph.nodes:
        read = (node.inputs >= 0) & (node.inputs < graph.input_size)
        if not read.any():
            continue
        alone = bool((read | (node.inputs < 0)).all())
        if not (isinstance(node, Linear) and node.positions == 1 and alone):
            return []
        first.append(node)
    begun = np.concatenate([node.addresses for node in first]) if first else graph.outputs
    return [] if np.isin(graph.outputs, begun).any() else first


def _gains(graph: Graph, first: list[Linear]) -> bool:
    """Whether products of both passes cost more than it does to copy z instead of the input."""
    products = 2 * sum(len(node.inputs) * node.weight.size for node in first)
    image = sum(node.size for node in first)
    return products > _COST_OF_IMAGE * image - _COST_OF_INPUT * graph.input_size


def _affine(node: Linear) -> Linear:
    return replace(node, relu=False)


def _rest(graph: Graph, first: list[Linear], image: Addresses) -> Graph:
    """Return the graph from z on, which first takes the ReLUs of the linear nodes."""
    base = aligned(image.size + 1)
    moved: Addresses = np.arange(graph.size) + base
    nodes: list[Node] = []
    place = 0
    for node in first:
        own = np.arange(place, place + node.size)
        place += node.size
        if node.relu:
            nodes.append(Relu(int(moved[node.start]), own, module=node.module))
        else:
            moved[node.addresses] = own
    taken = {node.start for node in first}

    def renamed(addresses: Addresses) -> Addresses:
        return np.where(addresses < 0, addresses, moved[np.maximum(addresses, 0)])

    for other in graph.nodes:
        if other.start not in taken:
            start, inputs = int(moved[other.start]), renamed(other.inputs)
            nodes.append(replace(other, start=start, inputs=inputs))
    outputs = renamed(graph.outputs)
    shape = graph.output_shape
    return compact(Graph((image.size,), tuple(nodes), outputs, graph.constants, output_shape=shape))


def _back(graph: Graph, first: list[Linear], image: Addresses) -> Graph:
    """Return the graph that multiplies by the transposed weights, and adds what meets."""
    builder = Builder((image.size,))
    transposed: dict[int, tuple[Floats, Floats]] = {}
    found: list[Addresses] = []
    place = 0
    for node in first:
        rows = np.arange(place, place + node.size).reshape(len(node.inputs), -1)
        place += node.size
        if id(node.weight) not in transposed:
            weight = np.ascontiguousarray(node.weight.T)
            transposed[id(node.weight)] = weight, np.zeros(len(weight))
        builder.module = node.module
        found.append(builder.linear(rows, *transposed[id(node.weight)]).reshape(-1))
    to = np.concatenate([node.inputs.reshape(-1) for node in first])
    order = np.argsort(to, kind="stable")
    order = order[to[order] >= 0]
    starts = np.searchsorted(to[order], np.arange(graph.input_size))
    nth = np.arange(order.size) - starts[to[order]]  # of what comes back to the same element
    layers = np.full((nth.max() + 1, graph.input_size), builder.constants(np.zeros(1))[0])
    layers[nth, to[order]] = np.concatenate(found)[order]
    return compact(builder.graph(builder.add(layers)))
