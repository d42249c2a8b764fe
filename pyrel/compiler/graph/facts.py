# SPDX-License-Identifier: Apache-2.0
"""What is known of one graph: everything is computed once, when it is first needed."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from pyrel.compiler.graph.attention import of_attention
from pyrel.compiler.graph.gates import GatedSum, Gates, find_gates
from pyrel.compiler.graph.nodes import (
    Addresses,
    Copy,
    Floats,
    Graph,
    Linear,
    MaxPool,
    Node,
    picked,
)
from pyrel.compiler.graph.norms import find_norms, has_powers
from pyrel.compiler.graph.ranges import Domains, propagate
from pyrel.compiler.graph.recurrences import Recurrence, find_recurrences
from pyrel.methods.terms import LinearNode, Mask


class Facts:
    """Facts of a graph; they end with it, as each pass makes another graph.

    Parameters
    ----------
    graph : Graph
    low, high : ndarray, shape (input size,)
        Range of every input element; −∞ and ∞ where nothing is known.
    """

    def __init__(self, graph: Graph, low: Floats, high: Floats) -> None:
        self.graph = graph
        self.low, self.high = low, high

    @cached_property
    def owners(self) -> Addresses:
        """By address, the index of the node that it belongs to; −1 for the input."""
        return self.graph.owners()

    @cached_property
    def gates(self) -> Gates:
        """Which values are gates, and which are detached."""
        return find_gates(self.graph)

    @cached_property
    def attention(self) -> Mask:
        """Mark the products of attention, where a method has a rule for softmaxes."""
        return of_attention(self.graph, self.gates)

    @cached_property
    def domains(self) -> Domains:
        """Range of every value."""
        return propagate(self.graph, self.low, self.high, self.gates)

    @cached_property
    def norms(self) -> dict[int, Addresses]:
        """By the start of each sum of an L^q norm: the values whose powers it adds up."""
        return find_norms(self.graph, self.domains.low) if has_powers(self.graph) else {}

    @cached_property
    def recurrences(self) -> dict[int, Recurrence]:
        """Recurrent products, by the start of each node."""
        return find_recurrences(self.graph)

    @cached_property
    def pooled(self) -> Mask:
        """Mark the addresses that maxima read."""
        pooled = np.zeros(self.graph.size, dtype=bool)
        for node in self.graph.nodes:
            if isinstance(node, MaxPool):
                pooled[node.inputs[node.inputs >= 0]] = True
        return pooled

    @cached_property
    def members(self) -> dict[int, GatedSum]:
        """Gated sums by the start of each member."""
        return {
            int(address): node
            for node in self.graph.nodes
            if isinstance(node, GatedSum)
            for address in node.members[:, 0]
        }

    @cached_property
    def padding(self) -> Mask:
        """Mark the addresses that hold −∞, beside which anything is the largest."""
        padding = np.zeros(self.graph.size, dtype=bool)
        for node in self.graph.nodes:
            if isinstance(node, Copy):
                padding[node.addresses] = np.isneginf(self.graph.constant_values(node.inputs))
        return padding

    @cached_property
    def read_by_others(self) -> Mask:
        """Mark the outputs, and what nodes that are not linear read, directly or as copies."""
        read = np.zeros(self.graph.size, dtype=bool)
        read[self.graph.outputs] = True
        for node in reversed(self.graph.nodes):
            if isinstance(node, Linear):
                continue
            inputs = node.inputs[read[node.addresses]] if isinstance(node, Copy) else node.inputs
            read[inputs[inputs >= 0]] = True
        return read

    def absorbing(self, node: Copy) -> Mask:
        """Mark the constants that may get relevance: all but zeros that only linear nodes read.

        No rule gives those any. The rule of squared weights writes something there, but does not
        count it in its totals.
        """
        constant = node.inputs < 0
        if not constant.any():
            return constant
        zero = constant & (self.graph.constant_values(node.inputs) == 0)
        kept: Mask = constant & ~(zero & ~self.read_by_others[node.addresses])
        return kept

    def sources(self, conserves: bool) -> Addresses:
        """By address: what it is a copy of, −1 for a constant; itself where it is none.

        Of a method that conserves relevance, copies that absorb some count as none: it must arrive
        there.
        """
        if conserves not in self._sources:
            sources = np.arange(self.graph.size)
            for node in self.graph.nodes:
                if isinstance(node, Copy) and not (conserves and self.absorbing(node).any()):
                    sources[node.addresses] = picked(sources, node.inputs, -1)
            self._sources[conserves] = sources
        return self._sources[conserves]

    @cached_property
    def _sources(self) -> dict[bool, Addresses]:
        return {}

    def linear_node(self, node: Linear, positive: bool = False, gated: bool = False) -> LinearNode:
        """Return a linear node as its rules see it."""
        return LinearNode(
            node.weight,
            node.bias,
            self.domains.of_inputs(node),
            self.graph.constant_values(node.inputs[0]),
            positive,
            gated,
            node.connected,
            self._padding(node),
            None if node.original is None else node.original.weight,
            None if node.original is None else node.original.laid_out,
        )

    def _padding(self, node: Linear) -> Mask:
        """Mark the inputs of each row that are zeros which no input of the model can change."""
        copied = np.asarray(picked(self.sources(False), node.inputs, -1) < 0)
        padding: Mask = copied & self.domains.of_inputs(node).zero
        return padding

    def of(self, graph: Graph) -> Facts:
        """Return the facts of what a pass made of this graph; these, if it left it as it is."""
        return self if graph is self.graph else Facts(graph, self.low, self.high)

    def owner(self, address: int) -> Node | None:
        """Return the node that an address belongs to; None for the input."""
        index = int(self.owners[address])
        return None if index < 0 else self.graph.nodes[index]
