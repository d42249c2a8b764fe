# SPDX-License-Identifier: Apache-2.0
"""Matrix products of two values: found, written out, or turned for what reads them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.matrices import Matmul, side_by_side
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Choice,
    Graph,
    MaxPool,
    Node,
    Product,
    Relu,
    Scale,
    StopGradient,
    picked,
)
from pyrel.compiler.graph.rewrites import compact
from pyrel.compiler.limits import MOST_PRODUCTS
from pyrel.errors import UnsupportedModelError


def written_out(graph: Graph) -> Graph:
    """Make each matrix product sums of products of two values, as rules for products need it.

    Raises
    ------
    UnsupportedModelError
        There are too many.
    """
    if not any(isinstance(node, Matmul) for node in graph.nodes):
        return graph
    nodes: list[Node] = []
    position = graph.size
    for node in graph.nodes:
        if not isinstance(node, Matmul):
            nodes.append(node)
            continue
        product = _products(node, position)
        position += product.size
        addends = product.addresses.reshape(len(node.inputs), node.rows, node.depth, node.columns)
        inputs = addends.transpose(2, 0, 1, 3).reshape(node.depth, -1)
        nodes += [product, Add(node.start, inputs, module=node.module)]
    return compact(replace(graph, nodes=tuple(nodes)))


def _products(node: Matmul, start: int) -> Product:
    left, right = node.left[..., None], node.right[:, None]
    shape = np.broadcast_shapes(left.shape, right.shape)
    count = math.prod(shape)
    if count > MOST_PRODUCTS:
        raise UnsupportedModelError(
            f"both factors of a matrix product depend on the input, and it takes "
            f"{count:,} products that relevance is shared out at; up to "
            f"{MOST_PRODUCTS:,} are supported, and any number by gradient methods",
            operator="matmul",
            module=node.module,
        )
    factors = [np.broadcast_to(each, shape).ravel() for each in (left, right)]
    return Product(start, np.stack(factors), module=node.module)


_FEW_PRODUCTS = 32  # of which a sum is as well left as it is


def gathered(graph: Graph) -> Graph:
    """Make matrix products of sums of products in which one factor stays and the other changes.

    So are weighted sums of states, Σ_t w_t h_t, and scores of all states, Σ_d q_d h_td.
    """
    factors = np.full((2, graph.size), -1, dtype=np.int64)  # by address of a product
    for node in graph.nodes:
        if isinstance(node, Product):
            factors[:, node.addresses] = node.inputs
    sums = {node.start: node for node in graph.nodes if isinstance(node, Add)}
    found = {start: _matmul_of(node, factors) for start, node in sums.items()}
    if not any(found.values()):
        return graph
    readers = _readers(graph)
    alone = {
        start: product
        for start, product in found.items()
        if product is not None and (readers[sums[start].inputs] == 1).all()
    }
    nodes = tuple(alone.get(node.start, node) for node in graph.nodes)
    return compact(replace(graph, nodes=nodes)) if alone else graph


def _readers(graph: Graph) -> Addresses:
    """Count by address how often a value is read."""
    read = [node.inputs[node.inputs >= 0] for node in graph.nodes]
    return np.bincount(np.concatenate([graph.outputs, *read]), minlength=graph.size)


def _matmul_of(node: Add, factors: Addresses) -> Matmul | None:
    """Return the matrix product that a sum is, if it is one."""
    inputs = node.inputs
    if inputs.size < _FEW_PRODUCTS or len(inputs) < 2 or (inputs < 0).any():
        return None
    parts = factors[:, inputs]
    if (parts < 0).any():
        return None
    for stays, changes in (parts, parts[::-1]):
        same = (stays[:, 1:] == stays[:, :-1]).all(axis=0)
        starts = np.flatnonzero(np.append(True, ~same))
        columns = _even_length(starts, node.size)
        if columns > 1:
            left = stays[:, starts].T[:, None]
            right = changes.reshape(len(inputs), starts.size, columns).swapaxes(0, 1)
            return _together(node, left, right)
    return None


def _even_length(starts: Addresses, size: int) -> int:
    """Return how long the parts are that begin there, of so many elements; 0 if they differ."""
    lengths = np.diff(starts, append=size)
    return int(lengths[0]) if (lengths == lengths[0]).all() else 0


def _together(node: Add, left: Addresses, right: Addresses) -> Matmul:
    """Make one product of rows that are multiplied by the same matrix, (products, 1, depth)."""
    changes = (right[1:] != right[:-1]).any(axis=(1, 2))
    starts = np.flatnonzero(np.append(True, changes))
    rows = _even_length(starts, len(left))
    if rows > 1:
        left = left.reshape(starts.size, rows, -1)
        right = right[starts]
    inputs = side_by_side(left, right)
    return Matmul(node.start, inputs, left.shape[1], left.shape[2], module=node.module)


# Nodes that do the same with each element of their outputs, in whatever order.
_ELEMENTWISE = Activation | Add | Choice | MaxPool | Product | Relu | Scale | StopGradient


def turned(graph: Graph) -> Graph:
    """Let matrix products whose rows are reduced, as by a softmax, lie column by column.

    Then a sum or a maximum over each row is one over whole runs. What is computed of them element
    by element lies in the same order.
    """
    found = _reduced_by_row(graph)
    if not found:
        return graph
    moved: Addresses = np.arange(graph.size)
    nodes: list[Node] = []
    for node in graph.nodes:
        inputs = picked(moved, node.inputs, node.inputs)
        if node.start in found:
            assert isinstance(node, Matmul)
            new = replace(node, inputs=inputs)
            places = node.addresses.reshape(-1, node.columns, node.rows).swapaxes(1, 2)
            moved[node.addresses] = places.ravel()
            node = new.of(new.right.swapaxes(1, 2), new.left.swapaxes(1, 2))
        elif (inputs != node.inputs).any():
            node = replace(node, inputs=inputs)
            if isinstance(node, _ELEMENTWISE):
                node = _sorted(node, moved)
        nodes.append(node)
    outputs = picked(moved, graph.outputs, graph.outputs)
    return compact(replace(graph, nodes=tuple(nodes), outputs=outputs))


def _sorted(node: Node, moved: Addresses) -> Node:
    """Put the elements of a node into the order of what they read, and note where they went."""
    operands = np.atleast_2d(node.inputs)
    distinct = [row for row in operands if np.unique(row).size == row.size]
    if not distinct:
        return node
    order = np.argsort(distinct[0], kind="stable")
    moved[node.addresses[order]] = node.addresses
    inputs = operands[:, order].reshape(node.inputs.shape)
    if isinstance(node, Scale):
        return replace(node, inputs=inputs, coefficients=node.coefficients[order])
    return replace(node, inputs=inputs)


def _reduced_by_row(graph: Graph) -> set[int]:
    """Return where those matrix products start whose rows are added up, or compared."""
    origin: Addresses = np.full(graph.size, -1)  # by address: the output that it is made of
    starts = {n.start: n for n in graph.nodes if isinstance(n, Matmul)}
    found: set[int] = set()
    if not starts:
        return found
    owners = graph.owners()
    for node in graph.nodes:
        if isinstance(node, Matmul):
            origin[node.addresses] = node.addresses
        elif isinstance(node, Add | MaxPool) and len(node.inputs) > 2:
            first, second = (picked(origin, row[:1], -1)[0] for row in node.inputs[:2])
            if min(first, second) < 0 or owners[first] != owners[second]:
                continue
            product = graph.nodes[owners[first]]
            assert isinstance(product, Matmul)
            if second == first + 1 and product.columns > 1:
                found.add(product.start)
        elif isinstance(node, _ELEMENTWISE):
            operands = np.atleast_2d(node.inputs)
            if operands.shape[1] == node.size:
                origin[node.addresses] = picked(origin, operands, -1).max(axis=0)
    return found
