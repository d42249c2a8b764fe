# SPDX-License-Identifier: Apache-2.0
"""Which products of a gate and a signal carry a state on, such as f ⊙ c′ in an LSTM.

Where gates get half of the relevance, the state that is carried gets all: halving at every step
would leave nothing to the early ones. The structure of the graph tells such a product:

- it is an addend of a sum that has a *new* part;
- its signal is a *state*: it came through a gate already, without a linear layer or a function
  since; or it is a constant or an element of the input, as initial states are.

A part is new that comes out of a linear layer, an embedding or a function, such as tanh, and
through one gate at most. So in c = f ⊙ c′ + i ⊙ g the part i ⊙ g is new and f ⊙ c′ is carried; so
are z ⊙ h′ in a GRU, and what goes round the layer in a highway network. In a sum of states alone,
such as their mean or a gated choice between two, nothing is new and nothing is carried.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.nodes import (
    Add,
    Addresses,
    Choice,
    Copy,
    Graph,
    Linear,
    MaxPool,
    Node,
    Normalise,
    Product,
    Scale,
    StopGradient,
    picked,
)
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.methods.terms import Mask


def mark_carries(facts: Facts) -> Graph:
    """Say of each product of a gate and a signal which of its elements carry a state on.

    Sums of gated pre-activations must be sums still (`pyrel.compiler.graph.gates`).
    """
    return _Carries(facts).marked()


class _Carries:
    """Masks by address: what is a state, what has a new part, what is added to a new part."""

    def __init__(self, facts: Facts) -> None:
        graph = facts.graph
        self._graph = graph
        self._gates = facts.gates
        # Of constants and the input, whose owner is −1, the last says that they are none.
        self._is_product = np.array([isinstance(n, Product) for n in graph.nodes] + [False])
        self._identities: dict[WeightId, Mask] = {}
        self._state = np.ones(graph.size, dtype=bool)
        self._new = np.zeros(graph.size, dtype=bool)
        self._beside_new = np.zeros(graph.size, dtype=bool)
        self._read_once = self._count_readers() == 1

    def marked(self) -> Graph:
        """Return the graph with `Product.carried`."""
        for node in self._graph.nodes:
            self._find_states(node)
        marked: list[Node] = []
        for node in reversed(self._graph.nodes):
            self._find_sums(node)
            if isinstance(node, Product):
                node = replace(node, carried=self._carried(node))
            marked.append(node)
        return replace(self._graph, nodes=tuple(reversed(marked)))

    def _count_readers(self) -> Addresses:
        counts = np.bincount(self._graph.outputs, minlength=self._graph.size)
        for node in self._graph.nodes:
            counts[np.unique(node.inputs[node.inputs >= 0])] += 1
        return counts

    def _find_states(self, node: Node) -> None:
        """Set the masks of a node's outputs from those of its inputs."""
        state: Mask = np.zeros(node.size, dtype=bool)
        new: Mask = np.ones(node.size, dtype=bool)
        match node:
            case Copy() | Scale() | StopGradient():
                state = picked(self._state, node.inputs, True)
                new = picked(self._new, node.inputs, False)
            case Normalise():
                state = picked(self._state, node.inputs.ravel(), True)
                new = picked(self._new, node.inputs.ravel(), False)
            case MaxPool():
                state = _any(picked(self._state, node.inputs, False))
                new = _any(picked(self._new, node.inputs, False))
            case Choice():
                state = _any(picked(self._state, node.values, True))
                new = _any(picked(self._new, node.values, False))
            case Product():
                gated, carries = self._signal_states(node)
                state, new = gated, ~(gated & carries)
            case Add():
                # A constant zero beside others is what a gate left of a first state.
                zero = (node.inputs < 0) & (self._graph.constant_values(node.inputs) == 0)
                zero |= node.alone or node.gated
                state = _any(picked(self._state, node.inputs, False) | zero)
                new = _any(picked(self._new, node.inputs, False))
            case Linear():
                columns = self._added_columns(node)
                if columns.any():
                    units = node.weight[:, columns].argmax(axis=0)
                    state[units] = picked(self._state, node.inputs[0, columns], False)
        self._state[node.addresses] = state
        # Of a state that others read, too, the new part belongs to an earlier sum.
        self._new[node.addresses] = new & (~state | self._read_once[node.addresses])

    def _signal_states(self, node: Product) -> tuple[Mask, Mask]:
        """Mark the elements that are a gate times a signal, and those whose signal is a state."""
        is_gate = self._gates.chosen(node)
        signals = np.where(is_gate[0], node.inputs[1], node.inputs[0])
        return is_gate[0] ^ is_gate[1], picked(self._state, signals, True)

    def _added_columns(self, node: Linear) -> Mask:
        """Mark the inputs that a linear node just adds, as sums do that were merged into it."""
        if len(node.inputs) > 1:
            return np.zeros(node.inputs.shape[1], dtype=bool)
        key = node.named
        if key not in self._identities:
            ones = (node.weight != 0).sum(axis=0) == 1
            self._identities[key] = ones & (node.weight.max(axis=0) == 1.0)
        read = node.inputs[0]
        gated = self._is_product[picked(self._gates.owner, read, -1)]
        return np.asarray(self._identities[key] & gated)

    def _find_sums(self, node: Node) -> None:
        """Say of a sum's addends whether one of them has a new part; sums of sums are one sum."""
        match node:
            case Add():
                inner = self._beside_new[node.addresses] & self._read_once[node.addresses]
                whole = _any(picked(self._new, node.inputs, False)) | inner
                for addend in node.inputs:
                    self._mark_beside_new(addend, whole)
            case Copy() | Scale() | StopGradient():
                self._mark_beside_new(node.inputs, self._beside_new[node.addresses])
            case Choice():
                for value in node.values:
                    self._mark_beside_new(value, self._beside_new[node.addresses])
            case Linear():
                read = node.inputs[0, self._added_columns(node)]
                self._mark_beside_new(read, np.ones(read.size, dtype=bool))

    def _mark_beside_new(self, addresses: Addresses, mask: Mask) -> None:
        found = addresses[mask & (addresses >= 0)]
        self._beside_new[found] = True

    def _carried(self, node: Product) -> Mask:
        gated, carries = self._signal_states(node)
        return np.asarray(gated & carries & self._beside_new[node.addresses])


def _any(masks: Mask) -> Mask:
    """By column, whether any row is marked."""
    return np.asarray(masks.any(axis=0))
