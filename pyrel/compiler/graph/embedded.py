# SPDX-License-Identifier: Apache-2.0
"""A graph of token ids as two: one that looks the tokens up, and one that takes what was found."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.layout import Kind
from pyrel.compiler.graph.nodes import Addresses, Embedding, Graph, Lookup, Node, aligned
from pyrel.compiler.graph.rewrites import compact
from pyrel.errors import UnsupportedModelError


def lookup_of(graph: Graph) -> Graph:
    """Return the graph from token ids to the rows of all tables, one id after another.

    It is one table, of all side by side: no id is looked up behind the end of a shorter one.

    Raises
    ------
    UnsupportedModelError
        There is no table.
    """
    tables = _Slots(graph).tables
    if not tables:
        raise UnsupportedModelError(
            "the path of integrated gradients is that of embeddings, and the model has none: it "
            "makes something else of token ids",
            operator="embedding",
        )
    longest = max(len(table) for table in tables)
    padded = [np.pad(table, ((0, longest - len(table)), (0, 0))) for table in tables]
    node = Embedding(graph.base, ids_of(graph), np.concatenate(padded, axis=1))
    return replace(graph, nodes=(node,), outputs=node.addresses)


def ids_of(graph: Graph) -> Addresses:
    """Return the elements of the input that are token ids, all of those of one input."""
    if graph.layout is None:
        return np.arange(graph.input_size)
    kinds = [leaf.elements == Kind.ids for leaf in graph.layout.leaves]
    return np.flatnonzero(graph.layout.marked(kinds))


def from_rows(graph: Graph) -> Graph:
    """Return the graph that takes, for each token id, the id itself and its rows of all tables.

    A sample has one more axis than before, of these numbers; of several inputs, the rows of all ids
    lie behind these. The ids are for what else the model makes of them, such as masks and lengths.
    """
    slots, count = _Slots(graph), graph.input_size
    moved: Addresses = np.arange(graph.size)
    starts = np.zeros(count, dtype=np.int64)  # of the rows of each id
    if graph.layout is None:
        stride = 1 + slots.width
        shape: tuple[int, ...] = (*graph.input_shape, stride)
        moved[:count] *= stride
        starts[:] = moved[:count] + 1
    else:
        ids = ids_of(graph)
        starts[ids] = count + np.arange(ids.size) * slots.width
        shape = (count + ids.size * slots.width,)
    moved[count:] += aligned(math.prod(shape) + 1) - graph.base
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Embedding) and not isinstance(node, Lookup):
            first = starts[node.inputs] + slots.start(node)
            moved[node.addresses] = (first[:, None] + np.arange(node.table.shape[1])).reshape(-1)
            continue
        inputs = np.where(node.inputs < 0, node.inputs, moved[np.maximum(node.inputs, 0)])
        nodes.append(replace(node, start=int(moved[node.start]), inputs=inputs))
    outputs = np.where(graph.outputs < 0, graph.outputs, moved[np.maximum(graph.outputs, 0)])
    whole = Graph(shape, tuple(nodes), outputs, graph.constants)
    return compact(whole)


class _Slots:
    """Where the row of each table lies among the numbers of an id; equal tables share a place."""

    def __init__(self, graph: Graph) -> None:
        found = [
            node
            for node in graph.nodes
            if isinstance(node, Embedding) and not isinstance(node, Lookup)
        ]
        self._names = {node.start: _name(node) for node in found}
        tables = {self._names[node.start]: node.table for node in found}
        self.tables = tuple(tables.values())
        widths = [table.shape[1] for table in self.tables]
        self.width = sum(widths)
        starts = np.cumsum([0, *widths[:-1]]).tolist() if widths else []
        self._starts = dict(zip(tables, starts, strict=True))

    def start(self, node: Embedding) -> int:
        """Return where the rows of a node's table begin."""
        return int(self._starts[self._names[node.start]])


def _name(node: Embedding) -> tuple[tuple[int, ...], bytes]:
    contents = np.ascontiguousarray(node.table)
    return contents.shape, hashlib.blake2b(contents.data).digest()
