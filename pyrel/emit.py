# SPDX-License-Identifier: Apache-2.0
"""Places in memory, and the instructions that write relevance to them.

Every value has a place in the arena, and beside it a place for its relevance; the relevance of
input elements goes straight to the result. Places are not shared here: `pyrel.memory` does that
once the instructions are in order. A node's relevance is complete when all its readers have written
to it; whoever writes last also does what comes next (divides by the denominator, masks by the ReLU)
in the same instruction, where the shapes allow it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel._core import Post, Space
from pyrel.graph import Floats, Graph, aligned, runs
from pyrel.program import Epilogue, Gemm, Map, Program
from pyrel.schedule import RowOp


class Emitter:
    """Collects the row operations of one program; `pyrel.lower` decides which."""

    def __init__(self, graph: Graph, program: Program) -> None:
        self._graph = graph
        self._program = program
        self._ops: list[RowOp] = []
        # The arena: activations, their relevance in the same order, denominators.
        self._base = graph.base
        self._relevance = aligned(graph.size - self._base)
        self._arena = 2 * self._relevance
        # By address: which of `_writes`, (who, from, how many), wrote its relevance last; or -1.
        self._writer = np.full(graph.size, -1, dtype=np.int64)
        self._writes: list[tuple[RowOp, int, int]] = []

    # Places

    def _value(self, address: int) -> tuple[Space, int]:
        if address < self._graph.input_size:
            return Space.input, address
        return Space.arena, address - self._base

    def _relevance_of(self, address: int) -> tuple[Space, int]:
        if address < self._graph.input_size:
            return Space.relevance, address
        return Space.arena, address - self._base + self._relevance

    def _reserve(self, size: int) -> int:
        offset = self._arena
        self._arena += aligned(size)
        return offset

    # Instructions

    def _emit(self, op: RowOp) -> RowOp:
        self._ops.append(op)
        return op

    def _gemm(
        self,
        segments: list[tuple[tuple[Space, int], int]],
        matrix: Floats,
        out: tuple[Space, int],
        epilogue: Epilogue,
        *epilogue_offsets: int,
        bf16: bool = False,
    ) -> RowOp:
        """``matrix`` is (depth, columns)."""
        template = Gemm(
            tuple((place[0], depth) for place, depth in segments),
            self._program.matrix(matrix),
            matrix.shape[1],
            out[0],
            epilogue,
            bf16,
        )
        offsets = [*(place[1] for place, _ in segments), out[1], *epilogue_offsets]
        return self._emit(RowOp(template, offsets))

    def _map(
        self,
        source: tuple[Space, int] | None,
        columns: int,
        out: tuple[Space, int],
        epilogue: Epilogue | None = None,
        *epilogue_offsets: int,
    ) -> RowOp:
        template = Map(source[0] if source else None, columns, out[0], epilogue or Epilogue())
        offsets = [*([source[1]] if source else []), out[1], *epilogue_offsets]
        return self._emit(RowOp(template, offsets))

    # Relevance

    def _record(self, op: RowOp, address: int, size: int) -> None:
        self._writer[address : address + size] = len(self._writes)
        self._writes.append((op, address, size))

    def _clear_unwritten(self, start: int, size: int) -> None:
        unwritten = start + np.flatnonzero(self._writer[start : start + size] < 0)
        for first, stop in runs(unwritten):
            address, count = int(unwritten[first]), stop - first
            self._record(self._map(None, count, self._relevance_of(address)), address, count)

    def _accumulates(self, address: int, size: int) -> bool:
        """Whether relevance is there already; where it is in part, the rest is cleared first."""
        if (self._writer[address : address + size] < 0).all():
            return False
        self._clear_unwritten(address, size)
        return True

    def _finish(
        self, address: int, size: int, post: Post, operand: int | None = None, vector: int = -1
    ) -> None:
        """Apply ``post`` to complete relevance, in the instruction that completed it if it can."""
        last = self._only_writer(address, size)
        place = None if operand is None else self._value_or_arena(operand)
        space = None if place is None else place[0]
        extra = [] if place is None else [place[1]]
        if (
            last
            and isinstance(last.template, Gemm | Map)
            and last.template.epilogue.post == Post.none
        ):
            epilogue = replace(
                last.template.epilogue, post=post, post_space=space, post_vector=vector
            )
            last.template = replace(last.template, epilogue=epilogue)
            last.offsets += extra
            return
        slot = self._relevance_of(address)
        epilogue = Epilogue(post=post, post_space=space, post_vector=vector)
        op = self._map(slot, size, slot, epilogue, *extra)
        self._record(op, address, size)

    def _only_writer(self, address: int, size: int) -> RowOp | None:
        """Return the instruction that wrote last to exactly these relevances, if one did."""
        index = int(self._writer[address])
        if index < 0 or (self._writer[address : address + size] != index).any():
            return None
        op, start, count = self._writes[index]
        return op if (start, count) == (address, size) else None

    def _value_or_arena(self, operand: int) -> tuple[Space, int]:
        """``operand`` is an address, or −1 − offset for a place in the arena that has none."""
        return (Space.arena, -1 - operand) if operand < 0 else self._value(operand)
