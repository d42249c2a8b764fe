# SPDX-License-Identifier: Apache-2.0
"""Makes one node of the weights of each softmax, which know their logits.

A softmax is captured as e^(x − m) / Σ e^(x − m), m being the largest x, and by hand it is written
so, or as e^x / Σ e^x. A rule for all of it needs x, the logits: m only keeps e^x finite, and the
weights do not depend on it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Copy,
    Graph,
    Linear,
    Lookup,
    MaxPool,
    Node,
    Product,
    Scale,
    StopGradient,
    picked,
)
from pyrel.compiler.graph.rewrites import compact
from pyrel.compiler.graph.softmax import Softmax
from pyrel.compiler.passes.finite_masks import FiniteMasks
from pyrel.methods import Method


def gather_softmaxes(graph: Graph, method: Method) -> Graph:
    """Make a `Softmax` of each product of exponentials and the reciprocal of their sum."""
    masks = FiniteMasks(graph)
    parts = _Parts(graph, method, masks)
    moved = np.arange(graph.size)
    position = graph.size
    nodes: list[Node] = []
    known: dict[int, tuple[Addresses, int]] = {}  # by reciprocal: exponentials, first weight
    for node in graph.nodes:
        weights = parts.weights(node) if isinstance(node, Product) else None
        if weights is None:
            nodes.append(replace(node, inputs=picked(moved, node.inputs, node.inputs)))
            continue
        made: list[Addresses] = []
        for reciprocal, exponentials, here in weights:
            if reciprocal not in known:
                members = parts.members(reciprocal)
                known[reciprocal] = members, position
                position += members.size
                same = np.full(members.size, reciprocal)
                made.append(np.stack([members, same, parts.logits(members)]))
            members, first = known[reciprocal]
            order = np.argsort(members)
            place = order[np.searchsorted(members, exponentials, sorter=order)]
            moved[node.start + here] = first + place
        if made:
            inputs = np.concatenate(made, axis=1)
            start = position - inputs.shape[1]
            copies, inputs[2] = masks.of(inputs[2], moved, position)
            nodes.extend(copies)
            nodes.append(Softmax(start, inputs, module=node.module))
            position += sum(copy.size for copy in copies)
    if not known:
        return graph
    outputs = picked(moved, graph.outputs, graph.outputs)
    whole = replace(graph, nodes=tuple(nodes), outputs=outputs, constants=masks.constants)
    return compact(whole)


# Of weights of one row: their reciprocal, their exponentials, and which outputs they are.
_Row: TypeAlias = tuple[int, Addresses, Addresses]


class _Parts:
    """What softmaxes are made of, by address; −1 for others.

    ``_origin`` is what an address is a copy of, ``_read`` what an exponential is of, or one times a
    mask, ``_sum`` what a reciprocal is of, ``_maximum`` the maximum that an address is minus 1
    times.
    """

    def __init__(self, graph: Graph, method: Method, masks: FiniteMasks) -> None:
        self._graph, self._owner = graph, graph.owners()
        self._passes = method.detach == "pass"
        self._origin: Addresses = np.arange(graph.size)
        self._read, self._sum, self._maximum = np.full((3, graph.size), -1, dtype=np.int64)
        # What it is a copy of, detached or not, or with a mask's zeros added.
        self._plain: Addresses = np.arange(graph.size)
        self._masks = masks
        # Of the input, whose owner is −1, the last says that it is none.
        self._is_pool = np.array([isinstance(node, MaxPool) for node in graph.nodes] + [False])
        self._is_mask = np.array(
            [isinstance(n, Lookup) and bool((n.table >= 0).all()) for n in graph.nodes] + [False]
        )
        self._members: dict[int, Addresses | None] = {}
        for node in graph.nodes:
            self._note(node)

    def _note(self, node: Node) -> None:
        out = node.addresses
        match node:
            case Copy() | StopGradient():
                self._plain[out] = picked(self._plain, node.inputs, node.inputs)
                if isinstance(node, Copy) or (self._passes and not node.held):
                    self._origin[out] = picked(self._origin, node.inputs, node.inputs)
            case Activation(function=Function.exp):
                self._read[out] = node.inputs
            case Activation(function=Function.reciprocal):
                self._sum[out] = picked(self._origin, node.inputs, -1)
            case Product():
                for one, mask in (node.inputs, node.inputs[::-1]):
                    masked = self._is_mask[picked(self._owner, mask, -1)]
                    self._read[out] = np.where(masked, self._logits(one), self._read[out])
            case Scale():
                self._read[out] = np.where(node.coefficients >= 0, self._logits(node.inputs), -1)
                read = picked(self._plain, node.inputs, -1)
                found = self._is_pool[picked(self._owner, read, -1)] & (node.coefficients == -1.0)
                self._maximum[out] = np.where(found, read, -1)
            case Add():
                addend = self._masks.addend[out]
                self._plain[out] = np.where(addend == out, out, self._plain[addend])

    def _logits(self, exponentials: Addresses) -> Addresses:
        """Return what exponentials are of, −1 for others."""
        return picked(self._read, picked(self._origin, exponentials, -1), -1)

    def weights(self, node: Product) -> list[_Row] | None:
        """Return the rows that the outputs are of, if all are weights of a softmax."""
        factors = picked(self._origin, node.inputs, -1)
        swapped = picked(self._sum, factors[0], -1) >= 0
        exponentials = np.where(swapped, factors[1], factors[0])
        reciprocals = np.where(swapped, factors[0], factors[1])
        are = picked(self._read, exponentials, -1) >= 0
        if not (are & (picked(self._sum, reciprocals, -1) >= 0)).all():
            return None
        order = np.argsort(reciprocals, kind="stable")
        edges = np.flatnonzero(np.diff(reciprocals[order])) + 1
        rows = [(int(reciprocals[at[0]]), exponentials[at], at) for at in np.split(order, edges)]
        for reciprocal, row, _ in rows:
            members = self._added(int(self._sum[reciprocal]))
            if members is None or np.unique(members).size < members.size:
                return None
            if not np.isin(row, members).all():
                return None
        return rows

    def members(self, reciprocal: int) -> Addresses:
        """Return the exponentials whose sum a reciprocal is of."""
        members = self._added(int(self._sum[reciprocal]))
        assert members is not None
        return members

    def _added(self, address: int) -> Addresses | None:
        """Return the exponentials that a value is the sum of, with constants; else None."""
        if address not in self._members:
            self._members[address] = self._add_up(address)
        return self._members[address]

    def _add_up(self, address: int) -> Addresses | None:
        if self._read[address] >= 0:
            return np.array([address])
        node = self._graph.nodes[self._owner[address]] if self._owner[address] >= 0 else None
        if not isinstance(node, Add):
            return None
        read = node.inputs[:, address - node.start]
        addends = self._origin[read[read >= 0]]
        if (self._read[addends] >= 0).all():
            return addends
        parts = [self._added(addend) for addend in addends.tolist()]
        found = [part for part in parts if part is not None]
        return np.concatenate(found) if len(found) == len(parts) else None

    # Logits

    def logits(self, exponentials: Addresses) -> Addresses:
        """Return what the exponentials of one row are of, before their maximum was taken off.

        What is −∞ for every sample is the constant 0, which gets nothing.
        """
        logits = self._masks.without_infinite(self._read[exponentials])
        while (logits >= 0).any():
            variable = np.flatnonzero(logits >= 0)
            values = self._less_maximum(logits[variable])
            if values is None:
                values = picked(self._masks.addend, logits[variable], -1)
                if np.array_equal(values, logits[variable]):
                    break
            logits[variable] = values
        return logits

    def _less_maximum(self, read: Addresses) -> Addresses | None:
        """Return x of values that are all x − m, m being the largest; None if they are not."""
        owners = self._owner[read]
        values, maxima = read.copy(), np.full(read.size, -1)
        for index in np.unique(owners[owners >= 0]).tolist():
            here = owners == index
            values[here], maxima[here] = self._shifted(self._graph.nodes[index], read[here])
        one = (maxima == maxima[0]).all() and maxima[0] >= 0
        return values if one else None

    def _shifted(self, node: Node, addresses: Addresses) -> tuple[Addresses, Addresses]:
        """Return x and m of outputs that are x − m, m being the largest of x and others.

        m is −1 where an output is none.
        """
        maxima = np.full(addresses.size, -1)
        values = addresses.copy()
        if isinstance(node, Add) and len(node.inputs) == 2:
            read = node.inputs[:, addresses - node.start]
            for x, other in (read, read[::-1]):
                maximum = picked(self._maximum, other, -1)
                for m in np.unique(maximum[maximum >= 0]).tolist():
                    found = (maximum == m) & np.isin(self._same(x), self._same(self._window(m)))
                    values[found], maxima[found] = x[found], m
        elif isinstance(node, Linear) and not node.relu:
            for index, address in enumerate(addresses.tolist()):
                values[index], maxima[index] = self._unmerged(node, address)
        return values, maxima

    def _same(self, addresses: Addresses) -> Addresses:
        """Return what values are copies of, detached or not, or with a mask's zeros added."""
        return picked(self._plain, addresses, addresses)

    def _window(self, maximum: int) -> Addresses:
        pool = self._graph.nodes[self._owner[maximum]]
        return np.asarray(pool.inputs[:, maximum - pool.start])

    def _unmerged(self, node: Linear, address: int) -> tuple[int, int]:
        """Return x and m where x is a pre-activation, into which −m was merged."""
        row, unit = divmod(address - node.start, node.width)
        inputs, weight = node.inputs[row], node.weight[unit]
        maxima = picked(self._maximum, inputs, -1)
        kept = maxima < 0
        off = maxima[~kept & (weight != 0)]
        if off.size == 1 and weight[~kept].sum() == 1.0:
            for x in self._same(self._window(int(off[0]))).tolist():
                source = self._graph.nodes[self._owner[x]] if x >= 0 else None
                if not isinstance(source, Linear) or self._owner[x] < 0:
                    continue
                at, of = divmod(x - source.start, source.width)
                same = np.array_equal(source.inputs[at], inputs[kept])
                same = same and np.array_equal(source.weight[of], weight[kept])
                if same and source.bias[of] == node.bias[unit] and not source.relu:
                    return x, int(off[0])
        return address, -1
