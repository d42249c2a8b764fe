# SPDX-License-Identifier: Apache-2.0
"""Time batching: which row operations become one instruction, and in which order they run.

Lowering makes one operation per node: a layer applied at twelve steps is twelve of them. Those that
do the same with the same weights and do not wait for each other become one instruction over all
their rows, so an encoder, or the denominators that nothing in the recurrence waits for, run as one
tall product.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyrel._core import Space
from pyrel.program import Instruction, Offsets, Template


@dataclass(eq=False)
class RowOp:
    """One template and where its operands lie: ``offsets`` is (operands, rows)."""

    template: Template
    offsets: Offsets


def row_op(template: Template, *offsets: int | Offsets) -> RowOp:
    """Make an operation of as many rows as the longest of its operands' offsets."""
    return RowOp(template, np.stack(np.broadcast_arrays(*map(np.atleast_1d, offsets))))


def schedule(ops: list[RowOp], input_size: int, arena_size: int) -> tuple[Instruction, ...]:
    """Order and batch operations that are given in an order in which they could run.

    The ready operation with the longest chain of others behind it runs, and with it all of the same
    template that are ready. So what nothing waits for runs late, together, and close to its
    readers: its result takes memory for a short time only. What only reads runs at once, so that
    its operands' memory is free again.
    """
    before = _dependencies(ops, input_size, arena_size)
    after: list[list[int]] = [[] for _ in ops]
    for index, needed in enumerate(before):
        for other in needed:
            after[other].append(index)
    height = _heights(after)
    for index, op in enumerate(ops):
        if not any(operand.written for operand in op.template.operands()):
            height[index] = len(ops) + 1
    waiting = [len(needed) for needed in before]
    ready_by_template: dict[Template, list[int]] = defaultdict(list)
    for index, op in enumerate(ops):
        if not waiting[index]:
            ready_by_template[op.template].append(index)
    instructions = []
    while active := [ready for ready in ready_by_template.values() if ready]:
        ready = max(active, key=lambda ready: max(height[index] for index in ready))
        batch = sorted(ready)
        ready.clear()
        offsets = np.concatenate([ops[index].offsets for index in batch], axis=1)
        instructions.append(Instruction(ops[batch[0]].template, offsets))
        for index in batch:
            for other in after[index]:
                waiting[other] -= 1
                if not waiting[other]:
                    ready_by_template[ops[other].template].append(other)
    return tuple(instructions)


def _dependencies(ops: list[RowOp], input_size: int, arena_size: int) -> list[set[int]]:
    """For each operation, those whose results it reads or writes over.

    No place is written for a new purpose before all its readers are done, as every value still has
    its own (`pyrel.memory` lets them share memory afterwards): so reads need not be waited for.
    """
    writer: dict[Space, npt.NDArray[np.int64]] = {
        Space.input: np.full(input_size, -1),
        Space.arena: np.full(arena_size, -1),
        Space.relevance: np.full(input_size, -1),
    }
    before: list[set[int]] = []
    for index, op in enumerate(ops):
        operands = op.template.operands()
        places = [_places(o.size, offsets) for o, offsets in zip(operands, op.offsets, strict=True)]
        needed: set[int] = set()
        for operand, place in zip(operands, places, strict=True):
            needed.update(np.unique(writer[operand.space][place]).tolist())
        before.append(needed - {-1})
        for operand, place in zip(operands, places, strict=True):
            if operand.written:
                writer[operand.space][place] = index
    return before


def _places(size: int, offsets: Offsets) -> slice | Offsets:
    """Return what rows of ``size`` floats touch: a slice, or an array of places."""
    if offsets.size == 1:
        return slice(int(offsets[0]), int(offsets[0]) + size)
    return (offsets[:, None] + np.arange(size)).ravel()


def _heights(after: list[list[int]]) -> list[int]:
    """Length of the longest chain of operations that wait for each one."""
    height = [0] * len(after)
    for index in range(len(after) - 1, -1, -1):
        height[index] = 1 + max((height[other] for other in after[index]), default=0)
    return height
