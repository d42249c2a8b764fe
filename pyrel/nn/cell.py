# SPDX-License-Identifier: Apache-2.0
"""Base class of the cells: checked sizes, the way from input to scores, the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from torch import Tensor, nn

from pyrel.nn._checks import flag, positive, positive_tuple, probability
from pyrel.nn.layers import SoftplusLinear, StepDropout


class Cell(nn.Module):
    """A recurrent classifier over a sequence of ``steps`` inputs.

    A subclass says how many widths it takes and how the inputs make the last state; the class
    scores are read from that state by its layer ``output``.

    Parameters
    ----------
    steps : int
        Length T of a sequence, at least 1. At T = 1 the recurrent parameters are absent.
    step_shape : sequence of int
        Shape of the input of one step.
    classes : int
        Number of classes.
    sizes : sequence of int, optional
        Widths of the hidden layers in the order of the data: before the recurrence, the cell,
        after it. By default those of the thesis.
    dropout : float
        Probability that a unit is dropped in training, in [0, 1).
    stationary : bool
        Where dropout falls on a layer at every step, draw one mask for each sequence and share it
        between the steps, instead of a new one at every step: Gal and Ghahramani, *A Theoretically
        Grounded Application of Dropout in Recurrent Neural Networks* (2016); thesis, section 4.6.1.

    Raises
    ------
    TypeError, ValueError
        An argument is not of that kind or out of that range; the message names it.
    """

    default_sizes: ClassVar[tuple[int, ...]]
    size_names: ClassVar[tuple[str, ...]]
    majority_sizes: ClassVar[tuple[int, ...]]

    output: SoftplusLinear

    def __init__(
        self,
        steps: int,
        step_shape: Iterable[int] = (28, 7),
        classes: int = 10,
        sizes: Iterable[int] | None = None,
        dropout: float = 0.5,
        stationary: bool = False,
    ) -> None:
        super().__init__()
        self.steps = positive("steps", steps)
        self.step_shape = positive_tuple("step_shape", step_shape)
        self.classes = positive("classes", classes)
        self.sizes = self._checked_sizes(self.default_sizes if sizes is None else sizes)
        self.dropout = StepDropout(probability("dropout", dropout), flag("stationary", stationary))

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
        count = positive("steps", steps)
        if 84 % count:
            raise ValueError(f"steps must divide the 84 columns of three digits, not {count}")
        shape = {"step_shape": (28, 84 // count)}
        return cls(count, **(shape | cls._majority_options() | options))

    @classmethod
    def _majority_options(cls) -> dict[str, Any]:
        return {"sizes": cls.majority_sizes}

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
            "dropout": self.dropout.p,
            "stationary": self.dropout.stationary,
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
        return self.read_out(self.last_state(x))

    def last_state(self, x: Tensor) -> Tensor:
        """Map sequences to the state of the cell after the last step."""
        raise NotImplementedError

    def read_out(self, state: Tensor) -> Tensor:
        """Map the last state to class scores; here by the output layer, after dropout."""
        scores: Tensor = self.output(self.dropout(state))
        return scores

    def extra_repr(self) -> str:
        """Return the sizes, for ``repr``."""
        return (
            f"steps={self.steps}, step_shape={self.step_shape}, classes={self.classes}, "
            f"sizes={self.sizes}"
        )

    def _check_input(self, x: Tensor) -> None:
        wanted = f"(n, {', '.join(map(str, (self.steps, *self.step_shape)))})"
        if not isinstance(x, Tensor):
            raise TypeError(f"x must be a torch tensor of shape {wanted}, not {type(x).__name__}")
        if tuple(x.shape[1:]) != (self.steps, *self.step_shape):
            raise ValueError(f"x must have shape {wanted}, not {tuple(x.shape)}")

    def _checked_sizes(self, sizes: Iterable[int]) -> tuple[int, ...]:
        checked = positive_tuple("sizes", sizes)
        if len(checked) != len(self.size_names):
            raise ValueError(
                f"sizes of {type(self).__name__} must be {len(self.size_names)} widths "
                f"({', '.join(self.size_names)}), not {checked}"
            )
        return checked
