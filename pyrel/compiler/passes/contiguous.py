# SPDX-License-Identifier: Apache-2.0
"""Lays scattered operands side by side where a product would otherwise read them piecemeal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.intervals import common_runs, runs
from pyrel.compiler.graph.matrices import Matmul
from pyrel.compiler.graph.nodes import (
    Add,
    Addresses,
    AtMaximum,
    Choice,
    Copy,
    Floats,
    Graph,
    Linear,
    MaxPool,
    Node,
    Normalise,
    Product,
    picked,
)
from pyrel.compiler.graph.rewrites import compact
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.compiler.limits import SEGMENTS
from pyrel.compiler.passes.join_positions import Joiner
from pyrel.methods.terms import Mask

_FEW_RUNS = 4
SHORT_RUN = 16  # floats: shorter than a vector on average, copying costs less than reading apart

Copied: TypeAlias = Callable[[Addresses, str], Copy]


def lay_out(facts: Facts, conserves: bool) -> Graph:
    """Join short rows, sort columns; insert `Copy` nodes before what needs operands in few runs.

    Methods that conserve relevance read single factors and addends where they lie.
    """
    graph, owners = facts.graph, facts.owners
    copies: dict[bytes, Copy] = {}
    nodes: list[Node] = []
    made: dict[WeightId, Floats] = {}
    join, sort = Joiner(graph), _Sorter(owners, made)
    position = graph.size

    def copied(addresses: Addresses, module: str) -> Copy:
        nonlocal position
        key = addresses.tobytes()
        if key not in copies:
            copies[key] = Copy(position, addresses, module=module)
            nodes.append(copies[key])
            position += addresses.size
        return copies[key]

    for node in graph.nodes:
        if isinstance(node, Linear):
            if node.inputs.shape[0] > 1:
                node = _read_patches(join(node), owners, copied)
            elif _scattered(node.inputs[0]) and not _in_tiles(node):
                ordered = sort(node)
                scattered = _scattered(ordered.inputs[0])
                node = _read_copy(node, graph.input_size, copied, made) if scattered else ordered
        elif isinstance(node, Product | MaxPool | AtMaximum | Normalise):
            padding = np.isneginf(graph.constant_values(node.inputs))
            node = _without_constants(node, copied)
            if isinstance(node, MaxPool):
                node, apart = _without_repeats(node, padding, position)
                nodes += apart
                position += sum(copy.size for copy in apart)
            if isinstance(node, Normalise) and len(list(common_runs(node.inputs))) > 1:
                inputs = copied(node.inputs.ravel(), node.module).addresses
                node = replace(node, inputs=inputs.reshape(node.inputs.shape))
        elif isinstance(node, Matmul):
            parts = node.left, node.right
            node = node.of(*(_in_runs(part, node, graph.input_size, copied) for part in parts))
        elif isinstance(node, Choice):
            values = _without_constants(replace(node, inputs=node.values), copied).inputs
            inputs = np.concatenate([values, node.inputs[len(values) :]])
            node = replace(node, inputs=inputs)
        if not conserves and (isinstance(node, Product) or _is_sum_of_two(node)):
            node = _read_in_runs(node, copied)
        nodes.append(node)
    outputs = graph.outputs
    owner = owners[outputs]
    if (np.diff(outputs) != 1).any() or (owner != owner[0]).any() or owner[0] < 0:
        outputs = copied(outputs, "").addresses
    return compact(replace(graph, nodes=tuple(nodes), outputs=outputs))


class _Sorter:
    """Puts columns of weights into the order of addresses, such as those that read a flat map.

    Torch flattens a map channel by channel, while its channels lie side by side. Nodes with the
    same weights, as those of all steps, get the same array again.

    Parameters
    ----------
    owners : ndarray of int64
        By address: the node that it belongs to.
    made : dict
        Weights in other orders, by name.
    """

    def __init__(self, owners: Addresses, made: dict[WeightId, Floats]) -> None:
        self._owners, self._made = owners, made

    def __call__(self, node: Linear) -> Linear:
        """Return a node of one row that reads each other node's outputs in their order."""
        inputs = node.inputs[0]
        owner = picked(self._owners, inputs, -2)
        _, first, group = np.unique(owner, return_index=True, return_inverse=True)
        order = np.lexsort((inputs, first[np.ravel(group)]))
        return in_order(node, order, self._made)


def _in_tiles(node: Linear) -> bool:
    """Whether a node does the same with many groups of runs, such as the states of all steps.

    It then multiplies run by run, with a few matrices, and reads no copy of all.
    """
    pieces = list(runs(node.inputs[0]))
    if len(pieces) <= SEGMENTS:
        return False
    tiles = [node.weight[:, first:stop] for first, stop in pieces]
    return any(
        len(tiles) % group == 0
        and all(np.array_equal(tile, tiles[i % group]) for i, tile in enumerate(tiles))
        for group in range(1, _FEW_RUNS + 1)
    )


def _scattered(inputs: Addresses) -> bool:
    pieces = list(runs(inputs))
    elements = sum(stop - first for first, stop in pieces)
    return len(pieces) > SEGMENTS or (
        len(pieces) > 1 and elements < SHORT_RUN * len(pieces) and elements > 1
    )


def _read_copy(
    node: Linear, input_size: int, copied: Copied, made: dict[WeightId, Floats]
) -> Linear:
    """Let ``node`` read a copy of its inputs, the graph's input elements first, constants apart."""
    inputs = node.inputs[0]
    variable, constant = np.flatnonzero(inputs >= 0), np.flatnonzero(inputs < 0)
    order = variable[np.argsort(inputs[variable] >= input_size, kind="stable")]
    copy = copied(inputs[order], node.module)
    sorted_node = in_order(node, np.concatenate([order, constant]), made)
    return replace(sorted_node, inputs=np.concatenate([copy.addresses, inputs[constant]])[None])


def in_order(node: Linear, order: Addresses, made: dict[WeightId, Floats]) -> Linear:
    """Put the columns of a node of one row into another order; ``made`` keeps the weights."""
    if (order[:-1] < order[1:]).all():
        return node  # they are in this order, so that no weights have to be copied
    name = node.named.derived("columns", order.tobytes())
    if name not in made:
        made[name] = node.weight[:, order]
    return replace(
        node,
        inputs=node.inputs[:, order],
        weight=made[name],
        weight_id=name,
        connected=None if node.connected is None else node.connected[:, order],
        original=node.after(lambda matrix: matrix[:, order]),
    )


def _read_patches(node: Linear, owners: Addresses, copied: Copied) -> Linear:
    """Let all rows read the same maps in few runs, or a copy of all rows, one after the other.

    (What is known as im2col. A convolution over a map whose channels lie side by side does not need
    it: there, each row of the kernel is one run.)
    """
    owners = picked(owners, node.inputs, -1)
    one_map = (owners == owners[:1]).all()
    few = len(list(common_runs(node.inputs))) <= SEGMENTS
    if (node.inputs >= 0).all() and one_map and few:
        return node
    copy = copied(node.inputs.ravel(), node.module)
    return replace(node, inputs=copy.addresses.reshape(node.inputs.shape))


def _is_sum_of_two(node: Node) -> bool:
    """Whether a node adds two operands; more may lie at equal distances, and are reduced there."""
    return isinstance(node, Add) and len(node.inputs) == 2


def _read_in_runs(node: Node, copied: Copied) -> Node:
    """Let single values, repeated or far from each other, lie side by side.

    So do a number for all elements of a row, such as the divisor of a softmax, and scores of
    tokens. Longer runs are read as they are: at how many steps they are repeated then shows in the
    rows of an instruction.
    """
    rows = [copied(row, node.module).addresses if _is_single(row) else row for row in node.inputs]
    return replace(node, inputs=np.stack(rows))


def _is_single(row: Addresses) -> bool:
    pieces = 1 + int(np.count_nonzero(np.diff(row) != 1))
    return SHORT_RUN <= row.size < 2 * pieces and not (row < 0).any()


def _in_runs(parts: Addresses, node: Matmul, input_size: int, copied: Copied) -> Addresses:
    """Let matrices, (products, rows, columns), lie in a run each: row by row, or by column."""
    by_row, by_column = (each.reshape(len(parts), -1) for each in (parts, parts.swapaxes(1, 2)))
    breaks = [int((np.diff(each, axis=1) != 1).sum()) for each in (by_row, by_column)]
    whole = min(breaks) == 0 and (parts >= 0).all()
    if whole and np.unique(parts < input_size).size == 1:
        return parts
    shorter = by_column if breaks[1] < breaks[0] else by_row
    found = copied(shorter.ravel(), node.module).addresses
    if shorter is by_row:
        return found.reshape(parts.shape)
    return found.reshape(len(parts), parts.shape[2], parts.shape[1]).swapaxes(1, 2)


def _without_repeats(node: MaxPool, padding: Mask, position: int) -> tuple[MaxPool, list[Copy]]:
    """Let a window that has a value twice read copies: relevance is written to each apart."""
    inputs = node.inputs.copy()
    copies: list[Copy] = []
    ordered = np.sort(inputs, axis=0)
    if (ordered[1:] != ordered[:-1]).all():
        return node, copies
    for row in range(1, len(inputs)):
        twice = ((inputs[:row] == inputs[row]) & ~padding[:row]).any(axis=0)
        if twice.any():
            copies.append(Copy(position, inputs[row, twice], module=node.module))
            inputs[row, twice] = copies[-1].addresses
            position += copies[-1].size
    return replace(node, inputs=inputs), copies


def _without_constants(node: Node, copied: Copied) -> Node:
    """Let ``node`` read constants from places of their own, as long as their longest run."""
    inputs = node.inputs.copy()
    flat, width = inputs.reshape(-1), inputs.shape[1]
    for constant in np.unique(inputs[inputs < 0]).tolist():
        places = np.flatnonzero(flat == constant)
        follows = (np.diff(places) == 1) & (places[1:] % width != 0)
        starts = np.flatnonzero(np.append(True, ~follows))
        behind = np.arange(places.size) - np.repeat(starts, np.diff(np.append(starts, places.size)))
        block = copied(np.full(int(behind.max()) + 1, constant), node.module)
        flat[places] = block.start + behind
    return replace(node, inputs=inputs)
