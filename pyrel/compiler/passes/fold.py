# SPDX-License-Identifier: Apache-2.0
"""Folds linear nodes and sums that may be negative into the linear nodes that read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.gates import only_through
from pyrel.compiler.graph.nodes import (
    Add,
    Addresses,
    Copy,
    Floats,
    Graph,
    Linear,
    Lookup,
    Node,
    Product,
    Relu,
    Scale,
    identity,
    picked,
)
from pyrel.compiler.graph.rewrites import compact
from pyrel.methods.terms import Mask


def fold(facts: Facts) -> Graph:
    """Fold inner values that cannot be explained as activations into the nodes that read them.

    A linear node after a linear one, or after a sum with negative addends, is one linear node. So
    no decomposition has to go through the values between them, for which there is no rule. A sum of
    values in boxes is folded too: the z^β rule gives relevance to a sum that is zero, which could
    not be divided among addends that are zero.
    """
    graph = _linear_at_signed_sums(facts)
    facts = facts.of(graph)
    signed, owner = _signed(facts), facts.owners
    origin = _origins(graph)
    nodes: list[Node] = []
    folded: list[Node] = list(graph.nodes)
    for index, node in enumerate(graph.nodes):
        if not isinstance(node, Linear):
            nodes.append(node)
            continue
        inputs = picked(origin, node.inputs, node.inputs)
        if not signed[inputs[inputs >= 0]].any():
            nodes.append(node)
            continue
        for piece in split_rows(replace(node, inputs=inputs)):
            while signed[piece.inputs[piece.inputs >= 0]].any():
                piece = _fold_once(piece, signed, owner, folded, graph.constant_values)
            nodes.append(piece)
            if len(node.inputs) == 1:
                folded[index] = piece
    return compact(replace(graph, nodes=tuple(nodes)))


def split_rows(node: Linear) -> Iterator[Linear]:
    """Make a node of each row."""
    for row in range(node.inputs.shape[0]):
        start, inputs = node.start + row * node.width, node.inputs[row : row + 1]
        yield replace(node, start=start, inputs=inputs)


def split_mixed_rows(facts: Facts) -> Graph:
    """Split linear nodes that read, as the same input, values of several kinds in their rows."""
    graph, domains = facts.graph, facts.domains
    nodes: list[Node] = []
    for node in graph.nodes:
        mixed = isinstance(node, Linear) and len(node.inputs) > 1
        if mixed and isinstance(node, Linear) and not domains.of_inputs(node).uniform:
            nodes += split_rows(node)
        else:
            nodes.append(node)
    if len(nodes) == len(graph.nodes):
        return graph
    return compact(replace(graph, nodes=tuple(nodes)))


def _origins(graph: Graph) -> Addresses:
    """For each address the one that it is a copy of, or a constant's; or itself."""
    origin = np.arange(graph.size)
    for node in graph.nodes:
        if isinstance(node, Copy):
            origin[node.addresses] = picked(origin, node.inputs, node.inputs)
    return origin


def _signed(facts: Facts) -> Mask:
    """Mark the addresses of linear nodes and sums that are folded into the linear nodes above.

    Not those of sums with products among their addends: as the state of a gated cell they are
    activations.
    """
    graph, domains, owner = facts.graph, facts.domains, facts.owners
    is_product = np.array([isinstance(node, Product) for node in graph.nodes] + [False])
    signed = np.zeros(graph.size, dtype=bool)
    for node in graph.nodes:
        out = slice(node.start, node.start + node.size)
        match node:
            case Linear(relu=False):
                signed[out] = True
            case Add():
                gated = is_product[picked(owner, node.inputs, -1)]
                # The whole sum, so that no part of it is left with addends of both kinds.
                below_zero = (domains.of(node.inputs)[0] < 0).any()
                folds = below_zero or np.isfinite(domains.high[out]).any()
                signed[out] = folds and not gated.any()
            case Scale():
                signed[out] = (domains.low[out] < 0) | picked(signed, node.inputs, False)
    return signed


def _linear_at_signed_sums(facts: Facts) -> Graph:
    """Give ReLUs and outputs of signed sums a linear node, which the sums can be folded into."""
    graph, signed, owner = facts.graph, _signed(facts), facts.owners
    is_sum = np.array([isinstance(node, Add | Scale) for node in graph.nodes] + [False])
    # What is of token ids alone, as a count is, is no activation.
    apart = signed & is_sum[owner] & ~only_through(graph, Lookup)
    nodes: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Relu) and apart[node.inputs].any():
            node = identity(node.start, node.inputs, node.module, relu=True)
        nodes.append(node)
    outputs = graph.outputs
    if not apart[outputs].any() and nodes == list(graph.nodes):
        return graph
    if apart[outputs].any():
        nodes.append(identity(graph.size, outputs, ""))
        outputs = nodes[-1].addresses
    return replace(graph, nodes=tuple(nodes), outputs=outputs)


def _fold_once(
    node: Linear,
    signed: Mask,
    owner: Addresses,
    nodes: list[Node],
    constants: Callable[[Addresses], Floats],
) -> Linear:
    """Replace every signed input by what it is made of."""
    read = node.inputs[0]
    index = np.maximum(read, 0)
    belongs = np.where(signed[index] & (read >= 0), owner[index], -1)
    breaks = np.flatnonzero(np.diff(belongs) != 0) + 1
    inputs: list[Addresses] = []
    weights: list[Floats] = []
    bias = node.bias
    for part in np.split(np.arange(read.size), breaks):
        weight, addresses = node.weight[:, part].astype(np.float64), read[part]
        source = nodes[belongs[part[0]]] if belongs[part[0]] >= 0 else None
        if source is None:
            pieces = [(addresses, weight)]
        else:
            units = addresses - source.start
            match source:
                case Linear():
                    pieces = []
                    row, unit = np.divmod(units, source.width)
                    for number in np.unique(row).tolist():
                        some = row == number
                        part_weight = source.weight[unit[some]]
                        pieces.append((source.inputs[number], weight[:, some] @ part_weight))
                    pieces = [_added_up(pieces)]
                    bias = bias + weight @ source.bias[unit]
                case Scale():
                    pieces = [(source.inputs[units], weight * source.coefficients[units])]
                case _:  # a sum: its constants are a bias
                    addends = source.inputs[:, units]
                    bias = bias + weight @ constants(addends).sum(axis=0)
                    pieces = [(a[a >= 0], weight[:, a >= 0]) for a in addends]
        inputs += [a for a, _ in pieces]
        weights += [w for _, w in pieces]
    return replace(
        node,
        inputs=np.concatenate(inputs)[None],
        weight=np.concatenate(weights, axis=1),
        bias=bias,
        weight_id=None,
        connected=None,
        original=None,
    )


def _added_up(pieces: list[tuple[Addresses, Floats]]) -> tuple[Addresses, Floats]:
    """Join what rows of one node read, and weigh once what several of them do: patches overlap.

    A product of matrices, as for a linear layer after a linear layer. An address that comes several
    times in one row, in a sum of two layers over it, stays apart.
    """
    if len(pieces) == 1:
        return pieces[0]
    columns: dict[tuple[int, int], Floats] = {}
    for addresses, weight in pieces:
        seen: Counter[int] = Counter()
        for address, column in zip(addresses.tolist(), weight.T, strict=True):
            key = (seen[address], address)
            columns[key] = columns[key] + column if key in columns else column
            seen[address] += 1
    ordered = sorted(columns)
    return np.array([address for _, address in ordered]), np.stack([columns[k] for k in ordered], 1)
