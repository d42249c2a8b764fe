# SPDX-License-Identifier: Apache-2.0
"""Maxima whose gradient all of the largest values share, as that of ``amax`` in torch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.nodes import Add, Addresses, AtMaximum, EvenMaximum, Graph, MaxPool, Node
from pyrel.compiler.graph.rewrites import compact, reached_by_gradients


def write_out_even_maxima(graph: Graph) -> Graph:
    """Make nodes of what the gradient of an even maximum takes.

    That is: the largest value, marks of all that are as large, and their number. Methods that
    conserve relevance share it out by rules of their own, and need none of this. Nor does a maximum
    that no gradient reaches, such as that of a softmax.
    """
    nodes: list[Node] = []
    position = graph.size
    reached = reached_by_gradients(graph)
    for node in graph.nodes:
        if not (isinstance(node, MaxPool) and node.even):
            nodes.append(node)
            continue
        if not reached[node.addresses].any():
            nodes.append(replace(node, even=False))
            continue
        largest = replace(node, start=position, even=False)
        position += largest.size
        marks = AtMaximum(position, _below(node.inputs, largest.addresses), module=node.module)
        position += marks.size
        marked = marks.addresses.reshape(node.inputs.shape)
        number = Add(position, marked, module=node.module)
        position += number.size
        rows = [node.inputs, marked, number.addresses[None], largest.addresses[None]]
        nodes += [largest, marks, number]
        nodes.append(EvenMaximum(node.start, np.concatenate(rows), module=node.module))
    return compact(replace(graph, nodes=tuple(nodes)))


def _below(rows: Addresses, last: Addresses) -> Addresses:
    return np.concatenate([rows, last[None]])
