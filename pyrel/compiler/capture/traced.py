# SPDX-License-Identifier: Apache-2.0
"""Traced tensors, whose elements are value ids, and empty tensors among them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from pyrel.compiler.capture.samples import SAMPLE_SHIFT

# Entries of empty tensors that were never written have ids below those of all constants.
_UNWRITTEN = np.iinfo(np.int64).min
_WRITTEN = -1 << SAMPLE_SHIFT


@dataclass(frozen=True)
class Traced:
    """A tensor that depends on the input; ``ids`` holds sample and address of each element."""

    ids: torch.Tensor


class TruthValues(Traced):
    """An operand of type bool: what is 1 or 0 may also be a number."""


class UnwrittenError(Exception):
    """An entry of an empty tensor is read that nothing was written into.

    Attributes
    ----------
    operator, module : str
        What made the tensor, and where.
    """

    def __init__(self, operator: str, module: str) -> None:
        super().__init__(operator, module)
        self.operator, self.module = operator, module


class EmptyTensors:
    """The empty tensors of one tracer, whose entries have to be written before they are read."""

    def __init__(self) -> None:
        self._made: list[tuple[str, str]] = []  # by which operators, in which modules

    def make(self, shape: tuple[int, ...], operator: str, module: str) -> Traced:
        """Trace an empty tensor."""
        self._made.append((operator, module))
        return Traced(torch.full(shape, _UNWRITTEN + len(self._made) - 1))

    def check(self, value: Traced) -> None:
        """Raise UnwrittenError if an entry is that of an empty tensor."""
        if self.are_in(value):
            found = value.ids[self.entries(value.ids)]
            raise UnwrittenError(*self._made[int(found[0]) - _UNWRITTEN])

    def are_in(self, value: Traced) -> bool:
        """Whether an entry is that of an empty tensor."""
        return bool(self._made) and bool(self.entries(value.ids).any())

    @staticmethod
    def entries(ids: torch.Tensor) -> torch.Tensor:
        """Which elements are entries of empty tensors."""
        return ids < _WRITTEN
