# SPDX-License-Identifier: Apache-2.0
"""The layers of a graph that patterns are fitted for: which nodes they are, and what they read.

The nodes of one module with the same weights, such as the steps of a recurrent layer, are one
layer. A node with some columns of a layer's weights is of the layer, too, as the first step is,
whose state is zero: it reads [x; 0] (`pyrel.compiler.passes.whole_layers`). A convolution has a row
for each position of its kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.gates import find_gates
from pyrel.compiler.graph.nodes import (
    Addresses,
    Choice,
    Copy,
    Graph,
    Linear,
    Lookup,
    MaxPool,
    Product,
    Relu,
    StopGradient,
)
from pyrel.compiler.passes.gradient_stops import prepared
from pyrel.compiler.passes.lone_sums import keep_stabilised
from pyrel.compiler.passes.whole_layers import (
    ColumnDigests,
    Digests,
    place_of,
    tell_whole_layers,
)
from pyrel.methods import Method
from pyrel.patterns.moments import Floats, Mask


@dataclass(frozen=True, eq=False)
class Layer:
    """Linear nodes of one module and the same weights.

    Attributes
    ----------
    module : str
        Path of the module.
    all_weights : ndarray, shape (width, inputs)
        Of all outputs of the nodes.
    units : ndarray of int64, shape (units,)
        The outputs that relevance can reach: not those of gates.
    columns : ndarray of int64, shape (inputs,)
        Digests of the columns of the whole weights, which tell the layer from others.
    connected : ndarray of bool, shape (units, inputs)
        Which inputs a unit reads.
    before_relu : ndarray of bool, shape (units,)
        Whether only a ReLU reads the unit, directly or through a maximum.
    reads : tuple of (ndarray of int64, int)
        Of each node: addresses of inputs, (rows, some inputs), and the column that these begin at.
    """

    module: str
    all_weights: Floats
    units: Addresses
    columns: Digests
    connected: Mask
    before_relu: Mask
    reads: tuple[tuple[Addresses, int], ...]

    @property
    def width(self) -> int:
        """Number of outputs of the nodes."""
        return len(self.all_weights)

    @cached_property
    def weight(self) -> Floats:
        """Weights of the units; (units, inputs)."""
        return self.all_weights if len(self.units) == self.width else self.all_weights[self.units]

    def inputs(self, values: Floats) -> Floats:
        """Return what the nodes read, (rows, inputs), of the values of a graph, (n, addresses)."""
        rows = [len(values) * len(addresses) for addresses, _ in self.reads]
        read = np.zeros((sum(rows), self.columns.size))
        ends = np.cumsum(rows)
        for (addresses, first), count, end in zip(self.reads, rows, ends, strict=True):
            part = values[:, addresses].reshape(count, -1)
            read[end - count : end, first : first + part.shape[1]] = part
        return read


def resolved(graph: Graph, method: Method) -> Graph:
    """Return a graph as a method sees it that is no gradient's own, before it is laid out.

    Raises
    ------
    UnsupportedModelError
        As of `pyrel.compiler.passes.gradient_stops.prepared`.
    """
    graph = prepared(graph, method)
    unbounded = np.full(graph.input_size, np.inf)
    return tell_whole_layers(keep_stabilised(Facts(graph, -unbounded, unbounded), method))


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """Find the layers of a graph that relevance can reach, in the order of the model."""
    reached, relus = _reached(graph), _read_by_relus(graph)
    columns = ColumnDigests()
    found: dict[tuple[str, int, bytes], list[Linear]] = {}
    for node in graph.nodes:
        if isinstance(node, Linear) and reached[node.addresses].any():
            key = node.module, node.width, columns.of_layer(node).tobytes()
            found.setdefault(key, []).append(node)
    return tuple(_layer(members, columns, reached, relus) for members in found.values())


def _layer(members: list[Linear], columns: ColumnDigests, reached: Mask, relus: Mask) -> Layer:
    """Return the layer of some nodes."""
    # That reads all inputs, or if none of those that relevance reaches does, the first.
    first = next((node for node in members if node.original is None), members[0])
    whole = columns.of_layer(first)

    def by_unit(marks: Mask) -> Iterator[Mask]:
        return (marks[node.addresses].reshape(-1, node.width) for node in members)

    units = np.flatnonzero(np.concatenate([*by_unit(reached)]).any(axis=0))
    before: Mask = np.asarray(np.concatenate([*by_unit(relus)]).all(axis=0))
    if all(node.relu for node in members):
        before[:] = True
    weight = first.weight if first.original is None else first.original.weight
    connected: Mask = np.broadcast_to(np.True_, (len(units), weight.shape[1]))
    if first.connected is not None and first.original is None:
        connected = first.connected[units]
    return Layer(
        first.module,
        weight,
        units,
        whole,
        connected,
        before[units],
        tuple((node.inputs, place_of(columns.of(node), whole) or 0) for node in members),
    )


def _reached(graph: Graph) -> Mask:
    """Mark the addresses that relevance can reach; gates get none."""
    gates = find_gates(graph)
    reached = np.zeros(graph.size, dtype=bool)
    reached[graph.outputs] = True
    for node in reversed(graph.nodes):
        if isinstance(node, StopGradient | Lookup) or not reached[node.addresses].any():
            continue
        inputs = node.inputs
        if isinstance(node, Product):
            parts = gates.split_stopped(node) or gates.split(node)
            inputs = inputs if parts is None else parts[1]
        elif isinstance(node, Choice):
            inputs = node.values
        if not isinstance(node, Linear) and inputs.shape[-1:] == (node.size,):
            inputs = inputs[..., reached[node.addresses]]  # of those elements alone
        reached[inputs[inputs >= 0]] = True
    return reached


def _read_by_relus(graph: Graph) -> Mask:
    """Mark the addresses that only ReLUs read, directly or through copies and maxima."""
    otherwise = np.zeros(graph.size, dtype=bool)
    read = np.zeros(graph.size, dtype=bool)
    otherwise[graph.outputs] = True
    for node in reversed(graph.nodes):
        inputs = np.atleast_2d(node.inputs)
        read[inputs[inputs >= 0]] = True
        if isinstance(node, Relu):
            continue
        passes = isinstance(node, Copy | MaxPool)
        marks = np.ones(inputs.shape, dtype=bool)
        if passes:
            ends = otherwise[node.addresses] | ~read[node.addresses]
            marks = np.broadcast_to(ends, inputs.shape)
        marked = inputs[marks]
        otherwise[marked[marked >= 0]] = True
    found: Mask = read & ~otherwise
    return found
