# SPDX-License-Identifier: Apache-2.0
"""Sums of one addend and zeros: the methods that stabilise them keep them, others read through.

A first state of zeros leaves c = f ⊙ 0 + i ⊙ g. The published code of LRP for LSTMs (Arras et al.
2017) divides by c + ε sign c there as at every other step, and a first state that is nearly zero
must not change the map by more than it changes the scores.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.nodes import Add, Graph, Linear, Node, Product, picked
from pyrel.compiler.graph.rewrites import compact
from pyrel.compiler.passes.merge_sums import simplify
from pyrel.methods import Method


def keep_stabilised(facts: Facts, method: Method) -> Graph:
    """Take out the sums of one addend that a method does not stabilise.

    It stabilises those that may be negative. Deep Taylor folds them into the linear nodes that read
    them, but for states of gated cells, where a product is the addend.
    """
    graph = facts.graph
    if not method.conserves or method.folds:
        graph = _without_gated_zeros(facts)
        facts = facts.of(graph)
    if not any(isinstance(node, Add) and node.alone for node in graph.nodes):
        return graph
    signed = np.zeros(graph.size, dtype=bool)
    if method.conserves:
        signed = facts.domains.low < 0
    owner = facts.owners
    is_product = np.array([isinstance(node, Product) for node in graph.nodes] + [False])
    origin = np.arange(graph.size)
    nodes: list[Node] = []
    for node in graph.nodes:
        node = replace(node, inputs=picked(origin, node.inputs, node.inputs))
        if not (isinstance(node, Add) and node.alone):
            nodes.append(node)
            continue
        gated = is_product[picked(owner, node.inputs[0], -1)].any()
        if signed[node.addresses].any() and (gated or not method.folds):
            nodes.append(node)
        else:
            origin[node.addresses] = node.inputs[0]
    outputs = picked(origin, graph.outputs, graph.outputs)
    return compact(replace(graph, nodes=tuple(nodes), outputs=outputs))


def _without_gated_zeros(facts: Facts) -> Graph:
    """Merge sums of pre-activations as if no gated zero had been beside them."""
    graph, owner = facts.graph, facts.owners
    is_linear = np.array([isinstance(node, Linear) for node in graph.nodes] + [False])
    sums = [node for node in graph.nodes if isinstance(node, Add) and node.gated]
    if not any(is_linear[picked(owner, node.inputs, -1)].any() for node in sums):
        return graph
    nodes = (replace(n, gated=False) if isinstance(n, Add) else n for n in graph.nodes)
    return simplify(replace(graph, nodes=tuple(nodes)))
