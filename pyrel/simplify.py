# SPDX-License-Identifier: Apache-2.0
"""Rewrites of a graph that keep its function: sums become linear nodes, ReLUs join them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from pyrel.graph import Add, Addresses, Floats, Graph, Linear, Node, Relu, Scale, compact


def simplify(graph: Graph) -> Graph:
    """Merge sums of pre-activations, join ReLUs to their linear nodes, drop what is dead."""
    return compact(_join_relus(_merge_sums(graph)))


def _merge_sums(graph: Graph) -> Graph:
    """Turn sums and multiples of pre-activations into one linear node over all their inputs.

    A sum of linear pre-activations is one linear function of the concatenated inputs. Explained as
    such it needs no rule of its own; splitting by the signed addends would make negative relevance
    out of nothing. Activations among the addends join with an identity matrix.
    """
    linear: dict[int, Linear] = {}  # by each address that a plain linear node owns
    nodes: list[Node] = []
    for node in graph.nodes:
        pieces = list(_merged(node, linear, graph)) if isinstance(node, Add | Scale) else [node]
        for piece in pieces:
            nodes.append(piece)
            if isinstance(piece, Linear):
                linear.update(dict.fromkeys(piece.addresses.tolist(), piece))
    return replace(graph, nodes=tuple(nodes))


def _merged(node: Add | Scale, linear: dict[int, Linear], graph: Graph) -> Iterator[Node]:
    inputs = np.atleast_2d(node.inputs)
    coefficients = node.coefficients if isinstance(node, Scale) else np.ones(node.size)
    owner = np.array(
        [[getattr(linear.get(a), "start", -1) for a in row] for row in inputs.tolist()]
    )
    if (owner < 0).all():
        yield node
        return
    breaks = np.flatnonzero((np.diff(owner, axis=1) != 0).any(axis=0)) + 1
    for part in np.split(np.arange(node.size), breaks):
        piece = inputs[:, part]
        if (owner[:, part[0]] >= 0).any():
            yield _merge_part(node, part, piece, coefficients[part], linear, graph)
        elif isinstance(node, Scale):
            yield replace(
                node,
                start=node.start + int(part[0]),
                inputs=piece[0],
                coefficients=coefficients[part],
            )
        else:
            yield replace(node, start=node.start + int(part[0]), inputs=piece)


def _merge_part(
    node: Node,
    part: npt.NDArray[np.int64],
    piece: Addresses,
    coefficients: Floats,
    linear: dict[int, Linear],
    graph: Graph,
) -> Linear:
    inputs: list[Addresses] = []
    weights: list[Floats] = []
    bias = np.zeros(part.size)
    for addend in piece:
        source = linear.get(int(addend[0]))
        if source is not None:
            units = addend - source.start
            inputs.append(source.inputs)
            weights.append(coefficients[:, None] * source.weight[units])
            bias += coefficients * source.bias[units]
        elif (addend < 0).all():
            bias += coefficients * graph.constant_values(addend)
        else:
            inputs.append(addend)
            weights.append(np.diag(coefficients))
    return Linear(
        node.start + int(part[0]),
        np.concatenate(inputs),
        np.concatenate(weights, axis=1),
        bias,
        module=node.module,
    )


def _join_relus(graph: Graph) -> Graph:
    """Let a ReLU over exactly one linear node's outputs, used nowhere else, join that node."""
    owner = graph.owners()
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
