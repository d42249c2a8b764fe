# SPDX-License-Identifier: Apache-2.0
"""Results that are only moved on: what computes them writes them where they are moved to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Epilogue, Gemm, Map, Offsets
from pyrel.compiler.program.schedule import RowOp


def without_moves(ops: Sequence[RowOp], arena_size: int) -> list[RowOp]:
    """Leave out maps that move relevance to the input's as it is, and is read by nothing else.

    So is what a ReLU of the input gives: the product that computes it writes to the input's
    relevance itself.

    Parameters
    ----------
    ops : sequence of RowOp
        In an order in which they could run; some are changed.
    arena_size : int
    """
    moves = [number for number, op in enumerate(ops) if _moves(op)]
    if not moves:
        return list(ops)
    touched, writers, first = _touched(ops, arena_size), _writers(ops, arena_size), _first(ops)
    dropped: set[int] = set()
    for number in moves:
        source, out = ops[number].offsets
        columns = ops[number].template.operands()[0].size
        within = np.arange(columns)
        if np.unique(source).size < source.size or (touched[source[:, None] + within] != 2).any():
            continue  # something else reads it, or adds to it
        writer = int(writers[source[0]])
        if not 0 <= writer < number or not _writes(ops[writer], source, columns):
            continue
        if (first[out[:, None] + within] < number).any():
            continue
        _write_to(ops[writer], source, out)
        dropped.add(number)
    return [op for number, op in enumerate(ops) if number not in dropped]


def _moves(op: RowOp) -> bool:
    template = op.template
    return (
        isinstance(template, Map)
        and (template.source, template.out) == (Space.arena, Space.relevance)
        and template.epilogue == Epilogue()
    )


def _touched(ops: Sequence[RowOp], arena_size: int) -> Offsets:
    """Count the rows of operations that read or write each float of the arena."""
    edges = np.zeros(arena_size + 1, dtype=np.int64)
    for op in ops:
        for operand, offsets in zip(op.template.operands(), op.offsets, strict=True):
            if operand.space == Space.arena:
                np.add.at(edges, offsets, 1)
                np.add.at(edges, offsets + operand.size, -1)
    return edges.cumsum()[:-1]


def _writers(ops: Sequence[RowOp], arena_size: int) -> Offsets:
    """Return by place in the arena which operation's row of results begins there, or −1."""
    writers = np.full(arena_size, -1, dtype=np.int64)
    for number, op in enumerate(ops):
        if isinstance(op.template, Gemm | Map) and op.template.out == Space.arena:
            writers[op.offsets[_out(op)]] = number
    return writers


def _first(ops: Sequence[RowOp]) -> Offsets:
    """Return by float of the input's relevance which operation touches it first."""
    touching = [
        (number, offsets[:, None] + np.arange(operand.size))
        for number, op in enumerate(ops)
        for operand, offsets in zip(op.template.operands(), op.offsets, strict=True)
        if operand.space == Space.relevance
    ]
    first = np.full(1 + max(int(floats.max()) for _, floats in touching), len(ops))
    for number, floats in reversed(touching):
        first[floats] = number
    return first


def _writes(op: RowOp, offsets: Offsets, columns: int) -> bool:
    """Whether an operation writes rows that begin there and no others, of as many columns."""
    assert isinstance(op.template, Gemm | Map)
    own = op.offsets[_out(op)]
    return op.template.columns == columns and np.array_equal(np.sort(own), np.sort(offsets))


def _out(op: RowOp) -> int:
    """Return which operand is the output."""
    return next(n for n, operand in enumerate(op.template.operands()) if operand.written)


def _write_to(op: RowOp, source: Offsets, out: Offsets) -> None:
    """Let an operation write its rows elsewhere, given where each one lay."""
    row = _out(op)
    order = np.argsort(source)
    own = op.offsets[row]
    offsets = op.offsets.copy()
    offsets[row] = out[order][np.searchsorted(source[order], own)]
    assert isinstance(op.template, Gemm | Map)
    op.offsets, op.template = offsets, replace(op.template, out=Space.relevance)
