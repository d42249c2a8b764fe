# SPDX-License-Identifier: Apache-2.0
"""The relevance of values: where it lies, what wrote it last, what is done once it is complete.

Every value has a place for its relevance; that of input elements goes straight to the result. A
node's relevance is complete when all its readers have written to it; the last of them also does
what comes next (divides by the denominator, masks by the ReLU) in the same instruction, where the
shapes allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.intervals import Integers, apart, by_vector, runs
from pyrel.compiler.graph.nodes import Addresses, Floats, Node
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.program.enums import Post, Scale, Share, Space
from pyrel.compiler.program.instructions import Absorb, Epilogue, Gemm, Map, Offsets
from pyrel.compiler.program.schedule import RowOp

# From offsets into a node's outputs to where their relevance, or a share of it, lies.
Shares = Callable[[int | Addresses], Place]


class Relevance:
    """Writes relevance, and knows what is written.

    Parameters
    ----------
    emitter : Emitter
    """

    def __init__(self, emitter: Emitter) -> None:
        self.emitter = emitter
        # By address: which of `_writes` wrote its relevance last; or -1.
        self._writer = np.full(emitter.graph.size, -1, dtype=np.int64)
        self._writes: list[RowOp] = []

    def place(self, addresses: int | Addresses) -> Place:
        """Return where the relevance of values lies; all in the input, or none."""
        if np.max(addresses) < self.emitter.graph.input_size:
            return Space.relevance, np.atleast_1d(addresses)
        moved = np.atleast_1d(addresses) - self.emitter.base + self.emitter.relevance_base
        return Space.arena, moved

    def of(self, node: Node) -> Shares:
        """Return where the relevance of a node's outputs lies, by their offset."""
        return lambda offsets: self.place(node.start + offsets)

    def record(self, op: RowOp, addresses: int | Addresses, size: int) -> None:
        """Note that ``op`` wrote last to the ``size`` relevances from each address on."""
        starts = np.atleast_1d(addresses)
        self._writer[starts[:, None] + np.arange(size)] = len(self._writes)
        self._writes.append(op)

    def is_written(self, node: Node) -> bool:
        """Whether some of a node's outputs have relevance."""
        return not bool((self._writer[node.start : node.start + node.size] < 0).all())

    def clear_unwritten(self, start: int, size: int) -> None:
        """Write zeros where nothing is written yet."""
        unwritten = start + np.flatnonzero(self._writer[start : start + size] < 0)
        for first, stop in runs(unwritten):
            address, count = int(unwritten[first]), stop - first
            op = self.emitter.map(None, count, self.place(address))
            self.record(op, address, count)

    def rows_apart(self, addresses: Addresses) -> Iterator[tuple[int, Integers]]:
        """Group runs of inputs, (size,), as `Emitter.row_groups`; no two of a group overlap.

        An input that stands twice, as one that was expanded, gets relevance twice: one instruction
        must not write it in two rows.
        """
        for size, first in self.emitter.row_groups(addresses[None]):
            for some in apart(addresses[first], size):
                yield size, first[some]

    def is_even(self, addresses: Addresses) -> bool:
        """Whether addresses differ, and relevance is there already at all of them or at none."""
        flat = addresses.ravel()
        if (flat < 0).any() or np.unique(flat).size < flat.size:
            return False
        written = self._writer[flat] >= 0
        return bool(written.all() or not written.any())

    def accumulates(self, addresses: int | Addresses, size: int) -> bool:
        """Whether relevance is there already; where it is in part, the rest is cleared first."""
        starts = np.atleast_1d(addresses)
        written = self._writer[starts[:, None] + np.arange(size)] >= 0
        if not written.any():
            return False
        if not written.all():
            for start in starts.tolist():
                self.clear_unwritten(start, size)
        return True

    def finish(
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
            op = self.emitter.map(self.place(address), size, self.place(address))
            self.record(op, address, size)
            done = [(op, np.zeros(1, dtype=np.int64))]
        for op, rows in done:
            template = op.template
            assert isinstance(template, Gemm | Map)
            space = None
            if operand is not None:
                space, origin = self.emitter.value_or_arena(operand)
                op.offsets = np.concatenate([op.offsets, (origin + rows)[None]])
            part = None if vector is None else vector[rows[0] : rows[0] + template.columns]
            epilogue = replace(
                template.epilogue,
                post=post,
                post_space=space,
                post_vector=-1 if part is None else self.emitter.vector(part),
                epsilon=epsilon,
            )
            op.template = replace(template, epilogue=epilogue)

    def _last_writers(
        self, address: int, size: int, vector: Floats | None
    ) -> list[tuple[RowOp, Offsets]] | None:
        """Return the instructions that can do what comes next to exactly these relevances.

        With each, how far behind ``address`` its rows start. None if one of those that wrote last
        also wrote others, or has a ``post`` already, or would need a vector for each row.
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
            rows = op.offsets[out] - self.place(address)[1]
            if rows.size * template.columns != count:
                return None
            if vector is not None and rows.size > 1:
                parts = vector[rows[:, None] + np.arange(template.columns)]
                if (parts != parts[0]).any():
                    return None
            done.append((op, rows))
        return done

    # What no input gets

    def absorb(
        self,
        source: Place,
        size: int,
        share: Share = Share.weighted,
        vector: Floats | None = None,
        operand: int | None = None,
        epsilon: float = 0.0,
    ) -> None:
        """Count relevance that goes nowhere; ``operand`` is as for `finish`."""
        place = None if operand is None else self.emitter.value_or_arena(operand)
        template = Absorb(
            source[0],
            -1 if vector is None else self.emitter.vector(vector),
            size,
            share,
            None if place is None else place[0],
            epsilon,
        )
        self.emitter.emit(template, source[1], *([] if place is None else [place[1]]))

    def absorb_weighted(self, node: Node, weights: Floats, shares: Shares | None = None) -> None:
        """Count relevance times ``weights``, which are for all outputs or for those of a row."""
        if weights.any():
            place = (shares or self.of(node))(0)
            self.absorb(place, node.size, vector=np.resize(weights, node.size))

    def absorb_all(self, node: Node) -> None:
        """Count all relevance of a node's outputs."""
        self.absorb_weighted(node, np.ones(node.size))

    # What inputs get

    def pass_on(
        self,
        node: Node,
        inputs: Addresses,
        vector: Floats | None = None,
        operands: Addresses | None = None,
        shares: Shares | None = None,
        origins: Integers | None = None,
    ) -> None:
        """Give each input its output's relevance, times a vector or what lies at ``operands``.

        There is an input for each output, or for those at the offsets ``origins``.
        """
        shares = shares or self.of(node)
        if origins is None:
            origins = np.arange(node.size)
        variable = np.flatnonzero(inputs >= 0)
        read = [inputs[variable], node.start + origins[variable]]
        if operands is not None:
            read.append(operands[variable])
        for size, first in self.emitter.row_groups(np.stack(read)):
            where = variable[first]
            if vector is None:
                self._pass_rows(shares, inputs, where, size, Epilogue(), operands, origins)
                continue
            for factors, some in by_vector(vector, where, size):
                index = self.emitter.program.vector(factors)
                epilogue = Epilogue(scale=Scale.vector, scale_vector=index)
                self._pass_rows(shares, inputs, some, size, epilogue, None, origins)

    def _pass_rows(
        self,
        shares: Shares,
        inputs: Addresses,
        where: Integers,
        size: int,
        epilogue: Epilogue,
        operands: Addresses | None,
        origins: Integers,
    ) -> None:
        offsets: list[Offsets] = []
        if operands is not None:
            space, offset = self.emitter.value(operands[where])
            epilogue, offsets = Epilogue(scale=Scale.operand, scale_space=space), [offset]
        for some in apart(inputs[where], size):
            addresses = inputs[where[some]]
            op = self.emitter.map(
                shares(origins[where[some]]),
                size,
                self.place(addresses),
                replace(epilogue, accumulate=self.accumulates(addresses, size)),
                *(offset[some] for offset in offsets),
            )
            self.record(op, addresses, size)
