# SPDX-License-Identifier: Apache-2.0
"""Products of two matrices that both depend on the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pyrel.compiler.graph.intervals import apart
from pyrel.compiler.graph.matrices import Matmul
from pyrel.compiler.graph.nodes import Addresses
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance
from pyrel.compiler.program.instructions import Matmul as MatmulRows
from pyrel.compiler.program.schedule import RowOp


@dataclass(frozen=True)
class Matrices:
    """Matrices of one shape, each in a run of its own; column by column if ``transposed``.

    ``starts`` are their addresses, and ``place`` says where what is meant by these lies.
    """

    starts: Addresses
    rows: int
    columns: int
    transposed: bool
    place: Callable[[Addresses], Place]

    @property
    def turned(self) -> Matrices:
        """The same memory, with rows for columns."""
        return Matrices(self.starts, self.columns, self.rows, not self.transposed, self.place)


def matrices(addresses: Addresses, place: Callable[[Addresses], Place]) -> Matrices:
    """Return matrices, (products, rows, columns), which `lay_out` has put into runs."""
    _, rows, columns = addresses.shape
    transposed = bool(rows > 1 and addresses[0, 1, 0] != addresses[0, 0, 0] + columns)
    return Matrices(addresses[:, 0, 0], rows, columns, transposed, place)


def forward_matmul(node: Matmul, emitter: Emitter, _: Placement | None) -> None:
    """Multiply the matrices."""
    left, right = (matrices(each, emitter.value) for each in (node.left, node.right))
    _multiply(emitter, left, right, _outputs(node, emitter.value), False)


def back_matmul(node: Matmul, relevance: Relevance, placement: Placement) -> None:
    """Multiply the gradient by the other matrix, transposed."""
    emitter = relevance.emitter
    stopped = placement.facts.gates.is_stopped
    of_out = _outputs(node, relevance.place)
    left, right = (matrices(each, emitter.value) for each in (node.left, node.right))
    for own, other in ((left, right), (right, left)):
        size = own.rows * own.columns
        if stopped[own.starts[:, None] + np.arange(size)].all():
            continue
        for some in apart(own.starts, size):
            out = replace(own, starts=own.starts[some], place=relevance.place)
            known = replace(other, starts=other.starts[some]).turned
            given = replace(of_out, starts=of_out.starts[some])
            first, second = (given, known) if own is left else (known, given)
            accumulate = relevance.accumulates(out.starts, size)
            op = _multiply(emitter, first, second, out, accumulate)
            relevance.record(op, out.starts, size)


def _outputs(node: Matmul, place: Callable[[Addresses], Place]) -> Matrices:
    size = node.rows * node.columns
    starts = node.start + size * np.arange(len(node.inputs))
    return Matrices(starts, node.rows, node.columns, False, place)


def _multiply(
    emitter: Emitter, left: Matrices, right: Matrices, out: Matrices, accumulate: bool
) -> RowOp:
    if out.transposed:  # (L R)ᵀ = Rᵀ Lᵀ
        left, right, out = right.turned, left.turned, out.turned
    places = [each.place(each.starts) for each in (left, right, out)]
    template = MatmulRows(
        places[0][0],
        places[1][0],
        left.rows,
        left.columns,
        right.columns,
        places[2][0],
        left.transposed,
        right.transposed,
        accumulate,
    )
    return emitter.emit(template, *(offsets for _, offsets in places))
