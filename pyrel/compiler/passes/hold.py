# SPDX-License-Identifier: Apache-2.0
"""Holds inputs constant: relevance and gradients stop there, whatever a method makes of detach."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.elements import are_floats
from pyrel.compiler.graph.nodes import (
    Addresses,
    Embedding,
    Graph,
    Lookup,
    Node,
    StopGradient,
    picked,
)
from pyrel.compiler.graph.rewrites import compact
from pyrel.methods.terms import Mask


def hold(graph: Graph, elements: Mask) -> Graph:
    """Put a node between some elements of the input, (input size,), and all that reads them.

    Of token ids it stands behind the rows that they look up.
    """
    moved: Addresses = np.arange(graph.size)
    end = graph.size
    first: list[Node] = []
    floats = np.flatnonzero(elements & are_floats(graph))
    if floats.size:
        first.append(StopGradient(end, floats, held=True))
        moved[floats] = first[0].addresses
        end += floats.size
    nodes = list(first)
    for node in graph.nodes:
        of_ids = isinstance(node, Embedding) and not isinstance(node, Lookup)
        node = replace(node, inputs=picked(moved, node.inputs, node.inputs))
        nodes.append(node)
        if not of_ids:
            continue
        assert isinstance(node, Embedding)
        rows = node.addresses.reshape(node.inputs.size, -1)[elements[node.inputs]].reshape(-1)
        if rows.size:
            nodes.append(StopGradient(end, rows, held=True, module=node.module))
            moved[rows] = nodes[-1].addresses
            end += rows.size
    outputs = picked(moved, graph.outputs, graph.outputs)
    return compact(replace(graph, nodes=tuple(nodes), outputs=outputs))
