# SPDX-License-Identifier: Apache-2.0
"""The layers of a graph that patterns are fitted for: which nodes they are, and what they read.

The nodes of one module with the same weights, such as the steps of a recurrent layer, are one
layer. A node with some columns of a layer's weights, side by side, is of the layer, too, as the
first step is, whose state is zero: it reads [x; 0]. A convolution has a row for each position of
its kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

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
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.compiler.passes.gradient_stops import prepared
from pyrel.compiler.passes.lone_sums import keep_stabilised
from pyrel.methods import Method
from pyrel.patterns.moments import Floats, Mask

Digests: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Layer:
    """Linear nodes of one module and the same weights.

    Attributes
    ----------
    module : str
        Path of the module.
    weight : ndarray, shape (units, inputs)
        Of the units that relevance can reach: not those of gates.
    units : ndarray of int64, shape (units,)
        Which of the outputs of the nodes they are.
    width : int
        Number of outputs of the nodes.
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
    weight: Floats
    units: Addresses
    width: int
    columns: Digests
    connected: Mask
    before_relu: Mask
    reads: tuple[tuple[Addresses, int], ...]

    def inputs(self, values: Floats) -> Floats:
        """Return what the nodes read, (rows, inputs), of the values of a graph, (n, addresses)."""
        parts = []
        for addresses, first in self.reads:
            part = values[:, addresses].reshape(-1, addresses.shape[1])
            if part.shape[1] < self.columns.size:
                whole = np.zeros((len(part), self.columns.size))
                whole[:, first : first + part.shape[1]] = part
                part = whole
            parts.append(part)
        return np.concatenate(parts)


def digests(weight: Floats) -> Digests:
    """Return a number for each column of weights; equal columns have equal ones."""
    columns = np.ascontiguousarray(weight.T, np.float64) + 0.0  # -0.0 is 0.0
    found = [blake2b(column.data, digest_size=8).digest() for column in columns]
    return np.frombuffer(b"".join(found), np.int64)


def place_of(some: Digests, columns: Digests) -> int | None:
    """Return where some columns lie, side by side, among others; None if nowhere.

    Raises
    ------
    ValueError
        They lie at several places.
    """
    if some.size > columns.size or not some.size:
        return None
    windows = np.lib.stride_tricks.sliding_window_view(columns, some.size)
    places = np.flatnonzero(np.all(windows == some, axis=1))
    if places.size > 1:
        raise ValueError("the weights of a node are at several places among those of its layer")
    return int(places[0]) if places.size else None


def resolved(graph: Graph, method: Method) -> Graph:
    """Return a graph as a method sees it that is no gradient's own, before it is laid out.

    Raises
    ------
    UnsupportedModelError
        As of `pyrel.compiler.passes.gradient_stops.prepared`.
    """
    graph = prepared(graph, method)
    unbounded = np.full(graph.input_size, np.inf)
    return keep_stabilised(Facts(graph, -unbounded, unbounded), method)


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """Find the layers of a graph that relevance can reach, in the order of the model."""
    reached, relus = _reached(graph), _read_by_relus(graph)
    known: dict[WeightId, Digests] = {}  # those of all steps are of the same weights

    def columns_of(node: Linear) -> Digests:
        if node.named not in known:
            known[node.named] = digests(node.weight)
        return known[node.named]

    groups: dict[tuple[str, int, bytes], list[Linear]] = {}
    for node in graph.nodes:
        if isinstance(node, Linear) and reached[node.addresses].any():
            key = node.module, node.width, columns_of(node).tobytes()
            groups.setdefault(key, []).append(node)
    # The widest first, so that nodes which read less find the layer that they are of.
    found: list[tuple[Linear, list[tuple[Linear, int]]]] = []
    for nodes in sorted(groups.values(), key=lambda each: -each[0].weight.shape[1]):
        columns = columns_of(nodes[0])
        for first, members in found:
            if (first.module, first.width) == (nodes[0].module, nodes[0].width):
                place = place_of(columns, columns_of(first))
                if place is not None:
                    members += [(node, place) for node in nodes]
                    break
        else:
            found.append((nodes[0], [(node, 0) for node in nodes]))
    order = {node.start: index for index, node in enumerate(graph.nodes)}
    found.sort(key=lambda each: min(order[node.start] for node, _ in each[1]))
    return tuple(_layer(members, columns_of(first), reached, relus) for first, members in found)


def _layer(
    members: list[tuple[Linear, int]], columns: Digests, reached: Mask, relus: Mask
) -> Layer:
    """Return the layer of some nodes, of which the first reads all inputs."""
    first, _ = members[0]

    def by_unit(marks: Mask) -> Iterator[Mask]:
        return (marks[node.addresses].reshape(-1, node.width) for node, _ in members)

    units = np.flatnonzero(np.concatenate([*by_unit(reached)]).any(axis=0))
    before: Mask = np.asarray(np.concatenate([*by_unit(relus)]).all(axis=0))
    if all(node.relu for node, _ in members):
        before[:] = True
    connected = np.ones(first.weight.shape, bool) if first.connected is None else first.connected
    return Layer(
        first.module,
        first.weight[units],
        units,
        first.width,
        columns,
        connected[units],
        before[units],
        tuple((node.inputs, place) for node, place in members),
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
