# SPDX-License-Identifier: Apache-2.0
"""What all cells share: checked sizes, the loop over steps, a configuration that rebuilds them."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any, ClassVar, Self, SupportsIndex

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyrel.nn.layers import SoftplusLinear


class Cell(nn.Module):
    """A recurrent classifier over a sequence of ``steps`` inputs, in the thesis's form.

    At each step the input is encoded, joined to the recurrent input ``r`` and mapped to ``a(4)``,
    the state of the cell; ``r`` of the next step is derived from it, ``r = 0`` at the first. The
    class scores are read from the last ``a(4)``. Hidden layers end in ReLU, each layer is
    ``h = W a - softplus(b)``. A subclass says how many widths it takes, and fills in ``encode`` and
    ``read_out``.

    Parameters
    ----------
    steps : int
        Length T of a sequence, at least 1. At T = 1 the recurrent parameters are absent.
    step_shape : sequence of int
        Shape of the input of one step.
    classes : int
        Number of classes.
    sizes : sequence of int, optional
        Widths of the hidden layers in the order of the data: before the recurrence, the cell
        ``a(4)``, after it. By default those of the thesis (figure 4.5).
    recurrent : int
        Width of the recurrent input.
    dropout : float
        Probability that a unit is dropped in training, in [0, 1).

    Raises
    ------
    TypeError, ValueError
        An argument is not of that kind or out of that range; the message names it.
    """

    default_sizes: ClassVar[tuple[int, ...]]
    size_names: ClassVar[tuple[str, ...]]
    cell_index: ClassVar[int]
    majority_sizes: ClassVar[tuple[int, ...]]
    majority_recurrent: ClassVar[int] = 256

    def __init__(
        self,
        steps: int,
        step_shape: Iterable[int] = (28, 7),
        classes: int = 10,
        sizes: Iterable[int] | None = None,
        recurrent: int = 128,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        self.steps = _positive("steps", steps)
        self.step_shape = _positive_tuple("step_shape", step_shape)
        self.classes = _positive("classes", classes)
        self.sizes = self._checked_sizes(self.default_sizes if sizes is None else sizes)
        self.recurrent = _positive("recurrent", recurrent)
        self.dropout = nn.Dropout(_probability("dropout", dropout))
        encoded = (self.step_features, *self.sizes)[self.cell_index]
        state = self.sizes[self.cell_index]
        self.cell = SoftplusLinear(encoded + (self.recurrent if self.steps > 1 else 0), state)
        if self.steps > 1:
            self.feedback = SoftplusLinear(state, self.recurrent)
        self.output = SoftplusLinear(self.sizes[-1], self.classes)

    @classmethod
    def for_majority(cls, steps: int = 12, **options: Any) -> Self:
        """Return the cell at the sizes of the thesis's majority experiment (table 4.6).

        Three digits side by side, 28 x 84 pixels, cut into ``steps`` groups of columns.

        Parameters
        ----------
        steps : int
            Length of a sequence; divides 84.
        **options
            Further arguments of the cell; they win over those of the experiment.

        Raises
        ------
        ValueError
            ``steps`` does not divide 84.
        """
        count = _positive("steps", steps)
        if 84 % count:
            raise ValueError(f"steps must divide the 84 columns of three digits, not {count}")
        arguments: dict[str, Any] = {
            "step_shape": (28, 84 // count),
            "sizes": cls.majority_sizes,
            "recurrent": cls.majority_recurrent,
        }
        return cls(count, **(arguments | options))

    @property
    def step_features(self) -> int:
        """Number of input elements in one step."""
        return math.prod(self.step_shape)

    def config(self) -> dict[str, Any]:
        """Return what :func:`pyrel.nn.build` needs to make this cell again; JSON can hold it."""
        return {
            "cell": type(self).__name__,
            "steps": self.steps,
            "step_shape": list(self.step_shape),
            "classes": self.classes,
            "sizes": list(self.sizes),
            "recurrent": self.recurrent,
            "dropout": self.dropout.p,
        }

    def forward(self, x: Tensor) -> Tensor:
        """Return the raw class scores of sequences.

        Parameters
        ----------
        x : Tensor
            Shape (n, steps, *step_shape), floating point.

        Returns
        -------
        Tensor
            Shape (n, classes), before softmax.

        Raises
        ------
        TypeError, ValueError
            ``x`` is no tensor or has another shape.
        """
        self._check_input(x)
        joined = self.encode(x[:, 0].flatten(1))
        if self.steps > 1:
            joined = torch.cat([joined, x.new_zeros(x.shape[0], self.recurrent)], 1)
        state = F.relu(self.cell(joined))
        for t in range(1, self.steps):
            r = F.relu(self.feedback(state))
            state = F.relu(self.cell(torch.cat([self.encode(x[:, t].flatten(1)), r], 1)))
        return self.read_out(state)

    def encode(self, x: Tensor) -> Tensor:
        """Map the flat input of one step to what is joined to the recurrent input."""
        raise NotImplementedError

    def read_out(self, state: Tensor) -> Tensor:
        """Map the last ``a(4)`` to class scores."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """Return the sizes, for ``repr``."""
        return (
            f"steps={self.steps}, step_shape={self.step_shape}, classes={self.classes}, "
            f"sizes={self.sizes}, recurrent={self.recurrent}"
        )

    def _check_input(self, x: Tensor) -> None:
        wanted = f"(n, {', '.join(map(str, (self.steps, *self.step_shape)))})"
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch tensor of shape {wanted}, not {type(x).__name__}")
        if tuple(x.shape[1:]) != (self.steps, *self.step_shape):
            raise ValueError(f"x must have shape {wanted}, not {tuple(x.shape)}")

    def _checked_sizes(self, sizes: Iterable[int]) -> tuple[int, ...]:
        checked = _positive_tuple("sizes", sizes)
        if len(checked) != len(self.size_names):
            raise ValueError(
                f"sizes of {type(self).__name__} must be {len(self.size_names)} widths "
                f"({', '.join(self.size_names)}), not {checked}"
            )
        return checked


def _positive(name: str, value: SupportsIndex) -> int:
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


def _positive_tuple(name: str, values: Iterable[int]) -> tuple[int, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of whole numbers, not {values!r}")
    checked = tuple(_positive(f"{name}[{i}]", value) for i, value in enumerate(values))
    if not checked:
        raise ValueError(f"{name} must name at least one whole number")
    return checked


def _probability(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number in [0, 1), not {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), not {value}")
    return float(value)
