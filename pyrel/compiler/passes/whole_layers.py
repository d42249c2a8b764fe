# SPDX-License-Identifier: Apache-2.0
"""Which nodes have some columns of a layer's weights, as the first step of a recurrence has.

Its state is zero, so that its node has the weights of x alone, where the other steps have those of
[x; h]. A method with one direction for a whole layer makes it of all of the layer's weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from hashlib import blake2b
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import Floats, Graph, Linear
from pyrel.compiler.graph.originals import Original
from pyrel.compiler.graph.weight_ids import WeightId

Digests: TypeAlias = npt.NDArray[np.int64]


def digests(weight: Floats) -> Digests:
    """Return a number for each column of weights; equal columns have equal ones."""
    columns = (np.asarray(column, np.float64) + 0.0 for column in weight.T)  # -0.0 is 0.0
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


class ColumnDigests:
    """Digests of the columns of nodes' weights, made once for those of one name."""

    def __init__(self) -> None:
        self._known: dict[WeightId, tuple[Digests, Digests]] = {}

    def of(self, node: Linear) -> Digests:
        """Return those of the columns that a node has."""
        return self._both(node)[0]

    def of_layer(self, node: Linear) -> Digests:
        """Return those of the layer's weights."""
        return self._both(node)[1]

    def _both(self, node: Linear) -> tuple[Digests, Digests]:
        if node.named not in self._known:
            mine = whole = digests(node.weight)
            if node.original is not None:
                whole = digests(node.original.weight)
            self._known[node.named] = mine, whole
        return self._known[node.named]


def tell_whole_layers(graph: Graph) -> Graph:
    """Give nodes with some columns of a layer's weights those of the whole layer as the original.

    They become nodes of the layer's module, where two modules are added up to a layer.
    """
    by_name: dict[WeightId, Linear] = {}
    for node in graph.nodes:
        if isinstance(node, Linear):
            by_name.setdefault(node.named, node)
    # The widest first, so that nodes which read less find the layer that they are of.
    parts = _parts(sorted(by_name.values(), key=lambda each: -each.weight.shape[1]))
    if not parts:
        return graph
    nodes = (
        parts[node.named](node) if isinstance(node, Linear) and node.named in parts else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


class _PartOf:
    """Tells a node the layer that it has some columns of, from ``place`` on."""

    def __init__(self, whole: Linear, place: int) -> None:
        self._whole, self._place = whole, place

    def __call__(self, node: Linear) -> Linear:
        columns = slice(self._place, self._place + node.weight.shape[1])
        return replace(
            node,
            module=self._whole.module,
            # What a rule makes of it is not what it makes of the same weights on their own.
            weight_id=node.named.derived("of a layer", self._whole.named),
            original=Original(self._whole.weight).then(lambda matrix: matrix[:, columns]),
        )


def _parts(nodes: Iterable[Linear]) -> dict[WeightId, _PartOf]:
    """Find the names of weights that are columns of a layer's, given one node for each name."""
    columns = ColumnDigests()
    found: dict[WeightId, _PartOf] = {}
    layers: list[Linear] = []
    for node in nodes:
        for whole in layers:
            if _may_be_part(node, whole):
                place = place_of(columns.of(node), columns.of(whole))
                if place is not None:
                    found[node.named] = _PartOf(whole, place)
                    break
        else:
            layers.append(node)
    return found


def _may_be_part(node: Linear, whole: Linear) -> bool:
    """Whether both are of one module, or of arrays of one layer.

    Of other modules only where the layer is a sum of linear layers: a + W x beside W x, with a
    value a that is no recurrent state, is a layer of its own.
    """
    if node.width != whole.width or node.weight.shape[1] >= whole.weight.shape[1]:
        return False
    if whole.module in (node.module, *node.merged):
        return True
    return whole.connected is None and node.named.originals <= whole.named.originals
