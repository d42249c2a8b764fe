# SPDX-License-Identifier: Apache-2.0
"""The cell with nothing between input and recurrence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor

from pyrel.nn.cell import Cell


class Shallow(Cell):
    """Shallow cell: ``[x_t; r_t]`` to ``a(4)``, the scores from the last ``a(4)``.

    Thesis, section 4.2.1 and figure 4.3a. ``sizes`` is ``(a(4),)``. The thesis names no dropout for
    this cell, so it is off by default; where asked for, it falls on the last ``a(4)``, as in
    :class:`Deep`. The other parameters are those of :class:`Cell`.
    """

    default_sizes: ClassVar[tuple[int, ...]] = (768,)
    size_names: ClassVar[tuple[str, ...]] = ("a(4)",)
    cell_index: ClassVar[int] = 0
    majority_sizes: ClassVar[tuple[int, ...]] = (256,)

    def __init__(
        self,
        steps: int,
        step_shape: Iterable[int] = (28, 7),
        classes: int = 10,
        sizes: Iterable[int] | None = None,
        recurrent: int = 128,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(steps, step_shape, classes, sizes, recurrent, dropout)

    def encode(self, x: Tensor) -> Tensor:
        """Return the pixels themselves."""
        return x

    def read_out(self, state: Tensor) -> Tensor:
        """Return the output layer of ``a(4)``: (n, a(4)) to (n, classes)."""
        scores: Tensor = self.output(self.dropout(state))
        return scores
