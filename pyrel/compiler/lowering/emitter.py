# SPDX-License-Identifier: Apache-2.0
"""Places in memory and the instructions over them: what the lowering of every node is written with.

Every value has a place in the arena, and beside it a place for its relevance
(`pyrel.compiler.lowering.relevance`). Places are not shared here: the memory planner of
`pyrel.compiler.program` does that once the instructions are in order.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.intervals import Integers, common_runs, runs
from pyrel.compiler.graph.nodes import Addresses, Floats, aligned
from pyrel.compiler.limits import SEGMENTS
from pyrel.compiler.lowering.cache import LoweringCache, Matrix
from pyrel.compiler.program.enums import Post, Scale, Space
from pyrel.compiler.program.instructions import Epilogue, Gemm, Map, Offsets, Template
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.schedule import RowOp, row_op
from pyrel.methods.terms import Factor

Place: TypeAlias = tuple[Space, Offsets]  # the offsets of one row or more


class Emitter:
    """Collects the row operations of one program.

    Parameters
    ----------
    facts : Facts
        Of the graph that is lowered.
    conserves : bool
        Of the method.
    precision : str
        Of `pyrel.engine.precision.PRECISIONS`.
    cache : LoweringCache
    """

    def __init__(self, facts: Facts, conserves: bool, precision: str, cache: LoweringCache) -> None:
        graph = facts.graph
        self.facts, self.graph = facts, graph
        self.program = Program(graph.input_size, graph.classes, conserves)
        self.operations: list[RowOp] = []
        # The arena: activations, their relevance in the same order, denominators.
        self.base = graph.base
        self.relevance_base = aligned(graph.size - self.base)
        self.arena_size = 2 * self.relevance_base
        self.bf16_forward = precision == "bf16_all"
        self.bf16_relevance = precision != "float32"
        self._matrices: dict[Hashable, int] = {}
        self.cache = cache
        # By factor and addresses: where the factor of the values lies.
        self._factors: dict[tuple[Factor, bytes], Offsets] = {}

    # Places

    def value(self, addresses: int | Addresses) -> Place:
        """Return where values lie; all in the input, or none."""
        if np.max(addresses) < self.graph.input_size:
            return Space.input, np.atleast_1d(addresses)
        return Space.arena, np.atleast_1d(addresses) - self.base

    def value_or_arena(self, operand: int) -> Place:
        """Return where an operand lies: an address, or −1 − offset for a place without one."""
        return (Space.arena, np.array([-1 - operand])) if operand < 0 else self.value(operand)

    def reserve(self, size: int) -> int:
        """Return the offset of a new place in the arena."""
        offset = self.arena_size
        self.arena_size += aligned(size)
        return offset

    def segments(self, addresses: Addresses) -> list[tuple[Place, int]]:
        """Return where rows of operands lie, (rows, columns), in as few runs as there are."""
        return [(self.value(addresses[:, i]), j - i) for i, j in common_runs(addresses)]

    def row_groups(self, addresses: Addresses) -> Iterator[tuple[int, Integers]]:
        """Cut (operands, elements) into runs in which all operands are consecutive.

        Yields a length with where all runs of it begin, and none that leave a space of memory.
        """
        pieces = np.array(list(common_runs(addresses)), dtype=np.int64).reshape(-1, 2)
        if len(pieces) == 1:
            yield int(pieces[0, 1] - pieces[0, 0]), pieces[:, 0]
            return
        lengths = pieces[:, 1] - pieces[:, 0]
        inside = (addresses[:, pieces[:, 0]] < self.graph.input_size) * 1
        kinds = np.concatenate([lengths[None], inside]).T
        for kind in np.unique(kinds, axis=0):
            yield int(kind[0]), pieces[(kinds == kind).all(axis=1), 0]

    # Instructions

    def emit(self, template: Template, *offsets: int | Offsets) -> RowOp:
        """Add an instruction with the offsets of each of its operands."""
        self.operations.append(row_op(template, *offsets))
        return self.operations[-1]

    def gemm(
        self,
        segments: list[tuple[Place, int]],
        matrix: Matrix,
        out: Place,
        epilogue: Epilogue,
        *epilogue_offsets: Offsets,
        bf16: bool = False,
    ) -> RowOp:
        """Multiply what lies in some segments, side by side, by a matrix.

        What lies in more segments than a product can read is multiplied one by one.
        """
        if len(segments) > SEGMENTS:
            first = replace(epilogue, post=Post.none)
            then = replace(first, bias=-1, accumulate=True)
            last = replace(epilogue, bias=-1, accumulate=True)
            depth = 0
            for number, segment in enumerate(segments):
                own = first if number == 0 else then if number + 1 < len(segments) else last
                part = matrix.rows(depth, depth + segment[1])
                op = self.gemm([segment], part, out, own, *epilogue_offsets, bf16=bf16)
                depth += segment[1]
            return op
        if matrix.key not in self._matrices:
            self._matrices[matrix.key] = self.program.take_matrix(self.cache.matrix(matrix))
        template = Gemm(
            tuple((place[0], depth) for place, depth in segments),
            self._matrices[matrix.key],
            matrix.columns,
            out[0],
            epilogue,
            bf16,
        )
        return self.emit(template, *(p[1] for p, _ in segments), out[1], *epilogue_offsets)

    def map(
        self,
        source: Place | None,
        columns: int,
        out: Place,
        epilogue: Epilogue | None = None,
        *epilogue_offsets: Offsets,
    ) -> RowOp:
        """Copy rows, or zeros where there is no source, through an epilogue."""
        template = Map(source[0] if source else None, columns, out[0], epilogue or Epilogue())
        return self.emit(template, *([source[1]] if source else []), out[1], *epilogue_offsets)

    def map_runs(self, inputs: Addresses, address: int, epilogue: Epilogue) -> None:
        """Map runs of values to their places from ``address`` on; constants are left out."""
        variable = np.flatnonzero(inputs >= 0)
        for size, first in self.row_groups(np.stack([inputs[variable], address + variable])):
            where = variable[first]
            self.map(self.value(inputs[where]), size, self.value(address + where), epilogue)

    def multiply(self, factors: Addresses, address: int) -> None:
        """Multiply two factors, (2, size), element by element, to places from ``address`` on."""
        for size, first in self.row_groups(factors):
            left, right = (self.value(factor[first]) for factor in factors)
            epilogue = Epilogue(scale=Scale.operand, scale_space=right[0])
            self.map(left, size, self.value(address + first), epilogue, right[1])

    def vector(self, values: Floats) -> int:
        """Return the index of a vector of the program; −1 for zeros."""
        return self.program.vector(values) if values.any() else -1

    # Factors of the terms of a rule: values less a bound, or only those of one sign

    def bounds(self, addresses: Addresses, factor: Factor) -> Floats:
        """Return what a factor takes from the values at these addresses."""
        if factor not in (Factor.above_low, Factor.below_high):
            return np.zeros(addresses.size)
        bounds = self.facts.domains.of(addresses)[factor == Factor.below_high]
        # Between the inputs of the term may lie others without bounds: nothing is summed there.
        return np.where(np.isfinite(bounds), bounds, 0.0)

    def factor_segments(self, addresses: Addresses, factor: Factor) -> list[tuple[Place, int]]:
        """Return where a factor of rows of operands lies, as `segments` does for the operands."""
        read = np.unique(addresses)
        if not (factor.is_clipped or self.bounds(read, factor).any()):
            return self.segments(addresses)
        places = self.factor_places(read, factor)[np.searchsorted(read, addresses)]
        return [((Space.arena, places[:, i]), j - i) for i, j in common_runs(places)]

    def factor_places(self, addresses: Addresses, factor: Factor) -> Offsets:
        """Return where the factors of values lie in the arena, formed the first time."""
        key = factor, addresses.tobytes()
        if key not in self._factors:
            self._factors[key] = self._form_factors(addresses, factor)
        return self._factors[key]

    def _form_factors(self, addresses: Addresses, factor: Factor) -> Offsets:
        bounds = self.bounds(addresses, factor)
        places = np.empty_like(addresses)
        for first, stop in runs(addresses):
            offset, size = self.reserve(stop - first), stop - first
            source, place = self.value(int(addresses[first])), (Space.arena, np.array([offset]))
            if factor == Factor.negative:  # min(0, a) = −max(0, −a)
                minus = Epilogue(
                    scale=Scale.vector, scale_vector=self.program.vector(np.full(size, -1.0))
                )
                self.map(source, size, place, replace(minus, post=Post.relu))
                self.map(place, size, place, minus)
            else:
                post = Post.relu if factor == Factor.positive else Post.none
                bias = self.vector(-bounds[first:stop])
                self.map(source, size, place, Epilogue(bias=bias, post=post))
            places[first:stop] = offset + np.arange(size)
        return places
