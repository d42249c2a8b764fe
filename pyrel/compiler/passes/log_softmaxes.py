# SPDX-License-Identifier: Apache-2.0
"""Exponentials of log-softmaxes, e^(x − log Σ e^x), as weights of softmaxes, e^x / Σ e^x."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Graph,
    Node,
    Product,
    Scale,
    picked,
)


def divide_by_sums(graph: Graph) -> Graph:
    """Write e^(x − (log S + m)) as e^(x − m) / S, and e^(x − log S) as e^x / S."""
    parts = _Parts(graph)
    nodes: list[Node] = []
    position = graph.size
    for node in graph.nodes:
        found = parts.weights(node)
        if found is None:
            nodes.append(node)
            continue
        exponentials, sums = found
        module = node.module
        divisor = Activation(position, sums, Function.reciprocal, module=module)
        position += divisor.size
        factors = np.stack([exponentials, divisor.addresses])
        nodes += [divisor, Product(node.start, factors, module=module)]
    return graph if len(nodes) == len(graph.nodes) else replace(graph, nodes=tuple(nodes))


def _at(values: Addresses, address: int) -> int:
    """Return the value at an address, −1 for a constant."""
    return int(values[address]) if address >= 0 else -1


class _Parts:
    """What log-softmaxes are made of, by address; −1 for others.

    ``_minus`` is what a value is −1 times, ``_logarithm`` what it is the logarithm of, and
    ``_less`` and ``_taken`` are a and b of a − b.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph, self._owner = graph, graph.owners()
        self._minus, self._logarithm = np.full((2, graph.size), -1, dtype=np.int64)
        self._less, self._taken = np.full((2, graph.size), -1, dtype=np.int64)
        self._exponential: dict[int, int] = {}  # by what it is of
        self._difference: dict[tuple[int, int], int] = {}  # by a and b
        for node in graph.nodes:
            self._note(node)

    def _note(self, node: Node) -> None:
        out = node.addresses
        match node:
            case Scale():
                self._minus[out] = np.where(node.coefficients == -1.0, node.inputs, -1)
            case Activation(function=Function.log):
                self._logarithm[out] = node.inputs
            case Activation(function=Function.exp):
                self._exponential.update(zip(node.inputs.tolist(), out.tolist(), strict=True))
            case Add() if len(node.inputs) == 2:
                for one, other in (node.inputs, node.inputs[::-1]):
                    minus = picked(self._minus, other, -1)
                    self._less[out] = np.where(minus >= 0, one, self._less[out])
                    self._taken[out] = np.where(minus >= 0, minus, self._taken[out])
                pairs = zip(self._less[out].tolist(), self._taken[out].tolist(), strict=True)
                self._difference.update(zip(pairs, out.tolist(), strict=True))

    def weights(self, node: Node) -> tuple[Addresses, Addresses] | None:
        """Return exponentials, and the sums that these are divided by; None for other nodes."""
        if not isinstance(node, Activation) or node.function is not Function.exp:
            return None
        pairs = [self._weight(address) for address in node.inputs.tolist()]
        known = [pair for pair in pairs if pair is not None]
        if len(known) < len(pairs):
            return None
        exponentials, sums = np.array(known, dtype=np.int64).T
        return exponentials, sums

    def _weight(self, address: int) -> tuple[int, int] | None:
        """Return the exponential and the sum of e^(x − L), L being a logarithm, or one and m."""
        less, taken = _at(self._less, address), _at(self._taken, address)
        if taken < 0:
            return None
        for logarithm, maximum in [(taken, None), *self._addends(taken)]:
            of = less if maximum is None else self._difference.get((less, maximum), -1)
            total = _at(self._logarithm, logarithm)
            if total >= 0 and of >= 0 and of in self._exponential:
                return self._exponential[of], total
        return None

    def _addends(self, address: int) -> list[tuple[int, int]]:
        node = self._graph.nodes[self._owner[address]] if self._owner[address] >= 0 else None
        if not isinstance(node, Add) or len(node.inputs) != 2:
            return []
        one, other = node.inputs[:, address - node.start].tolist()
        return [(one, other), (other, one)]
