# SPDX-License-Identifier: Apache-2.0
"""Places in memory, and the instructions that write relevance to them.

Every value has a place in the arena, and beside it a place for its relevance; the relevance of
input elements goes straight to the result. Places are not shared here:
`pyrel.compiler.program.memory` does that once the instructions are in order. A node's relevance is
complete when all its readers have written to it; whoever writes last also does what comes next
(divides by the denominator, masks by the ReLU) in the same instruction, where the shapes allow it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypeAlias

import numpy as np

from pyrel.compiler.graph.intervals import runs
from pyrel.compiler.graph.nodes import Addresses, Floats, Graph, aligned
from pyrel.compiler.passes.contiguous import MAX_SEGMENTS
from pyrel.compiler.program.enums import Post, Space
from pyrel.compiler.program.instructions import Epilogue, Gemm, Map, Offsets, Template
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.schedule import RowOp, row_op

Place: TypeAlias = tuple[Space, Offsets]  # the offsets of one row or more


class Emitter:
    """Collects the row operations of one program; `pyrel.compiler.lowering.lower` decides which."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self._graph = graph
        self.program = program
        self.operations: list[RowOp] = []
        # The arena: activations, their relevance in the same order, denominators.
        self._base = graph.base
        self._relevance = aligned(graph.size - self._base)
        self.arena_size = 2 * self._relevance
        # By address: which of `_writes` wrote its relevance last; or -1.
        self._writer = np.full(graph.size, -1, dtype=np.int64)
        self._writes: list[RowOp] = []

    # Places

    def _value(self, addresses: int | Addresses) -> Place:
        """Return where values lie; all in the input, or none."""
        if np.max(addresses) < self._graph.input_size:
            return Space.input, np.atleast_1d(addresses)
        return Space.arena, np.atleast_1d(addresses) - self._base

    def _relevance_of(self, addresses: int | Addresses) -> Place:
        """Return where the relevance of values lies; all in the input, or none."""
        if np.max(addresses) < self._graph.input_size:
            return Space.relevance, np.atleast_1d(addresses)
        return Space.arena, np.atleast_1d(addresses) - self._base + self._relevance

    def _reserve(self, size: int) -> int:
        offset = self.arena_size
        self.arena_size += aligned(size)
        return offset

    # Instructions

    def _emit(self, template: Template, *offsets: int | Offsets) -> RowOp:
        self.operations.append(row_op(template, *offsets))
        return self.operations[-1]

    def _gemm(
        self,
        segments: list[tuple[Place, int]],
        matrix: Floats,
        out: Place,
        epilogue: Epilogue,
        *epilogue_offsets: Offsets,
        bf16: bool = False,
    ) -> RowOp:
        """``matrix`` is (depth, columns).

        What lies in more runs than a product can read is multiplied run by run.
        """
        if len(segments) > MAX_SEGMENTS:
            first = replace(epilogue, post=Post.none)
            then = replace(first, bias=-1, accumulate=True)
            last = replace(epilogue, bias=-1, accumulate=True)
            depth = 0
            for number, segment in enumerate(segments):
                own = first if number == 0 else then if number + 1 < len(segments) else last
                part = matrix[depth : depth + segment[1]]
                op = self._gemm([segment], part, out, own, *epilogue_offsets, bf16=bf16)
                depth += segment[1]
            return op
        template = Gemm(
            tuple((place[0], depth) for place, depth in segments),
            self.program.matrix(matrix),
            matrix.shape[1],
            out[0],
            epilogue,
            bf16,
        )
        return self._emit(template, *(p[1] for p, _ in segments), out[1], *epilogue_offsets)

    def _map(
        self,
        source: Place | None,
        columns: int,
        out: Place,
        epilogue: Epilogue | None = None,
        *epilogue_offsets: Offsets,
    ) -> RowOp:
        template = Map(source[0] if source else None, columns, out[0], epilogue or Epilogue())
        return self._emit(template, *([source[1]] if source else []), out[1], *epilogue_offsets)

    def _vector(self, values: Floats) -> int:
        """Index of a vector of the program; -1 for zeros."""
        return self.program.vector(values) if values.any() else -1

    # Relevance

    def _record(self, op: RowOp, addresses: int | Addresses, size: int) -> None:
        """Note that ``op`` wrote last to the ``size`` relevances from each address on."""
        starts = np.atleast_1d(addresses)
        self._writer[starts[:, None] + np.arange(size)] = len(self._writes)
        self._writes.append(op)

    def _clear_unwritten(self, start: int, size: int) -> None:
        unwritten = start + np.flatnonzero(self._writer[start : start + size] < 0)
        for first, stop in runs(unwritten):
            address, count = int(unwritten[first]), stop - first
            self._record(self._map(None, count, self._relevance_of(address)), address, count)

    def _accumulates(self, addresses: int | Addresses, size: int) -> bool:
        """Whether relevance is there already; where it is in part, the rest is cleared first."""
        starts = np.atleast_1d(addresses)
        written = self._writer[starts[:, None] + np.arange(size)] >= 0
        if not written.any():
            return False
        if not written.all():
            for start in starts.tolist():
                self._clear_unwritten(start, size)
        return True

    def _finish(
        self,
        address: int,
        size: int,
        post: Post,
        operand: int | None = None,
        vector: Floats | None = None,
        epsilon: float = 0.0,
        alone: bool = False,
    ) -> None:
        """Apply ``post`` to complete relevance, in the instructions that completed it if they can.

        ``operand`` is an address, or −1 − offset for a place in the arena that has none. ``vector``
        has a value for each of the ``size`` relevances. ``alone`` asks for an instruction apart.
        """
        done = None if alone else self._last_writers(address, size, vector)
        if done is None:
            op = self._map(self._relevance_of(address), size, self._relevance_of(address))
            self._record(op, address, size)
            done = [(op, np.zeros(1, dtype=np.int64))]
        for op, rows in done:
            template = op.template
            assert isinstance(template, Gemm | Map)
            space = None
            if operand is not None:
                space, origin = self._value_or_arena(operand)
                op.offsets = np.concatenate([op.offsets, (origin + rows)[None]])
            part = None if vector is None else vector[rows[0] : rows[0] + template.columns]
            epilogue = replace(
                template.epilogue,
                post=post,
                post_space=space,
                post_vector=-1 if part is None else self._vector(part),
                epsilon=epsilon,
            )
            op.template = replace(template, epilogue=epilogue)

    def _value_or_arena(self, operand: int) -> Place:
        """``operand`` is as for `_finish`."""
        return (Space.arena, np.array([-1 - operand])) if operand < 0 else self._value(operand)

    def _last_writers(
        self, address: int, size: int, vector: Floats | None
    ) -> list[tuple[RowOp, Offsets]] | None:
        """Return the instructions that can do what comes next to exactly these relevances.

        With each, how far behind ``address`` its rows start. None if one of those that wrote last
        also wrote others, or has its hands full, or would need a vector for each row.
        """
        numbers, counts = np.unique(self._writer[address : address + size], return_counts=True)
        if numbers[0] < 0:
            return None
        done = []
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            op = self._writes[number]
            template = op.template
            if not isinstance(template, Gemm | Map) or template.epilogue.post != Post.none:
                return None
            out = [operand.written for operand in template.operands()].index(True)
            rows = op.offsets[out] - self._relevance_of(address)[1]
            if rows.size * template.columns != count:
                return None
            if vector is not None and rows.size > 1:
                parts = vector[rows[:, None] + np.arange(template.columns)]
                if (parts != parts[0]).any():
                    return None
            done.append((op, rows))
        return done
