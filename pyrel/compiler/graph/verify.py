# SPDX-License-Identifier: Apache-2.0
"""Checks of a graph, for tests of the passes."""

from __future__ import annotations

import numpy as np

from pyrel.compiler.graph.gates import GatedSum
from pyrel.compiler.graph.matrices import Matmul
from pyrel.compiler.graph.nodes import Add, Embedding, Floats, Graph, Linear, Node, Scale
from pyrel.compiler.graph.softmax import Softmax
from pyrel.compiler.graph.weight_ids import WeightId


class InvalidGraphError(Exception):
    """A graph that no pass should make."""


def verify(graph: Graph) -> None:
    """Check that a graph can be lowered.

    Every node reads values of the input, of nodes before it, or constants that there are; no two
    nodes have outputs in common; shapes fit; weights of one name are equal.

    Raises
    ------
    InvalidGraphError
        The message names the node.
    """
    made = np.zeros(graph.size, dtype=bool)
    made[: graph.input_size] = True
    weights: dict[WeightId, Floats] = {}
    for index, node in enumerate(graph.nodes):
        where = f"node {index} ({type(node).__name__} of module {node.module!r})"
        _check_inputs(node, graph, made, where)
        _check_shapes(node, where)
        if made[node.addresses].any():
            raise InvalidGraphError(f"{where} writes what is written already")
        made[node.addresses] = True
        if isinstance(node, Linear) and node.weight_id is not None:
            known = weights.setdefault(node.weight_id, node.weight)
            if known is not node.weight and not np.array_equal(known, node.weight):
                raise InvalidGraphError(f"{where} has other weights than those of its name")
    if (graph.outputs < 0).any() or not made[graph.outputs].all():
        raise InvalidGraphError("an output is computed nowhere")


def _check_inputs(node: Node, graph: Graph, made: np.ndarray, where: str) -> None:
    if node.inputs.size == 0 or node.size < 1:
        raise InvalidGraphError(f"{where} is empty")
    if node.inputs.max() >= graph.size or not made[node.inputs[node.inputs >= 0]].all():
        raise InvalidGraphError(f"{where} reads what is not computed before it")
    marks = isinstance(node, GatedSum)  # −1 stands for no gate
    if not marks and (-1 - node.inputs.min(initial=-1)) >= max(graph.constants.size, 1):
        raise InvalidGraphError(f"{where} reads a constant that there is not")


def _check_shapes(node: Node, where: str) -> None:
    wrong = False
    match node:
        case Linear():
            wrong = node.weight.shape != (node.bias.size, node.inputs.shape[1])
            wrong |= node.connected is not None and node.connected.shape != node.weight.shape
            wrong |= node.weight.shape[0] % node.positions != 0
        case Scale():
            wrong = node.coefficients.shape != node.inputs.shape
        case Matmul():
            wrong = node.inputs.ndim != 2 or node.inputs.shape[1] % node.depth != 0
            wrong = wrong or node.columns < 1
        case Add():
            wrong = node.inputs.ndim != 2
        case GatedSum():
            wrong = len(node.inputs) % 2 != 0 or node.carried.shape != node.members.shape
        case Softmax():
            wrong = node.inputs.ndim != 2 or len(node.inputs) != 3
        case Embedding():
            wrong = node.table.ndim != 2
    if wrong:
        raise InvalidGraphError(f"{where} has arrays whose shapes do not fit")
