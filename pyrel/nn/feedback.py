# SPDX-License-Identifier: Apache-2.0
"""The recurrence that the thesis's cells without gates have in common."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrel.nn._checks import positive
from pyrel.nn.cell import Cell
from pyrel.nn.layers import SoftplusLinear


class FeedbackCell(Cell):
    """A cell in the form of the thesis's section 4.2.

    At each step the input is encoded, joined to the recurrent input ``r`` and mapped to ``a(4)``,
    the state of the cell; ``r`` of the next step is derived from it, ``r = 0`` at the first. The
    class scores are read from the last ``a(4)``. Hidden layers end in ReLU, each layer is
    ``h = W a - softplus(b)``. A subclass fills in ``encode_steps``.
    The other parameters are those of `Cell`.

    Parameters
    ----------
    recurrent : int
        Width of the recurrent input.
    """

    cell_index: ClassVar[int]
    majority_recurrent: ClassVar[int] = 256

    def __init__(
        self,
        steps: int,
        step_shape: Iterable[int] = (28, 7),
        classes: int = 10,
        sizes: Iterable[int] | None = None,
        recurrent: int = 128,
        dropout: float = 0.5,
        stationary: bool = False,
    ) -> None:
        super().__init__(steps, step_shape, classes, sizes, dropout, stationary)
        self.recurrent = positive("recurrent", recurrent)
        state = self.sizes[self.cell_index]
        joined = self.encoded_features + (self.recurrent if self.steps > 1 else 0)
        self.cell = SoftplusLinear(joined, state)
        if self.steps > 1:
            self.feedback = SoftplusLinear(state, self.recurrent)
        self.output = SoftplusLinear(self.sizes[-1], self.classes)

    @property
    def encoded_features(self) -> int:
        """Width of an encoded step: that of the layer before ``a(4)``, or of the input."""
        return (self.step_features, *self.sizes)[self.cell_index]

    def config(self) -> dict[str, Any]:
        """Return what :func:`pyrel.nn.build` needs to make this cell again; JSON can hold it."""
        return super().config() | {"recurrent": self.recurrent}

    def last_state(self, x: Tensor) -> Tensor:
        """Return the last ``a(4)``: (n, steps, *step_shape) to (n, a(4))."""
        encoded = self.encode_steps(x)
        joined = encoded[0]
        if self.steps > 1:
            joined = torch.cat([joined, x.new_zeros(x.shape[0], self.recurrent)], 1)
        state = F.relu(self.cell(joined))
        for step in encoded[1:]:
            r = F.relu(self.feedback(state))
            state = F.relu(self.cell(torch.cat([step, r], 1)))
        return state

    def encode_steps(self, x: Tensor) -> list[Tensor]:
        """Map the input of each step to what is joined to the recurrent input."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Return the sizes, for ``repr``."""
        return f"{super().extra_repr()}, recurrent={self.recurrent}"

    @classmethod
    def _majority_options(cls) -> dict[str, Any]:
        return super()._majority_options() | {"recurrent": cls.majority_recurrent}
