# SPDX-License-Identifier: Apache-2.0
"""Lays scattered operands side by side where a product would otherwise read them piecemeal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pyrel.graph import Addresses, Copy, Graph, Linear, Node, compact, runs

MAX_SEGMENTS = 8  # of a gemm, see csrc/cpu/kernels.h
SHORT_RUN = 16  # floats: shorter than a vector on average, copying costs less than reading apart


def lay_out(graph: Graph) -> Graph:
    """Insert `Copy` nodes before linear nodes and outputs that need their operands in a row."""
    copies: dict[bytes, Copy] = {}
    nodes: list[Node] = []
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
        if isinstance(node, Linear) and _scattered(node.inputs):
            node = _read_copy(node, graph.input_size, copied)
        nodes.append(node)
    outputs = graph.outputs
    owner = graph.owners()[outputs]
    if (np.diff(outputs) != 1).any() or (owner != owner[0]).any() or owner[0] < 0:
        outputs = copied(outputs, "").addresses
    return compact(replace(graph, nodes=tuple(nodes), outputs=outputs))


def _scattered(inputs: Addresses) -> bool:
    pieces = list(runs(inputs))
    elements = sum(stop - first for first, stop in pieces)
    return len(pieces) > MAX_SEGMENTS or (
        len(pieces) > 1 and elements < SHORT_RUN * len(pieces) and elements > 1
    )


def _read_copy(node: Linear, input_size: int, copied: Callable[[Addresses, str], Copy]) -> Linear:
    """Let ``node`` read a copy of its inputs, the graph's input elements first, constants apart."""
    variable, constant = np.flatnonzero(node.inputs >= 0), np.flatnonzero(node.inputs < 0)
    order = variable[np.argsort(node.inputs[variable] >= input_size, kind="stable")]
    copy = copied(node.inputs[order], node.module)
    return replace(
        node,
        inputs=np.concatenate([copy.addresses, node.inputs[constant]]),
        weight=node.weight[:, np.concatenate([order, constant])],
    )
