# SPDX-License-Identifier: Apache-2.0
"""What every rewrite of a graph ends with, and whether two graphs are the same."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np

from pyrel.compiler.graph.nodes import (
    Addresses,
    Floats,
    Graph,
    Lookup,
    Node,
    StopGradient,
    aligned,
)
from pyrel.methods.terms import Mask


def live_nodes(nodes: tuple[Node, ...], outputs: Addresses, size: int) -> tuple[Node, ...]:
    """Return the nodes that the outputs depend on, in their order."""
    used = np.zeros(size + 1, dtype=bool)
    used[np.maximum(outputs, -1)] = True
    kept: list[Node] = []
    for node in reversed(nodes):
        if used[node.start : node.start + node.size].any():
            kept.append(node)
            used[np.maximum(node.inputs, -1)] = True
    return tuple(reversed(kept))


def reached_by_gradients(graph: Graph) -> Mask:
    """Mark the addresses that gradients of the outputs reach."""
    reached = np.zeros(graph.size, dtype=bool)
    reached[graph.outputs] = True
    for node in reversed(graph.nodes):
        if not isinstance(node, StopGradient | Lookup) and reached[node.addresses].any():
            reached[node.inputs[node.inputs >= 0]] = True
    return reached


def same_graph(one: Graph, other: Graph) -> bool:
    """Whether two graphs compute the same, node by node and weight by weight."""
    if one.input_shape != other.input_shape or len(one.nodes) != len(other.nodes):
        return False
    if one.vocabulary != other.vocabulary or not np.array_equal(one.outputs, other.outputs):
        return False
    if one.layout != other.layout:
        return False
    if one.output_shape != other.output_shape or not _same_bounds(one.bounds, other.bounds):
        return False
    numbered_alike = np.array_equal(one.constants, other.constants)

    def same_inputs(left: Addresses, right: Addresses) -> bool:
        if np.array_equal(left, right) and (numbered_alike or (left >= 0).all()):
            return True
        variable = np.array_equal(np.maximum(left, -1), np.maximum(right, -1))
        return variable and _close(one.constant_values(left), other.constant_values(right))

    pairs = zip(one.nodes, other.nodes, strict=True)
    return all(
        type(a) is type(b) and same_inputs(a.inputs, b.inputs) and _same_node(a, b)
        for a, b in pairs
    )


def agree(one: Graph, other: Graph) -> bool:
    """Whether two graphs are the same, if not in what nothing depends on."""
    return same_graph(one, other) or same_graph(compact(one), compact(other))


def places(graph: Graph) -> int:
    """Count the addresses that the nodes of a graph read."""
    return sum(node.inputs.size for node in graph.nodes)


def _same_bounds(one: Addresses | None, other: Addresses | None) -> bool:
    if one is None or other is None:
        return one is other
    return np.array_equal(one, other)


def _same_node(a: Node, b: Node) -> bool:
    """Whether two nodes of one type are the same but for their inputs."""
    for field in fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if left is right or field.name in ("inputs", "weight_id"):
            continue
        if isinstance(left, np.ndarray):
            if not _close(left, right):
                return False
        elif left != right:
            return False
    return True


def _close(a: Floats, b: Floats) -> bool:
    # What torch computes from parameters may round differently for another batch size.
    return a.shape == b.shape and bool(
        np.array_equal(a, b) or np.allclose(a, b, rtol=1e-5, atol=1e-7)
    )


def compact(graph: Graph) -> Graph:
    """Drop dead nodes and renumber the rest densely, each node starting on a cache line."""
    nodes = live_nodes(graph.nodes, graph.outputs, graph.size)
    constants = graph.constants.size
    moved = np.arange(-constants, graph.size)  # index: old address + constants
    position = graph.base
    placed: list[Node] = []
    for node in nodes:
        # Negative addresses stay: beside constants they are marks of what is not there.
        inputs = np.where(node.inputs < 0, node.inputs, moved[node.inputs + constants])
        placed.append(replace(node, start=position, inputs=inputs))
        old = node.addresses + constants
        moved[old] = np.arange(position, position + node.size)
        position = aligned(position + node.size)
    return replace(graph, nodes=tuple(placed), outputs=moved[graph.outputs + constants])
