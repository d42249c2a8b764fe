# SPDX-License-Identifier: Apache-2.0
"""Rewrites of maxima that keep the function, and the relevance."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.intervals import common_runs
from pyrel.compiler.graph.nodes import Copy, Graph, MaxPool, Node, Relu, picked
from pyrel.compiler.graph.relevant_zeros import relevant_at_zero
from pyrel.compiler.graph.rewrites import compact
from pyrel.compiler.limits import SEGMENTS
from pyrel.methods.terms import Mask

_FEW_RUNS = 4


def pool_before_relu(facts: Facts, relevant: Mask | None = None) -> Graph:
    """Let max pools of ReLUs choose before the ReLU, where relevance may arrive at zeros.

    max(0, ·) and the maximum can change places. In a window of zeros the winner then is the largest
    pre-activation, whichever of them a model writes first. Elsewhere such a window gets nothing.
    ``relevant`` marks the zeros where relevance may arrive; by default whatever the rules are.
    """
    graph = facts.graph
    relevant = relevant_at_zero(graph) if relevant is None else relevant
    below = np.arange(graph.size)  # by address: what it is the ReLU of, or itself
    is_relu = np.zeros(graph.size, dtype=bool)
    nodes: list[Node] = []
    padded: list[Copy] = []  # ReLUs with −∞ around them, of which nothing is made yet
    position = graph.size
    for node in graph.nodes:
        if isinstance(node, Relu):
            below[node.addresses], is_relu[node.addresses] = node.inputs, True
        if isinstance(node, Copy):
            inside = ~facts.padding[node.addresses]
            if picked(is_relu, node.inputs, False)[inside].all():
                padded.append(node)
        pools = isinstance(node, MaxPool) and relevant[node.addresses].any()
        if pools:
            for copy in [c for c in padded if np.isin(node.inputs, c.addresses).any()]:
                padded.remove(copy)
                inputs = picked(below, copy.inputs, copy.inputs)
                nodes.append(replace(copy, start=position, inputs=inputs))
                below[copy.addresses], is_relu[copy.addresses] = nodes[-1].addresses, True
                position += copy.size
        if pools and picked(is_relu, node.inputs, True).all():
            inputs = picked(below, node.inputs, node.inputs)
            pool = replace(node, start=position, inputs=inputs)
            nodes.append(pool)
            position += node.size
            node = Relu(node.start, pool.addresses, module=node.module)
            below[node.addresses], is_relu[node.addresses] = node.inputs, True
        nodes.append(node)
    return compact(replace(graph, nodes=tuple(nodes))) if position > graph.size else graph


def chain_pools(facts: Facts, shares: bool) -> Graph:
    """Take the largest of many vectors, such as the states of all steps, two at a time.

    The first of the largest is still the one that is found. Where a method ``shares`` relevance out
    in proportion, only of vectors that may be negative, which it does not.
    """
    graph = facts.graph
    if not any(isinstance(node, MaxPool) and _in_vectors(node) for node in graph.nodes):
        return graph
    domains = facts.domains
    nodes: list[Node] = []
    position = graph.size
    for node in graph.nodes:
        if isinstance(node, MaxPool) and _in_vectors(node):
            below_zero = domains.of(node.inputs)[0] < 0
            if below_zero.all() or not shares:
                largest = node.inputs[0]
                for vector in node.inputs[1:-1]:
                    inputs = np.stack([largest, vector])
                    nodes.append(replace(node, start=position, inputs=inputs))
                    largest = nodes[-1].addresses
                    position += node.size
                node = replace(node, inputs=np.stack([largest, node.inputs[-1]]))
        nodes.append(node)
    return compact(replace(graph, nodes=tuple(nodes)))


def _in_vectors(node: MaxPool) -> bool:
    """Whether there are many inputs, each in a few runs and none constant."""
    many = len(node.inputs) > SEGMENTS and (node.inputs >= 0).all()
    return bool(many) and len(list(common_runs(node.inputs))) <= _FEW_RUNS
