# SPDX-License-Identifier: Apache-2.0
"""Makes the nodes of a graph, for whoever knows the addresses of their operands.

A `Builder` knows one sample only. Whatever has constant operands alone is computed at once, so
every operation takes constants, and gives constants back where there is nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.lookups import IdFunction, Lookups
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Choice,
    Copy,
    CustomGradient,
    Embedding,
    Floats,
    Graph,
    Linear,
    Lookup,
    MaxPool,
    Node,
    Normalise,
    Product,
    Relu,
    Scale,
    StopGradient,
    picked,
)
from pyrel.compiler.graph.rewrites import live_nodes

Mask = npt.NDArray[np.bool_]

_FUNCTIONS: dict[Function, Callable[[torch.Tensor, float], torch.Tensor]] = {
    Function.sigmoid: lambda x, _: torch.sigmoid(x),
    Function.tanh: lambda x, _: torch.tanh(x),
    Function.softplus: lambda x, _: torch.logaddexp(x, torch.zeros_like(x)),
    Function.leaky_relu: lambda x, slope: functional.leaky_relu(x, slope),
    Function.elu: lambda x, alpha: functional.elu(x, alpha),
    Function.gelu: lambda x, _: functional.gelu(x),
    Function.gelu_tanh: lambda x, _: functional.gelu(x, approximate="tanh"),
    Function.silu: lambda x, _: functional.silu(x),
    Function.reciprocal: lambda x, _: 1.0 / x,
}


class Builder:
    """Collects the nodes of one graph.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one sample, whose elements have the addresses from 0 on.
    """

    def __init__(self, input_shape: tuple[int, ...]) -> None:
        self.input_shape = input_shape
        self.input_size = int(np.prod(input_shape, dtype=np.int64))
        self.module = ""  # path of the module that nodes are made for
        self._nodes: list[Node] = []
        self._next = self.input_size
        self._constants: dict[tuple[float, bool], int] = {}
        self._gated_zero: int | None = None
        self._table = np.empty(64)  # their values, and room for more
        # Of token ids: how many rows the smallest table has that reads them; 0 if none does.
        self._bounds = np.zeros(self.input_size, dtype=np.int64)
        self.lookups = Lookups(self.input_size)
        # By address, empty as long as nothing is stopped: what it is where no gradient goes
        # through it (itself, if none does anyway), else −1.
        self._stopped = np.empty(0, dtype=np.int64)

    def inputs(self) -> Addresses:
        """Addresses of one sample's elements, in its shape."""
        return np.arange(self.input_size).reshape(self.input_shape)

    def graph(self, outputs: Addresses) -> Graph:
        """Finish the graph, given the addresses of the outputs."""
        constants, vocabulary = self._table[: len(self._constants)].copy(), 0
        bounds = None
        if self._bounds.any():
            vocabulary = int(self._bounds.max())
            if (self._bounds != vocabulary).any():
                bounds = self._bounds.reshape(self.input_shape).copy()
        nodes = self._nodes
        if self.lookups:
            live = {node.start for node in live_nodes(tuple(nodes), outputs, self._next)}
            nodes = self.lookups.resolved(nodes, live, self._bounds)
        return Graph(self.input_shape, tuple(nodes), outputs, constants, vocabulary, bounds)

    # Constants

    def constants(self, values: npt.ArrayLike) -> Addresses:
        """Addresses of numbers."""
        numbers = np.asarray(values, dtype=np.float64)
        if numbers.size == 1:
            return np.full(numbers.shape, self._constant(float(numbers.item())))
        unique, inverse = np.unique(numbers, return_inverse=True)
        addresses = np.array([self._constant(v) for v in unique.tolist()], dtype=np.int64)
        return np.asarray(addresses[inverse.reshape(numbers.shape)])

    def _constant(self, value: float, of_gate: bool = False) -> int:
        index = self._constants.setdefault((value, of_gate), len(self._constants))
        if index == self._table.size:
            self._table = np.append(self._table, np.empty_like(self._table))
        self._table[index] = value
        return -1 - index

    def _zero_of_gate(self) -> int:
        """Address of a zero of its own, for what a gate leaves of zeros."""
        if self._gated_zero is None:
            self._gated_zero = self._constant(0.0, of_gate=True)
        return self._gated_zero

    def values(self, addresses: Addresses) -> Floats:
        """Values of constant addresses, 0 elsewhere."""
        return np.where(addresses < 0, self._table[np.maximum(-1 - addresses, 0)], 0.0)

    # Nodes over rows

    def linear(self, rows: Addresses, weight: Floats, bias: Floats) -> Addresses:
        """``rows @ weight.T + bias``, one node: (rows, in) to (rows, out)."""
        if (rows[:, :1] < 0).all() and (rows < 0).all():
            return self.constants(self.values(rows) @ weight.T + bias)
        node = Linear(self._next, rows, weight, bias, module=self.module)
        return self._added(node).reshape(len(rows), -1)

    def normalise(self, rows: Addresses, epsilon: float) -> Addresses:
        """Each row less its mean and by its standard deviation, of the shape of ``rows``."""
        if (rows < 0).all():
            values = self.values(rows)
            centred = values - values.mean(axis=1, keepdims=True)
            variance = (centred**2).mean(axis=1, keepdims=True)
            return self.constants(centred / np.sqrt(variance + epsilon))
        node = Normalise(self._next, rows, epsilon, module=self.module)
        return self._added(node).reshape(rows.shape)

    def embed(self, ids: Addresses, table: Floats) -> Addresses:
        """Rows of ``table`` for each of ``ids``, (rows,) to (rows, width)."""
        out = np.empty((ids.size, table.shape[1]), dtype=np.int64)
        fixed = ids < 0
        if fixed.any():
            out[fixed] = self.constants(table[self.values(ids[fixed]).astype(np.int64)])
        if not fixed.all():
            node = Embedding(self._next, ids[~fixed], table, module=self.module)
            out[~fixed] = self._added(node).reshape(-1, table.shape[1])
            read, rows = ids[~fixed], len(table)
            known = self._bounds[read]
            self._bounds[read] = np.where(known > 0, np.minimum(known, rows), rows)
        return out

    def look_up(
        self,
        operands: Addresses,
        function: Callable[[Sequence[torch.Tensor]], torch.Tensor],
        key: Hashable,
    ) -> Addresses:
        """Take a function of each element, of one token id: (operands, size) to (size,).

        The operands are token ids, functions of them, and constants. ``function`` gets each as a
        tensor of equal length, constants of float64; those of one ``key`` are the same.

        Raises
        ------
        SeveralIdsError
            An element is computed of two ids.
        """
        ids, parts = self.lookups.parts(operands)
        columns, group = np.unique(parts, axis=1, return_inverse=True)
        group = group.reshape(-1)
        out = np.empty(ids.size, dtype=np.int64)
        for index, column in enumerate(columns.T.tolist()):
            here = group == index
            whole = self._composed(function, column)
            if (ids[here] < 0).all():  # nothing but constants
                value = whole(torch.zeros(1, dtype=torch.int64)).to(torch.float64)
                out[here] = self.constants(value.numpy()[0])
            else:
                number = self.lookups.number((key, tuple(column)), whole)
                out[here] = self._looked_up(ids[here], number)
        return out

    def _composed(
        self, function: Callable[[Sequence[torch.Tensor]], torch.Tensor], column: list[int]
    ) -> IdFunction:
        """Make a function of ids of one of operands, given by functions' numbers and constants."""
        values = self.values(np.array(column))
        parts = [None if number < 0 else self.lookups.function(number) for number in column]

        def whole(ids: torch.Tensor) -> torch.Tensor:
            given = [
                torch.full(ids.shape, value, dtype=torch.float64) if part is None else part(ids)
                for part, value in zip(parts, values.tolist(), strict=True)
            ]
            return function(given)

        return whole

    def _looked_up(self, ids: Addresses, number: int) -> Addresses:
        new = np.unique(ids[self.lookups.made(number, ids) < 0])
        if new.size:
            node = Lookup(self._next, new, np.zeros((1, 1)), module=self.module)
            self._added(node)
            self.lookups.add(node, number)
        return self.lookups.made(number, ids)

    def _laid_out(self, operand: Addresses) -> Addresses:
        """Let functions of ids that are repeated lie side by side, as what they multiply does."""
        found = self.lookups.repeated(operand) if self.lookups else None
        if found is None:
            return operand
        number, ids, width = found
        key = number, ids.tobytes(), width
        kept = self.lookups.wide(key)
        if kept is None:
            node = Lookup(self._next, ids, np.zeros((1, width)), module=self.module)
            kept = self._added(node)
            self.lookups.add(node, number)
            self.lookups.keep_wide(key, kept)
        return kept

    def copy(self, addresses: Addresses) -> Addresses:
        """Put the same values side by side, in a place of their own."""
        if (addresses < 0).all():
            return addresses
        node = Copy(self._next, addresses.reshape(-1), module=self.module)
        return self._added(node).reshape(addresses.shape)

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
            return np.asarray(_FUNCTIONS[function](torch.from_numpy(values[0]), parameter))

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
        first, others = addends[0], addends
        gated = self._gated_zero is not None and bool((addends == self._gated_zero).any())
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
        operands = np.stack([self._laid_out(left), self._laid_out(right)])
        zero: Mask | None = None
        if (operands < 0).any():
            zero = ((operands < 0) & (self.values(operands) == 0)).any(axis=0)
            operands = np.where(zero, self._constant(0.0), operands)
        out = self._elements(
            operands,
            lambda start, a, _: Product(start, a, module=self.module),
            lambda v: v.prod(axis=0),
        )
        return out if zero is None or not zero.any() else np.where(zero, self._zero_of_gate(), out)

    def choose(
        self, values: Addresses, masks: Addresses, beside: Addresses | None = None
    ) -> Addresses:
        """Those of some values, (values, size), that masks of token ids choose; see `Choice`."""
        out = values[0].copy()
        known = (masks < 0).all(axis=0)  # of ids that are constants
        if known.any():
            places = self.values(masks[:, known]).argmax(axis=0)
            out[known] = values[places, np.flatnonzero(known)]
            if beside is not None:
                out[known] = np.where(self.values(beside[known]) != 0, beside[known], out[known])
        left = ~known
        if beside is None:
            left &= (values != values[0]).any(axis=0)
        if not left.any():
            return np.asarray(out)
        rows = [*values[:, left], *(self._wide(mask) for mask in masks[:, left])]
        rows += [] if beside is None else [beside[left]]
        node = Choice(self._next, np.stack(rows), module=self.module)
        out[left] = self._added(node)
        return np.asarray(out)

    def _wide(self, mask: Addresses) -> Addresses:
        """Let masks that are repeated lie side by side, as what they choose does."""
        laid = self._laid_out(mask)
        if laid is not mask or mask.size < 2 or (np.diff(mask) != 0).any():
            return laid
        key = "wide", int(mask[0]), mask.size
        kept = self.lookups.wide(key)
        if kept is None:
            kept = self.copy(mask)
            self.lookups.keep_wide(key, kept)
        return kept

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
        if self._stopped.size < self._next:
            self._stopped = _grown(self._stopped, self._next)
        # What depends on token ids alone has no gradient anyway.
        alone = self.lookups.are_alone(addresses)
        self._stopped[addresses[alone]] = addresses[alone]
        left = np.unique(addresses[(addresses >= 0) & (picked(self._stopped, addresses, 0) < 0)])
        if left.size:
            made = self._added(StopGradient(self._next, left, module=self.module))
            self._stopped[left] = made
        return np.where(addresses < 0, addresses, self._stopped[np.maximum(addresses, 0)])

    def custom_gradient(self, addresses: Addresses, what: str) -> Addresses:
        """Return the same values, (size,), that have another gradient, if they have any."""
        changed = (addresses >= 0) & ~self._is_stopped(addresses)
        return self._customised(addresses, changed, what)

    def written(self, after: Addresses, before: Addresses, what: str) -> Addresses:
        """Return values, (size,), that replaced others whose gradient they keep."""
        kept = (after == before) | (after == self._stops_of(before))
        stopped = (before < 0) | self._is_stopped(before)
        out = np.where(kept, before, self._customised(after, ~(kept | stopped), what))
        return np.where(stopped & ~kept, self.stop(after), out)

    def _customised(self, addresses: Addresses, changed: Mask, what: str) -> Addresses:
        out = addresses.copy()
        if changed.any():
            node = CustomGradient(self._next, addresses[changed], what, module=self.module)
            out[changed] = self._added(node)
        return out

    def _is_stopped(self, addresses: Addresses) -> Mask:
        stopped = self._stops_of(addresses) == addresses
        return np.asarray(stopped | self.lookups.are_alone(addresses))

    def _stops_of(self, addresses: Addresses) -> Addresses:
        """Return what `stop` made of addresses, or −1 where it has not been called."""
        if not self._stopped.size:
            return np.full_like(addresses, -1)
        return picked(self._stopped, addresses, -1)

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
        out[order] = self._added(node(self._next, operands[:, order], order))
        return out

    def _added(self, node: Node) -> Addresses:
        self._nodes.append(node)
        self._next += node.size
        self.lookups.noted(node)
        if self._stopped.size:
            self._stopped = _grown(self._stopped, self._next)
            reads = node.inputs[node.inputs >= 0]
            if isinstance(node, StopGradient) or self._is_stopped(reads).all():
                self._stopped[node.addresses] = node.addresses
        return node.addresses


def _grown(stopped: Addresses, size: int) -> Addresses:
    """Make room for ``size`` addresses, of which the new ones are not stopped."""
    room = max(0, size - stopped.size) and size
    return np.append(stopped, np.full(room, -1, dtype=np.int64)) if room else stopped


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
