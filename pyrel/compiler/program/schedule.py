# SPDX-License-Identifier: Apache-2.0
"""Time batching: which row operations become one instruction, and in which order they run.

Lowering makes one operation per node: a layer applied at twelve steps is twelve of them. Those that
do the same with the same weights, and none of which reads a result of another, become one
instruction over all their rows: an encoder, or the denominators that the recurrence doesn't read,
run as one tall product.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Gemm, Instruction, Offsets, Template

_LOOK_AROUND = 4  # operations


@dataclass(eq=False)
class RowOp:
    """One template and where its operands lie: ``offsets`` is (operands, rows)."""

    template: Template
    offsets: Offsets


def row_op(template: Template, *offsets: int | Offsets) -> RowOp:
    """Make an operation of as many rows as the longest of its operands' offsets."""
    rows = max(np.size(each) for each in offsets)
    table = np.empty((len(offsets), rows), dtype=np.int64)
    for row, each in zip(table, offsets, strict=True):
        row[:] = each
    return RowOp(template, table)


def schedule(ops: list[RowOp], input_size: int, arena_size: int) -> tuple[Instruction, ...]:
    """Order and batch operations that are given in an order in which they could run.

    Operations are grouped by kind (see `_kinds`). Kinds that depend on each other form a loop: the
    layer of a recurrence, forward or backward. A loop runs to its end before anything else does, in
    the order given, so that its iterations are equal however many there are. Outside of loops, the
    ready operation with the longest chain of dependent kinds runs first, together with all ready
    operations of the same template. Operations without consumers in a loop are thus deferred, so
    that they batch and their buffers live briefly. Operations that only read run at once, which
    frees their operands. Operations that only write, and are first read in a loop, run when their
    first reader has no other dependency left.
    """
    before = _dependencies(ops, input_size, arena_size)
    loop, rank = _loops_and_ranks(ops, before)
    after: list[list[int]] = [[] for _ in ops]
    for index, needed in enumerate(before):
        for other in needed:
            after[other].append(index)
    roles = _roles(ops, before, after)
    role = [-1 if inside >= 0 else own for own, inside in zip(roles, loop, strict=True)]
    _delay(ops, before, after, loop, rank)
    waiting = [len(needed) for needed in before]
    groups: list[tuple[int, Template]] = [(loop[i], op.template) for i, op in enumerate(ops)]
    ready: dict[tuple[int, Template], list[int]] = defaultdict(list)
    queue: list[tuple[int, int]] = []  # rank and index; some are done already, in a batch

    def make_ready(index: int) -> None:
        ready[groups[index]].append(index)
        heapq.heappush(queue, (rank[index], index))

    for index in range(len(ops)):
        if not waiting[index]:
            make_ready(index)
    instructions = []
    while queue:
        _, first = heapq.heappop(queue)
        if waiting[first] < 0:
            continue
        batch = sorted(ready.pop(groups[first]), key=lambda index: (role[index], index))
        offsets = _side_by_side([(role[index], ops[index].offsets) for index in batch])
        instructions.append(Instruction(ops[first].template, offsets))
        for index in batch:
            waiting[index] = -1
            for other in after[index]:
                waiting[other] -= 1
                if not waiting[other]:
                    make_ready(other)
    return tuple(instructions)


def _dependencies(ops: list[RowOp], input_size: int, arena_size: int) -> list[set[int]]:
    """Find for each operation those whose results it reads or overwrites.

    Every value still has a place of its own (`pyrel.compiler.program.memory` lets values share
    memory afterwards), so no write has to wait for earlier reads. Reading a place that was never
    written is a fault of the lowering.
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
            if operand.space != Space.input:
                found = writer[operand.space][place]
                first = int(found[0])
                several = np.count_nonzero(found != first)
                writers = np.unique(found).tolist() if several else [first]
                reads = operand.space == Space.arena and operand.read and operand.whole
                if reads and -1 in writers:
                    raise AssertionError(f"operation {index} reads what no earlier one wrote: {op}")
                needed.update(writers)
        needed.discard(-1)
        before.append(needed)
        for operand, place in zip(operands, places, strict=True):
            if operand.written:
                writer[operand.space][place] = index
    return before


def _places(size: int, offsets: Offsets) -> slice | Offsets:
    """Return the places of rows of ``size`` floats, as a slice or an array."""
    if offsets.size == 1:
        return slice(int(offsets[0]), int(offsets[0]) + size)
    return (offsets[:, None] + np.arange(size)).ravel()


def _kinds(ops: list[RowOp], before: list[set[int]]) -> list[int]:
    """Assign numbers to operations, by template and the products whose results reach them.

    Only the last product on each path counts. So equal templates of different layers get different
    numbers, and the steps of a recurrence, except for the first two, get the same.
    """
    behind: list[int] = []  # by operation: the bits of matrices
    known: dict[tuple[Template, int], int] = {}
    kinds = []
    for op, needed in zip(ops, before, strict=True):
        bits = 0
        for other in needed:
            template = ops[other].template
            bits |= 1 << template.matrix if isinstance(template, Gemm) else behind[other]
        behind.append(bits)
        kinds.append(known.setdefault((op.template, bits), len(known)))
    return kinds


def _roles(ops: list[RowOp], before: list[set[int]], after: list[list[int]]) -> list[int]:
    """Assign numbers to operations, by their neighbourhood in the graph of dependencies.

    Rows of one instruction are ordered by it, so that the same row of the next step is one stride
    further on.
    """
    known: dict[object, int] = {}
    role = [known.setdefault(op.template, len(known)) for op in ops]
    for _ in range(_LOOK_AROUND):
        known = {}
        role = [
            known.setdefault(
                (
                    role[index],
                    frozenset([role[other] for other in before[index]]),
                    frozenset([role[other] for other in after[index]]),
                ),
                len(known),
            )
            for index in range(len(ops))
        ]
    return role


def _side_by_side(parts: list[tuple[int, Offsets]]) -> Offsets:
    """Join the offsets of operations; where roles are equal, all first rows come first."""
    joined = []
    for _, group in itertools.groupby(parts, lambda part: (part[0], part[1].shape)):
        offsets = np.stack([each for _, each in group], axis=2)
        if offsets.shape[1] > offsets.shape[2]:
            offsets = offsets.transpose(0, 2, 1)  # few layers over many rows
        joined.append(offsets.reshape(offsets.shape[0], -1))
    return np.concatenate(joined, axis=1)


def _loops_and_ranks(ops: list[RowOp], before: list[set[int]]) -> tuple[list[int], list[int]]:
    """Return for each operation the loop that it is in, or -1, and its rank; low ranks run first.

    No two loops have the same rank.
    """
    kinds = _kinds(ops, before)
    edges = {(k, kinds[i]) for k, needed in zip(kinds, before, strict=True) for i in needed}
    read: list[list[int]] = [[] for _ in range(max(kinds) + 1)]
    for k, j in edges:
        read[k].append(j)
    component = _components(read)  # in an order in which each reads results of earlier ones only
    sizes = Counter(component)
    looping = {c for c, size in sizes.items() if size > 1}
    looping |= {component[k] for k, j in edges if k == j}
    height = [1] * len(sizes)
    for c, d in sorted(((component[k], component[j]) for k, j in edges), reverse=True):
        if c != d:
            height[d] = max(height[d], height[c] + 1)
    of = [component[k] for k in kinds]
    first = [len(ops)] * len(sizes)
    for index in range(len(ops) - 1, -1, -1):
        first[of[index]] = index
    # Kinds of the same height keep the order given among their operations, loops apart.
    keys = [(-height[c], first[c] if c in looping else -1) for c in range(len(sizes))]
    ranks = {key: 1 + number for number, key in enumerate(sorted(set(keys)))}
    rank = [ranks[keys[c]] for c in of]
    for index, op in enumerate(ops):
        if not any(operand.written for operand in op.template.operands()):
            rank[index] = 0
    return [c if c in looping else -1 for c in of], rank


def _components(edges: list[list[int]]) -> list[int]:
    """Find strongly connected components (Tarjan): what an edge leads to has a lower number."""
    order, low = [-1] * len(edges), [0] * len(edges)
    component = [-1] * len(edges)
    path: list[int] = []
    visited = components = 0
    for root in range(len(edges)):
        work = [(root, iter(edges[root]))] if order[root] < 0 else []
        while work:
            node, targets = work[-1]
            if order[node] < 0:
                order[node] = low[node] = visited
                visited += 1
                path.append(node)
            for target in targets:
                if order[target] < 0:
                    work.append((target, iter(edges[target])))
                    break
                if component[target] < 0:
                    low[node] = min(low[node], low[target])
            else:
                work.pop()
                if work:
                    low[work[-1][0]] = min(low[work[-1][0]], low[node])
                if low[node] == order[node]:
                    while component[node] < 0:
                        component[path.pop()] = components
                    components += 1
    return component


def _delay(
    ops: list[RowOp],
    before: list[set[int]],
    after: list[list[int]],
    loop: list[int],
    rank: list[int],
) -> None:
    """Let operations that only write depend on what their first reader in a loop depends on."""
    writes = [not any(o.read for o in op.template.operands()) for op in ops]
    for index in [i for i, readers in enumerate(after) if readers and writes[i]]:
        reader = min(after[index])
        if loop[reader] < 0 or before[index]:
            continue
        loop[index], rank[index] = loop[reader], rank[reader]
        for other in before[reader]:
            if not writes[other]:
                before[index].add(other)
                after[other].append(index)
