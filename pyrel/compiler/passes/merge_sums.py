# SPDX-License-Identifier: Apache-2.0
"""Rewrites of a graph that keep its function: sums become linear nodes, ReLUs join them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.intervals import runs
from pyrel.compiler.graph.nodes import (
    Add,
    Addresses,
    Floats,
    Graph,
    Linear,
    Node,
    Product,
    Relu,
    Scale,
    picked,
)
from pyrel.compiler.graph.relevant_zeros import relevant_at_zero
from pyrel.compiler.graph.rewrites import compact
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.compiler.passes.twins import Twins

# What a sum is merged of: units of a linear node, or constants, or other values, which are None.
_Part: TypeAlias = tuple[Linear | None, npt.NDArray[Any] | None]
# Weights, biases and connections of merged nodes.
Merged: TypeAlias = dict[WeightId, tuple[Floats, Floats, npt.NDArray[np.bool_] | None]]


def simplify(graph: Graph, twins: Twins | None = None, merged: Merged | None = None) -> Graph:
    """Merge sums of pre-activations, join ReLUs to their linear nodes, drop what is dead.

    Sums that ``twins`` finds are left as they are. Graphs that are given one ``merged`` share the
    weights of merged nodes, as those of one model for several numbers of steps.
    """
    return compact(_join_relus(_merge_sums(graph, twins, {} if merged is None else merged)))


def _merge_sums(graph: Graph, twins: Twins | None, made: Merged) -> Graph:
    """Turn sums and multiples of pre-activations into one linear node over all their inputs.

    A sum of linear pre-activations is one linear function of the concatenated inputs. Explained as
    such it needs no rule of its own; splitting by the signed addends would make negative relevance
    out of nothing. Activations among the addends join with an identity matrix.
    """
    owner = np.full(graph.size + 1, -1, dtype=np.int64)  # by address: index into `nodes`
    origin = np.arange(graph.size)  # by address: the pre-activation that zeros were added to
    nodes: list[Node] = []
    has_lone = any(isinstance(node, Add) and node.alone for node in graph.nodes)
    for node in graph.nodes:
        if has_lone:
            node = replace(node, inputs=picked(origin, node.inputs, node.inputs))
        left = twins is not None and isinstance(node, Add) and twins.meet(node)
        pieces = [node] if left else list(_pieces(node, owner, origin, nodes, graph, made))
        for piece in pieces:
            owner[piece.start : piece.start + piece.size] = len(nodes)
            nodes.append(piece)
    outputs = picked(origin, graph.outputs, graph.outputs)
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _pieces(
    node: Node,
    owner: Addresses,
    origin: Addresses,
    nodes: list[Node],
    graph: Graph,
    made: Merged,
) -> Iterator[Node]:
    """Merge a node, of whose inputs ``owner`` and ``nodes`` tell what became of them.

    Zeros beside a pre-activation are nothing: readers of that sum, and ``origin``, get the latter.
    But a gate times zero beside it is a state carried on, which is left as it is (`_gates_linear`).
    """
    belongs = picked(owner, node.inputs, -1)
    if isinstance(node, Add) and node.gated and _are_plain(belongs, nodes).any():
        yield node
    elif isinstance(node, Add) and node.alone:
        found = _are_plain(belongs[0], nodes)
        origin[node.addresses[found]] = node.inputs[0, found]
        for first, stop in runs(np.where(found, -1, np.arange(node.size))):
            yield replace(node, start=node.start + first, inputs=node.inputs[:, first:stop])
    elif isinstance(node, Add | Scale):
        yield from _merged(node, owner, nodes, graph, made)
    else:
        yield node


def _merged(
    node: Node, owner: Addresses, nodes: list[Node], graph: Graph, made: Merged
) -> Iterator[Node]:
    inputs = np.atleast_2d(node.inputs)
    coefficients = node.coefficients if isinstance(node, Scale) else np.ones(node.size)
    belongs = owner[np.maximum(inputs, -1)]
    found = np.unique(belongs[belongs >= 0]).tolist()
    if any(_gates_linear(nodes[index], owner, nodes) for index in found):
        yield node
        return
    linear = np.array([index for index in found if _is_plain(nodes[index])], dtype=np.int64)
    belongs = np.where(np.isin(belongs, linear), belongs, -1)
    if linear.size == 0:
        yield node
        return
    breaks = np.flatnonzero((np.diff(belongs, axis=1) != 0).any(axis=0)) + 1
    for part in np.split(np.arange(node.size), breaks):
        piece = inputs[:, part]
        sources = [nodes[index] if index >= 0 else None for index in belongs[:, part[0]].tolist()]
        if any(sources):
            yield from _merge_part(node, part, piece, coefficients[part], sources, graph, made)
        elif isinstance(node, Scale):
            yield replace(
                node,
                start=node.start + int(part[0]),
                inputs=piece[0],
                coefficients=coefficients[part],
            )
        else:
            yield replace(node, start=node.start + int(part[0]), inputs=piece)


def _are_plain(belongs: Addresses, nodes: list[Node]) -> npt.NDArray[np.bool_]:
    """Mark what belongs to a plain linear node; −1 belongs to none."""
    found = np.unique(belongs).tolist()
    return np.isin(belongs, [index for index in found if index >= 0 and _is_plain(nodes[index])])


def _is_plain(node: Node) -> bool:
    return isinstance(node, Linear) and not node.relu


def _gates_linear(node: Node, owner: Addresses, nodes: list[Node]) -> bool:
    """Whether a node multiplies a pre-activation, as GRU's reset gate does, or a constant one.

    Sums of such are left as they are: for methods that conserve they become one node later. The
    pre-activation is constant at the first step, where it is the bias alone.
    """
    if not isinstance(node, Product):
        return False
    if (node.inputs < 0).any():
        return True
    found = np.unique(owner[np.maximum(node.inputs, -1)])
    return any(index >= 0 and _is_plain(nodes[index]) for index in found.tolist())


def _merge_part(
    node: Node,
    part: npt.NDArray[np.int64],
    piece: Addresses,
    coefficients: Floats,
    sources: Sequence[Node | None],
    graph: Graph,
    made: Merged,
) -> Iterator[Linear]:
    """Merge addends, of which at least one is part of a linear node, row by row if need be."""
    rows = _rows(piece, coefficients, sources, graph)
    if isinstance(rows, int):
        yield _merge_rows(node, part, piece, coefficients, sources, rows, graph, made)
        return
    for row in np.split(np.arange(part.size), rows):
        some = part[row], piece[:, row], coefficients[row]
        yield _merge_rows(node, *some, sources, 1, graph, made)


def _rows(
    piece: Addresses, coefficients: Floats, sources: Sequence[Node | None], graph: Graph
) -> int | list[int]:
    """How many rows the merged node has; or where to cut, if every row becomes a node."""
    linear = [(s, a - s.start) for s, a in zip(sources, piece, strict=True) if s is not None]
    cuts: set[int] = set()
    whole = True
    for source, units in linear:
        assert isinstance(source, Linear)
        whole &= units.size == source.size and bool((units == np.arange(source.size)).all())
        cuts.update((np.flatnonzero(np.diff(units // source.width) != 0) + 1).tolist())
    if not cuts:
        return 1
    rows = {source.inputs.shape[0] for source, _ in linear if isinstance(source, Linear)}
    if not whole or len(rows) > 1:
        return sorted(cuts)
    count = rows.pop()
    constant = graph.constant_values(piece).reshape(len(piece), count, -1)
    scale = coefficients.reshape(count, -1)
    mixed = ((piece < 0).any(axis=1) & (piece >= 0).any(axis=1)).any()
    alike = not mixed and (constant == constant[:, :1]).all() and (scale == scale[0]).all()
    return count if alike else sorted(cuts)


def _merge_rows(
    node: Node,
    part: npt.NDArray[np.int64],
    piece: Addresses,
    coefficients: Floats,
    sources: Sequence[Node | None],
    rows: int,
    graph: Graph,
    made: Merged,
) -> Linear:
    width = part.size // rows
    inputs: list[Addresses] = []
    parts: list[_Part] = []
    for addend, source in zip(piece, sources, strict=True):
        if isinstance(source, Linear):
            row, unit = np.divmod(addend[:width] - source.start, source.width)
            first = int(row[0])
            inputs.append(source.inputs[first : first + rows])
            parts.append((source, unit))
        elif (addend < 0).all():
            parts.append((None, graph.constant_values(addend[:width])))
        else:
            inputs.append(addend.reshape(rows, width))
            parts.append((None, None))
    name, (weight, bias, connected) = _merged_weights(parts, coefficients[:width], made)
    module, merged = _names(node.module, [source for source, _ in parts if source is not None])
    return Linear(
        node.start + int(part[0]),
        np.concatenate(inputs, axis=1),
        weight,
        bias,
        module=module,
        weight_id=name,
        kind=next(source.kind for source, _ in parts if source is not None),
        connected=connected,
        merged=merged,
    )


def _names(module: str, layers: Sequence[Linear]) -> tuple[str, tuple[str, ...]]:
    """Return the module of a merged node, and all modules that it was made of.

    It is that of its linear layer where there is one alone, as before a batch normalisation; of
    several the one that adds them up.
    """
    modules = dict.fromkeys(layer.module for layer in layers)
    inner = [name for layer in layers for name in layer.merged]
    merged = tuple(dict.fromkeys([*modules, *inner, module]))
    return next(iter(modules)) if len(modules) == 1 else module, merged


def _merged_weights(
    parts: Sequence[_Part], scale: Floats, made: Merged
) -> tuple[WeightId, tuple[Floats, Floats, npt.NDArray[np.bool_] | None]]:
    """Name, weight, bias and connections of a merged node; steps of equal parts share them."""
    name = WeightId(
        "",
        (
            "merged",
            scale.tobytes(),
            *(
                (s and (s.named, s.bias.tobytes()), None if v is None else v.tobytes())
                for s, v in parts
            ),
        ),
    )
    if name not in made:
        weights: list[Floats] = []
        connected: list[npt.NDArray[np.bool_]] = []
        bias = np.zeros(scale.size)
        for source, values in parts:
            if source is not None:
                part = source.weight[values]
                weights.append(part if (scale == 1).all() else scale[:, None] * part)
                bias += scale * source.bias[values]
                whole = np.ones(source.weight.shape, dtype=bool)
                connected.append((whole if source.connected is None else source.connected)[values])
            elif values is not None:
                bias += scale * values
            else:
                weights.append(np.diag(scale))
                connected.append(np.eye(scale.size, dtype=bool))
        joined = np.concatenate(connected, axis=1)
        made[name] = np.concatenate(weights, axis=1), bias, None if joined.all() else joined
    return name, made[name]


def _join_relus(graph: Graph) -> Graph:
    """Let a ReLU over exactly one linear node's outputs, used nowhere else, join that node.

    Not where relevance may arrive at a ReLU that gives zero: the joined node keeps no value below
    zero, which its rule would ask for.
    """
    owner = graph.owners()
    relevant = relevant_at_zero(graph)
    uses = _uses(graph)
    nodes: list[Node | None] = list(graph.nodes)
    for index, node in enumerate(graph.nodes):
        if not isinstance(node, Relu):
            continue
        nodes[index] = None
        for piece in _split_by_owner(node, owner):
            first = int(piece.inputs[0])
            source = graph.nodes[owner[first]] if first >= 0 and owner[first] >= 0 else None
            if (
                isinstance(source, Linear)
                and np.array_equal(piece.inputs, source.addresses)
                and (uses[source.addresses] == 1).all()
                and not relevant[piece.addresses].any()
            ):
                joined = replace(source, start=piece.start, relu=True)
                nodes[owner[first]] = joined
            else:
                nodes.append(piece)
    return _ordered(replace(graph, nodes=tuple(n for n in nodes if n is not None)))


def _uses(graph: Graph) -> npt.NDArray[np.int64]:
    uses = np.zeros(graph.size, dtype=np.int64)
    for addresses in [*(node.inputs for node in graph.nodes), graph.outputs]:
        np.add.at(uses, addresses[addresses >= 0], 1)
    return uses


def _split_by_owner(node: Relu, owner: npt.NDArray[np.int64]) -> Iterator[Relu]:
    belongs = np.where(node.inputs >= 0, owner[node.inputs], -2)
    breaks = np.flatnonzero(np.diff(belongs) != 0) + 1
    for part in np.split(np.arange(node.size), breaks):
        yield replace(node, start=node.start + int(part[0]), inputs=node.inputs[part])


def _ordered(graph: Graph) -> Graph:
    """Sort the nodes so that each comes after those it reads."""
    owner = graph.owners()
    placed: list[Node] = []
    done: set[int] = set()
    stack = list(range(len(graph.nodes) - 1, -1, -1))
    while stack:
        index = stack.pop()
        if index in done:
            continue
        read = graph.nodes[index].inputs
        needed = {int(i) for i in np.unique(owner[read[read >= 0]]) if i >= 0} - done
        if needed:
            stack += [index, *needed]
        else:
            done.add(index)
            placed.append(graph.nodes[index])
    return replace(graph, nodes=tuple(placed))
