# SPDX-License-Identifier: Apache-2.0
"""The cell that only passes its input on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor

from pyrel.nn.feedback import FeedbackCell


class Shallow(FeedbackCell):
    """Shallow cell: ``[x_t; r_t]`` to ``a(4)``, the class scores straight from the last ``a(4)``.

    Thesis, section 4.2.1 and figure 4.3a. ``sizes`` is ``(a(4),)``. The thesis names no dropout for
    this cell, so it is off by default; where asked for, it falls on the last ``a(4)``, as in
    :class:`Deep`. No layer has dropout at every step, so ``stationary`` changes nothing here. The
    other parameters are those of :class:`Cell` and, for ``recurrent``, of :class:`FeedbackCell`.
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
        stationary: bool = False,
    ) -> None:
        super().__init__(steps, step_shape, classes, sizes, recurrent, dropout, stationary)

    def encode_steps(self, x: Tensor) -> list[Tensor]:
        """Return the pixels themselves."""
        return [x[:, t].flatten(1) for t in range(self.steps)]
