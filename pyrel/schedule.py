# SPDX-License-Identifier: Apache-2.0
"""Time batching: which row operations become one instruction, and in which order they run.

Lowering makes one operation per row: a layer applied at twelve steps is twelve of them. Those that
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
from pyrel.program import Instruction, Template


@dataclass(eq=False)
class RowOp:
    """One template at one place: an offset for each of its operands."""

    template: Template
    offsets: list[int]


def schedule(ops: list[RowOp], input_size: int, arena_size: int) -> tuple[Instruction, ...]:
    """Order and batch operations that are given in an order in which they could run.

    The ready operation with the longest chain of others behind it runs, and with it all of the same
    template that are ready. So what nothing waits for runs late, together, and close to its
    readers: its result takes memory for a short time only.
    """
    before = _dependencies(ops, input_size, arena_size)
    after: list[list[int]] = [[] for _ in ops]
    for index, needed in enumerate(before):
        for other in needed:
            after[other].append(index)
    height = _heights(after)
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
        offsets = np.array([ops[index].offsets for index in batch], dtype=np.int64).T
        instructions.append(Instruction(ops[batch[0]].template, np.ascontiguousarray(offsets)))
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
        operands = list(zip(op.template.operands(), op.offsets, strict=True))
        touched = [writer[o.space][offset : offset + o.size] for o, offset in operands]
        before.append({int(i) for part in touched for i in np.unique(part) if i >= 0})
        for (operand, _), part in zip(operands, touched, strict=True):
            if operand.written:
                part[:] = index
    return before


def _heights(after: list[list[int]]) -> list[int]:
    """Length of the longest chain of operations that wait for each one."""
    height = [0] * len(after)
    for index in range(len(after) - 1, -1, -1):
        height[index] = 1 + max((height[other] for other in after[index]), default=0)
    return height
