# SPDX-License-Identifier: Apache-2.0
"""Makes the nodes of numbers that are computed of token ids, and of choices by such masks."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from pyrel.compiler.graph.lookups import IdFunction
from pyrel.compiler.graph.nodes import Addresses, Choice, Lookup

if TYPE_CHECKING:
    from pyrel.compiler.graph.builder import Builder


class IdNodes:
    """A part of a `Builder`, to which it adds its nodes."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def bound(self, ids: Addresses, rows: int) -> None:
        """Note that token ids are below a number."""
        bounds = self._builder.bounds
        known = bounds[ids]
        bounds[ids] = np.where(known > 0, np.minimum(known, rows), rows)

    def look_up(
        self,
        operands: Addresses,
        function: Callable[[Sequence[torch.Tensor]], torch.Tensor],
        key: Hashable,
    ) -> Addresses:
        """Take a function of each element, of one token id: (operands, size) to (size,).

        The operands are token ids, functions of them, and constants. ``function`` gets each as a
        tensor of equal length, constants of float64; those of one ``key`` are the same.

        Raises
        ------
        SeveralIdsError
            An element is computed of two ids.
        """
        ids, parts = self._builder.lookups.parts(operands)
        columns, group = np.unique(parts, axis=1, return_inverse=True)
        group = group.reshape(-1)
        out = np.empty(ids.size, dtype=np.int64)
        for index, column in enumerate(columns.T.tolist()):
            here = group == index
            whole = self._composed(function, column)
            if (ids[here] < 0).all():  # nothing but constants
                value = whole(torch.zeros(1, dtype=torch.int64)).to(torch.float64)
                out[here] = self._builder.constants(value.numpy()[0])
            else:
                number = self._builder.lookups.number((key, tuple(column)), whole)
                out[here] = self._looked_up(ids[here], number)
        return out

    def _composed(
        self, function: Callable[[Sequence[torch.Tensor]], torch.Tensor], column: list[int]
    ) -> IdFunction:
        """Make a function of ids of one of operands, given by functions' numbers and constants."""
        values = self._builder.values(np.array(column))
        lookups = self._builder.lookups
        parts = [None if number < 0 else lookups.function(number) for number in column]

        def whole(ids: torch.Tensor) -> torch.Tensor:
            given = [
                torch.full(ids.shape, value, dtype=torch.float64) if part is None else part(ids)
                for part, value in zip(parts, values.tolist(), strict=True)
            ]
            return function(given)

        return whole

    def _looked_up(self, ids: Addresses, number: int) -> Addresses:
        new = np.unique(ids[self._builder.lookups.made(number, ids) < 0])
        if new.size:
            node = Lookup(self._builder.end, new, np.zeros((1, 1)), module=self._builder.module)
            self._builder.added(node)
            self._builder.lookups.add(node, number)
        return self._builder.lookups.made(number, ids)

    def side_by_side(self, operand: Addresses) -> Addresses:
        """Let functions of ids that are repeated lie side by side, as what they multiply does."""
        found = self._builder.lookups.repeated(operand) if self._builder.lookups else None
        if found is None:
            return operand
        number, ids, width = found
        key = number, ids.tobytes(), width
        kept = self._builder.lookups.wide(key)
        if kept is None:
            node = Lookup(self._builder.end, ids, np.zeros((1, width)), module=self._builder.module)
            kept = self._builder.added(node)
            self._builder.lookups.add(node, number)
            self._builder.lookups.keep_wide(key, kept)
        return kept

    def choose(
        self, values: Addresses, masks: Addresses, beside: Addresses | None = None
    ) -> Addresses:
        """Those of some values, (values, size), that masks of token ids choose; see `Choice`."""
        out = values[0].copy()
        known = (masks < 0).all(axis=0)  # of ids that are constants
        if known.any():
            places = self._builder.values(masks[:, known]).argmax(axis=0)
            out[known] = values[places, np.flatnonzero(known)]
            if beside is not None:
                wanted = self._builder.values(beside[known]) != 0
                out[known] = np.where(wanted, beside[known], out[known])
        left = ~known
        if beside is None:
            left &= (values != values[0]).any(axis=0)
        if not left.any():
            return np.asarray(out)
        rows = [*values[:, left], *(self._wide(mask) for mask in masks[:, left])]
        rows += [] if beside is None else [beside[left]]
        node = Choice(self._builder.end, np.stack(rows), module=self._builder.module)
        out[left] = self._builder.added(node)
        return np.asarray(out)

    def _wide(self, mask: Addresses) -> Addresses:
        """Let masks that are repeated lie side by side, as what they choose does."""
        laid = self.side_by_side(mask)
        if laid is not mask or mask.size < 2 or (np.diff(mask) != 0).any():
            return laid
        key = "wide", int(mask[0]), mask.size
        kept = self._builder.lookups.wide(key)
        if kept is None:
            kept = self._builder.copy(mask)
            self._builder.lookups.keep_wide(key, kept)
        return kept
