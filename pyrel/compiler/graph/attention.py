# SPDX-License-Identifier: Apache-2.0
"""Which products are those of attention, where a method has a rule for softmaxes."""

from __future__ import annotations

import numpy as np

from pyrel.compiler.graph.gates import Gates
from pyrel.compiler.graph.nodes import (
    Add,
    Choice,
    Copy,
    Graph,
    Product,
    Scale,
    StopGradient,
    picked,
)
from pyrel.compiler.graph.softmax import Softmax
from pyrel.methods.terms import Mask


def of_attention(graph: Graph, gates: Gates) -> Mask:
    """Mark the products, by address, that attention is made of, where softmaxes have a rule.

    They are weights times values; and the products of two values, neither of which is a gate or
    counts as a constant, that logits are computed from without another product between.
    """
    found = np.zeros(graph.size, dtype=bool)
    if not any(isinstance(node, Softmax) for node in graph.nodes):
        return found
    weights = np.zeros(graph.size, dtype=bool)
    for node in graph.nodes:
        match node:
            case Softmax():
                weights[node.addresses] = True
            case Copy() | StopGradient() | Scale():
                weights[node.addresses] = picked(weights, node.inputs, False)
            case Add():
                weights[node.addresses] = picked(weights, node.inputs, True).all(axis=0)
            case Product():
                factor = picked(weights, node.inputs, False)
                constant = gates.split_stopped(node) is not None or gates.by_constants(node)
                found[node.addresses] = factor.any(axis=0) & (not constant)
                fixed = picked(gates.is_gate | gates.is_constant | weights, node.inputs, False)
                weights[node.addresses] = factor.any(axis=0) & fixed.all(axis=0)
    return found | _scoring(graph, gates)


def _scoring(graph: Graph, gates: Gates) -> Mask:
    """Mark the products of two values that logits are computed from."""
    found, reached = np.zeros((2, graph.size), dtype=bool)
    for node in reversed(graph.nodes):
        here = reached[node.addresses]
        read = node.inputs
        match node:
            case Softmax():
                read = node.logits
            case _ if not here.any():
                continue
            case Product():
                parts = gates.split_stopped(node) or gates.split(node)
                if parts is None:
                    found[node.addresses] = here
                    continue
                read = parts[1]
            case Choice():
                read = node.values
        reached[read[read >= 0]] = True
    return found
