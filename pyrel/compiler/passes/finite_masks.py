# SPDX-License-Identifier: Apache-2.0
"""Logits without infinite masks, for the way back of relevance.

A sum of a score and a mask of −∞ hands R · mask / sum to the mask: 0 · ∞, which is not a number,
though R is 0. The outputs are computed with the masks as they are.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Choice,
    Copy,
    Graph,
    Lookup,
    Node,
    Relu,
    Scale,
    StopGradient,
    picked,
)

FINITE = 1e30  # what stands for ∞: large beside logits; a multiple of it is finite in float32


def is_source(node: Node) -> bool:
    """Whether outputs may be infinite though no input is: what is made of ids, and logarithms."""
    return isinstance(node, Choice | Lookup) or (
        isinstance(node, Activation) and node.function is Function.log
    )


class FiniteMasks:
    """Makes copies of logits, in which no mask that is added is larger than ``FINITE``.

    ``constants`` are those of the graph, after them its large ones, clipped, and a 0, whose address
    is ``zero``. ``addend`` is, by address, what a mask of zeros and ±∞ leaves as it is.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph, self._owner = graph, graph.owners()
        large = np.flatnonzero(np.abs(graph.constants) > FINITE)
        self._clipped = -1 - np.arange(graph.constants.size)  # by index: the address to read
        self._clipped[large] = -1 - graph.constants.size - np.arange(large.size)
        clipped = np.clip(graph.constants[large], -FINITE, FINITE)
        self.constants = np.concatenate([graph.constants, clipped, [0.0]])
        self.zero = -self.constants.size
        self._infinite = np.zeros(graph.size)
        self.addend: Addresses = np.arange(graph.size)
        self._copied = np.full(graph.size, -1, dtype=np.int64)
        self._concerned = np.zeros(len(graph.nodes), dtype=bool)
        for index, node in enumerate(graph.nodes):
            self._concerned[index] = self._concerns(node)
            self._note(node)

    def _note(self, node: Node) -> None:
        out = node.addresses
        match node:
            case Copy() | StopGradient():
                self._infinite[out] = self._sign(node.inputs)
            case Scale():
                self._infinite[out] = self._sign(node.inputs) * np.sign(node.coefficients)
            case Add():
                signs = self._sign(node.inputs)
                low, high = (signs < 0).any(axis=0), (signs > 0).any(axis=0)
                self._infinite[out] = np.where(low & high, 0.0, 1.0 * high - low)
                zero = (node.inputs < 0) & (self._graph.constant_values(node.inputs) == 0.0)
                if ((node.inputs >= 0) | zero | (signs != 0.0)).all():
                    alone = ((node.inputs >= 0) | ~zero).sum(axis=0) == 1
                    alone &= self._infinite[out] == 0.0
                    self.addend[out] = np.where(alone, self.addend[node.inputs.max(axis=0)], out)

    def _sign(self, addresses: Addresses) -> npt.NDArray[np.float64]:
        """Return the sign of what a mask makes infinite for every sample, else 0."""
        constants = self._graph.constant_values(addresses)
        sign = np.where(np.abs(constants) > FINITE, np.sign(constants), 0.0)
        return np.where(addresses < 0, sign, picked(self._infinite, addresses, 0.0))

    def without_infinite(self, logits: Addresses) -> Addresses:
        """Return the logits, and ``zero`` for those that a mask leaves out of every sample."""
        return np.where(self._sign(logits) < 0, self.zero, logits)

    def _concerns(self, node: Node) -> bool:
        """Whether a node is a mask, or a sum with one or what is computed of that by element."""
        constants = np.abs(self._graph.constant_values(node.inputs))
        match node:
            case Lookup():
                return bool((np.abs(node.table) > FINITE).any())
            case Choice():
                return bool(node.beside.size or (constants > FINITE).any())
            case Add() if (constants > FINITE).any():
                return True
            case Add() | Scale() | Copy() | StopGradient() | Activation() | Relu():
                owners = self._owner[node.inputs[node.inputs >= 0]]
                read = self._concerned[owners[owners >= 0]]
                return bool(read.any()) or is_source(node)
            case _:
                return False

    def of(
        self, logits: Addresses, moved: Addresses, position: int
    ) -> tuple[list[Node], Addresses]:
        """Return nodes to put at ``position``, and the logits to read.

        ``moved`` says where the values of the graph are now.
        """
        nodes: list[Node] = []
        for index in self._wanted(logits):
            node = self._graph.nodes[index]
            if is_source(node):
                made = self._bounded(node, position)
            else:
                inputs = self._read(node.inputs, moved)
                made = [replace(node, start=position, inputs=inputs)]
            nodes.extend(made)
            self._copied[node.addresses] = made[-1].addresses
            position += sum(each.size for each in made)
        return nodes, self._read(logits, moved)

    def _wanted(self, logits: Addresses) -> list[int]:
        """Return the nodes to copy that are not yet, in their order; a mask alone needs no copy."""
        found = {index for index in self._uncopied(logits) if not self._is_source(index)}
        ahead = list(found)
        while ahead:
            index = ahead.pop()
            if not self._is_source(index):
                more = self._uncopied(self._graph.nodes[index].inputs) - found
                found |= more
                ahead.extend(more)
        return sorted(found)

    def _is_source(self, index: int) -> bool:
        return is_source(self._graph.nodes[index])

    def _uncopied(self, addresses: Addresses) -> set[int]:
        """Return the nodes that values are of, if copies of them are to be made."""
        variable = self.addend[addresses[addresses >= 0]]
        owners = np.unique(self._owner[variable[self._copied[variable] < 0]])
        owners = owners[owners >= 0]
        return set(owners[self._concerned[owners]].tolist())

    def _bounded(self, node: Node, position: int) -> list[Node]:
        least = Activation(position, node.addresses, Function.at_least, -FINITE, module=node.module)
        most = Function.at_most
        start = position + node.size
        return [least, Activation(start, least.addresses, most, FINITE, module=node.module)]

    def _read(self, addresses: Addresses, moved: Addresses) -> Addresses:
        """Return the copies of values, or where they are now; of constants the clipped ones."""
        addresses = picked(self.addend, addresses, addresses)
        copies = picked(self._copied, addresses, -1)
        values = np.where(copies >= 0, copies, picked(moved, addresses, -1))
        index = -1 - addresses
        known = (index >= 0) & (index < self._clipped.size)
        clipped = self._clipped[np.where(known, index, 0)] if self._clipped.size else addresses
        return np.where(addresses >= 0, values, np.where(known, clipped, addresses))
