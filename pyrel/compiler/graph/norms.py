# SPDX-License-Identifier: Apache-2.0
"""Which sums are those of L^q norms, (Σ x^q)^(1/q), of values that are not below zero.

So do detection-pooling networks pool their units (Montavon et al. 2017, section 5.2).
"""

from __future__ import annotations

import numpy as np

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Copy,
    Floats,
    Graph,
    Node,
    Scale,
    picked,
)

_CLAMPS = (Function.at_least, Function.above)
# q and 1/q, as a model writes them, are rounded.
_ROUNDING = 1e-6


def has_powers(graph: Graph) -> bool:
    """Whether there can be norms, which cost the ranges of all values to find."""
    return any(_exponent(node) > 1 for node in graph.nodes)


def find_norms(graph: Graph, low: Floats) -> dict[int, Addresses]:
    """Return the values whose powers each such sum adds up, by the sum's start.

    They have the shape of the sum's inputs; zeros among these stay. All powers of a sum have one
    exponent q > 1, and all that reads the sum is its q-th root, or that of a multiple, with
    constants ≥ 0 added or held above a number.

    Parameters
    ----------
    graph : Graph
    low : ndarray
        By address, the smallest value.
    """
    orders, bases = _powers(graph, low)
    asked = _roots(graph)
    found: dict[int, Addresses] = {}
    for node in graph.nodes:
        if not isinstance(node, Add):
            continue
        variable = node.inputs >= 0
        order = np.append(orders[node.inputs[variable]], asked[node.addresses])
        close = np.isclose(order, order[0], rtol=_ROUNDING, atol=0).all()
        if close and not graph.constant_values(node.inputs).any():
            found[node.start] = np.where(variable, picked(bases, node.inputs, -1), node.inputs)
    return found


def _powers(graph: Graph, low: Floats) -> tuple[Floats, Addresses]:
    """By address: the exponent q > 1 of a power of a value ≥ 0, else NaN; and that value."""
    orders, bases = np.full(graph.size, np.nan), np.full(graph.size, -1)
    for node in graph.nodes:
        if isinstance(node, Copy):
            orders[node.addresses] = picked(orders, node.inputs, np.nan)
            bases[node.addresses] = picked(bases, node.inputs, -1)
        order = _exponent(node)
        if order > 1:
            known = (node.inputs >= 0) & (picked(low, node.inputs, -1.0) >= 0)
            orders[node.addresses] = np.where(known, order, np.nan)
            bases[node.addresses] = node.inputs
    return orders, bases


def _exponent(node: Node) -> float:
    """Return the exponent of a power; 0 for other nodes."""
    match node:
        case Activation(function=Function.square):
            return 2.0
        case Activation(function=Function.sqrt):
            return 0.5
        case Activation(function=Function.pow):
            return node.parameter
    return 0.0


def _roots(graph: Graph) -> Floats:
    """By address: q where all that reads a value is its q-th root, as of `find_norms`; else 0.

    What nothing reads has 0.
    """
    least, most = np.full(graph.size, np.inf), np.zeros(graph.size)
    least[graph.outputs] = 0.0
    for node in reversed(graph.nodes):
        here = node.addresses
        handed = np.where(least[here] == most[here], most[here], 0.0)
        wanted: float | Floats = 0.0
        match node:
            case Copy():
                wanted = handed
            case Scale():
                wanted = np.where(node.coefficients > 0, handed, 0.0)
            case Add() if _adds_constants(node, graph):
                wanted = handed
            case Activation() if node.function in _CLAMPS:
                wanted = handed
            case Activation() if 0 < _exponent(node) < 1:
                wanted = 1.0 / _exponent(node)
        read = node.inputs >= 0
        orders = np.broadcast_to(wanted, node.inputs.shape)[read]
        np.minimum.at(least, node.inputs[read], orders)
        np.maximum.at(most, node.inputs[read], orders)
    return np.where(least == most, most, 0.0)


def _adds_constants(node: Add, graph: Graph) -> bool:
    """Whether there is one addend, and beside it constants that are not below zero."""
    one = (node.inputs >= 0).sum(axis=0) == 1
    return bool(one.all() and (graph.constant_values(node.inputs) >= 0).all())
