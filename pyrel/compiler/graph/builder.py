# SPDX-License-Identifier: Apache-2.0
"""Makes the nodes of a graph, for whoever knows the addresses of their operands.

A `Builder` knows one sample only. Whatever has constant operands alone is computed at once, so
every operation takes constants, and gives constants back where there is nothing else.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.constants import UNKNOWN, Constants
from pyrel.compiler.graph.function_values import function_value
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.id_nodes import IdNodes
from pyrel.compiler.graph.lookups import Lookups
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Copy,
    CustomGradient,
    Embedding,
    Floats,
    Graph,
    Linear,
    MaxPool,
    Node,
    Normalise,
    Product,
    Relu,
    Scale,
    StopGradient,
)
from pyrel.compiler.graph.rewrites import live_nodes
from pyrel.compiler.graph.stops import Stops
from pyrel.compiler.graph.weight_ids import WeightIds

Mask = npt.NDArray[np.bool_]


class Builder:
    """Collects the nodes of one graph.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one sample, whose elements have the addresses from 0 on.
    """

    def __init__(self, input_shape: tuple[int, ...], weight_ids: WeightIds | None = None) -> None:
        self.input_shape = input_shape
        self._weight_ids = weight_ids or WeightIds()
        self.input_size = int(np.prod(input_shape, dtype=np.int64))
        self.module = ""  # path of the module that nodes are made for
        self._nodes: list[Node] = []
        self._next = self.input_size
        self._constants = Constants()
        # Of token ids: how many rows the smallest table has that reads them; 0 if none does.
        self.bounds = np.zeros(self.input_size, dtype=np.int64)
        self.lookups = Lookups(self.input_size)
        self._stops = Stops(self.lookups)

    @property
    def ids(self) -> IdNodes:
        """The builder of nodes that are computed from token ids."""
        return IdNodes(self)  # not kept: the two would keep each other, and the nodes, alive

    @property
    def end(self) -> int:
        """The address at which the next node starts."""
        return self._next

    def inputs(self) -> Addresses:
        """Addresses of one sample's elements, in its shape."""
        return np.arange(self.input_size).reshape(self.input_shape)

    def graph(self, outputs: Addresses) -> Graph:
        """Finish the graph, given the addresses of the outputs."""
        constants, vocabulary = self._constants.table(), 0
        bounds = None
        if self.bounds.any():
            vocabulary = int(self.bounds.max())
            if (self.bounds != vocabulary).any():
                bounds = self.bounds.reshape(self.input_shape).copy()
        nodes = self._nodes
        if self.lookups:
            live = {node.start for node in live_nodes(tuple(nodes), outputs, self._next)}
            nodes = self.lookups.resolved(nodes, live, self.bounds)
        return Graph(self.input_shape, tuple(nodes), outputs, constants, vocabulary, bounds)

    # Constants

    def constants(self, values: npt.ArrayLike) -> Addresses:
        """Addresses of numbers."""
        return self._constants.of(values)

    def values(self, addresses: Addresses) -> Floats:
        """Values of constant addresses, 0 elsewhere."""
        return self._constants.values(addresses)

    # Nodes over rows

    def linear(
        self, rows: Addresses, weight: Floats, bias: Floats, kind: str = "dense"
    ) -> Addresses:
        """``rows @ weight.T + bias``, one node: (rows, in) to (rows, out)."""
        if (rows[:, :1] < 0).all() and (rows < 0).all():
            return self.constants(self.values(rows) @ weight.T + bias)
        name = self._weight_ids.of(weight, self.module)
        node = Linear(self._next, rows, weight, bias, module=self.module, weight_id=name, kind=kind)
        return self.added(node).reshape(len(rows), -1)

    def normalise(self, rows: Addresses, epsilon: float) -> Addresses:
        """Each row less its mean and by its standard deviation, of the shape of ``rows``."""
        if (rows < 0).all():
            values = self.values(rows)
            centred = values - values.mean(axis=1, keepdims=True)
            variance = (centred**2).mean(axis=1, keepdims=True)
            return self.constants(centred / np.sqrt(variance + epsilon))
        node = Normalise(self._next, rows, epsilon, module=self.module)
        return self.added(node).reshape(rows.shape)

    def embed(self, ids: Addresses, table: Floats) -> Addresses:
        """Rows of ``table`` for each of ``ids``, (rows,) to (rows, width)."""
        out = np.empty((ids.size, table.shape[1]), dtype=np.int64)
        fixed = ids < 0
        if fixed.any():
            out[fixed] = self.constants(table[self.values(ids[fixed]).astype(np.int64)])
        if not fixed.all():
            node = Embedding(self._next, ids[~fixed], table, module=self.module)
            out[~fixed] = self.added(node).reshape(-1, table.shape[1])
            self.ids.bound(ids[~fixed], len(table))
        return out

    def copy(self, addresses: Addresses) -> Addresses:
        """Put the same values side by side, in a place of their own."""
        if (addresses < 0).all():
            return addresses
        node = Copy(self._next, addresses.reshape(-1), module=self.module)
        return self.added(node).reshape(addresses.shape)

    # Nodes over elements: operands and results are (size,)

    def relu(self, operand: Addresses, at_zero: float = 0.0) -> Addresses:
        """Largest of each element and 0; ``at_zero`` is that of `Relu`."""
        return self._elements(
            operand[None],
            lambda start, a, _: Relu(start, a[0], at_zero, module=self.module),
            lambda v: np.maximum(v[0], 0.0),
        )

    def activation(
        self, operand: Addresses, function: Function, parameter: float = 0.0
    ) -> Addresses:
        """Take ``function`` of each element."""

        def constant(values: Floats) -> Floats:
            return function_value(function, values[0], parameter)

        return self._elements(
            operand[None],
            lambda start, a, _: Activation(start, a[0], function, parameter, module=self.module),
            constant,
        )

    def scale(self, operand: Addresses, coefficients: npt.ArrayLike) -> Addresses:
        """Each element times a coefficient, which may be one for all."""
        factors = np.broadcast_to(np.asarray(coefficients, dtype=np.float64), operand.shape)
        if (operand < 0).all():
            return self.constants(self.values(operand) * factors)

        def node(start: int, addresses: Addresses, order: Addresses | slice) -> Node:
            return Scale(start, addresses[0], factors[order], module=self.module)

        out = self._elements(operand[None], node, lambda v: v[0])
        fixed = out < 0
        if fixed.any():
            out[fixed] = self.constants(self.values(out[fixed]) * factors[fixed])
        return out

    def add(self, addends: Addresses, *, in_order: bool = False) -> Addresses:
        """Sum over the first axis of (addends, size); see `Add` for addends that are zero."""
        known = self._constants.infinite_sums(addends)
        if not (left := known == UNKNOWN).all():
            known[left] = self.add(addends[:, left], in_order=in_order) if left.any() else []
            return known
        first, others = addends[0], addends
        gated = self._constants.is_of_gate(addends)
        if (addends[:, 0] < 0).any():
            others = addends[((addends >= 0) | (self.values(addends) != 0)).any(axis=1)]
        if len(addends) == 1 or not len(others):
            return np.asarray(first)
        return self._elements(
            others,
            lambda start, a, _: Add(start, a, module=self.module, gated=gated),
            lambda v: v.sum(axis=0),
            in_order=in_order,
        )

    def product(self, left: Addresses, right: Addresses) -> Addresses:
        """Elementwise product of a gate and a signal; where one is 0, a zero that `add` notes."""
        operands = np.stack([self.ids.side_by_side(left), self.ids.side_by_side(right)])
        zero: Mask | None = None
        if (operands < 0).any():
            zero = ((operands < 0) & (self.values(operands) == 0)).any(axis=0)
            operands = np.where(zero, self._constants.one(0.0), operands)
        out = self._elements(
            operands,
            lambda start, a, _: Product(start, a, module=self.module),
            lambda v: v.prod(axis=0),
        )
        if zero is None or not zero.any():
            return out
        return np.where(zero, self._constants.zero_of_gate(), out)

    def maximum(
        self, window: Addresses, *, even: bool = False, in_order: bool = False
    ) -> Addresses:
        """Largest over the first axis of (window, size); ``even`` is that of `MaxPool`."""
        if len(window) == 1:
            return np.asarray(window[0])
        return self._elements(
            window,
            lambda start, a, _: MaxPool(start, a, even, module=self.module),
            lambda v: v.max(axis=0),
            in_order=in_order,
        )

    # Gradients

    def stop(self, addresses: Addresses) -> Addresses:
        """Return the same values, (size,), without gradients."""
        left = self._stops.missing(addresses, self._next)
        if left.size:
            self._stops.note(left, self.added(StopGradient(self._next, left, module=self.module)))
        return np.where(addresses < 0, addresses, self._stops.of(addresses))

    def custom_gradient(self, addresses: Addresses, what: str) -> Addresses:
        """Return the same values, (size,), that have another gradient, if they have any."""
        changed = (addresses >= 0) & ~self._stops.are(addresses)
        return self._customised(addresses, changed, what)

    def written(self, after: Addresses, before: Addresses, what: str) -> Addresses:
        """Return values, (size,), that replaced others whose gradient they keep."""
        kept = (after == before) | (after == self._stops.of(before))
        stopped = (before < 0) | self._stops.are(before)
        out = np.where(kept, before, self._customised(after, ~(kept | stopped), what))
        return np.where(stopped & ~kept, self.stop(after), out)

    def _customised(self, addresses: Addresses, changed: Mask, what: str) -> Addresses:
        out = addresses.copy()
        if changed.any():
            node = CustomGradient(self._next, addresses[changed], what, module=self.module)
            out[changed] = self.added(node)
        return out

    def _elements(
        self,
        operands: Addresses,
        node: Callable[[int, Addresses, Addresses | slice], Node],
        constant: Callable[[Floats], Floats],
        *,
        in_order: bool = False,
    ) -> Addresses:
        """One node over those of the ``size`` elements of (operands, size) that are not constant.

        Unless ``in_order``, elements go by the address of their first operand that is no constant:
        so a map of a convolution stays as it lies in memory, whatever the shape it is read in.
        """
        out = np.empty(operands.shape[1], dtype=np.int64)
        order: Addresses | slice = slice(None)
        fixed = operands[0] < 0
        if fixed.any() and (fixed := (operands < 0).all(axis=0)).any():
            values = self.values(operands[:, fixed])
            out[fixed] = self.constants(constant(values))
            order = np.flatnonzero(~fixed)
            if order.size == 0:
                return out
        if not in_order:
            order = _by_address(operands, order)
        out[order] = self.added(node(self._next, operands[:, order], order))
        return out

    def added(self, node: Node) -> Addresses:
        """Add a node that starts at `end`, and return its addresses."""
        self._nodes.append(node)
        self._next += node.size
        self.lookups.noted(node)
        self._stops.follow(node, self._next)
        return node.addresses


def _by_address(operands: Addresses, order: Addresses | slice) -> Addresses | slice:
    """Sort the elements of an order by their first operand, unless two have the same."""
    chosen = operands[:, order]
    first = chosen[0]
    if (first < 0).any():
        first = chosen[(chosen >= 0).argmax(axis=0), np.arange(chosen.shape[1])]
    if (first[1:] > first[:-1]).all():
        return order
    placed = np.argsort(first, kind="stable")
    if (np.diff(first[placed]) == 0).any():
        return order
    return np.arange(operands.shape[1])[order][placed]
