# SPDX-License-Identifier: Apache-2.0
"""Graphs as text."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from pyrel.compiler.graph.matrices import Matmul
from pyrel.compiler.graph.nodes import Addresses, Graph, Linear, Node

_MOST_RUNS = 4  # of addresses that are written out
_SILENT = ("start", "inputs", "module", "weight_id", "connected", "bias")


def graph_text(graph: Graph) -> str:
    """Show each node on a line: its addresses, what it computes, of what, in which module."""
    rows = [(_runs(np.arange(graph.input_size)), f"input {graph.input_shape}", "")]
    rows += [(_runs(node.addresses), _computes(node, graph), node.module) for node in graph.nodes]
    rows.append((_runs(graph.outputs), "outputs", ""))
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = (f"{a:>{widths[0]}}  {what:{widths[1]}}  {module}".rstrip() for a, what, module in rows)
    return "\n".join(lines)


def _computes(node: Node, graph: Graph) -> str:
    what = node.kind if isinstance(node, Linear) else type(node).__name__.lower()
    details = [f"{f.name}={_value(getattr(node, f.name))}" for f in fields(node) if _tells(node, f)]
    read = ", ".join(_read(row, graph) for row in _rows(node))
    return f"{what}({read})" + (f" {' '.join(details)}" if details else "")


def _tells(node: Node, field: Any) -> bool:
    """Whether a field says something: not what is shown elsewhere, nor a default."""
    if field.name in (*_SILENT, "kind"):
        return False
    value = getattr(node, field.name)
    return isinstance(value, np.ndarray) or value != field.default


def _value(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return "×".join(map(str, value.shape))
    return getattr(value, "name", str(value))


def _rows(node: Node) -> list[Addresses]:
    """Return the operands of a node, those of a convolution by the first and the last row."""
    if isinstance(node, Matmul):
        return [node.left.ravel(), node.right.ravel()]
    rows = list(np.atleast_2d(node.inputs))
    if isinstance(node, Linear) and len(rows) > 2:
        return [rows[0], np.array([], dtype=np.int64), rows[-1]]
    return rows


def _read(addresses: Addresses, graph: Graph) -> str:
    if not addresses.size:
        return "…"
    if (addresses < 0).all():
        values = np.unique(graph.constant_values(addresses))
        return " ".join(f"{value:g}" for value in values[:2]) + (" …" if values.size > 2 else "")
    return _runs(addresses)


def _runs(addresses: Addresses) -> str:
    """Show addresses as runs, such as ``0..8 16..23``; constants as ``const``."""
    breaks = np.flatnonzero((np.diff(addresses) != 1) | (addresses[:-1] < 0)) + 1
    edges = [0, *breaks.tolist(), addresses.size]
    parts: list[str] = []
    for first, stop in zip(edges[:-1], edges[1:], strict=True):
        low, high = int(addresses[first]), int(addresses[stop - 1])
        text = "const" if low < 0 else str(low) if low == high else f"{low}..{high}"
        if not (parts and text == "const" == parts[-1]):
            parts.append(text)
    return " ".join(
        parts if len(parts) <= _MOST_RUNS else [*parts[: _MOST_RUNS - 1], "…", parts[-1]]
    )
