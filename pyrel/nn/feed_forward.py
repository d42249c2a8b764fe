# SPDX-License-Identifier: Apache-2.0
"""What the nets without recurrence share: one step, the whole image, through convolutions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pyrel.nn.cell import Cell
from pyrel.nn.convolution import Pooling, checked_pooling, encoded_features


class FeedForward(Cell):
    """A net without recurrence: a sequence is one step, the whole image.

    All layers have the form of the cells (`SoftplusLinear`), units are ReLUs, convolutions keep
    height and width. The other parameters are those of `Cell`; ``stationary`` has no effect.

    Parameters
    ----------
    steps : int
        1.
    pooling : {"max", "sum"}
        What a pool makes of its window of 2 x 2.

    Raises
    ------
    TypeError, ValueError
        As `Cell`; or ``steps`` is above 1, or ``step_shape`` no height and width.
    """

    def __init__(
        self,
        steps: int = 1,
        step_shape: Iterable[int] = (28, 28),
        classes: int = 10,
        sizes: Iterable[int] | None = None,
        dropout: float = 0.5,
        stationary: bool = False,
        pooling: Pooling = "max",
    ) -> None:
        super().__init__(steps, step_shape, classes, sizes, dropout, stationary)
        if self.steps != 1:
            name = type(self).__name__
            raise ValueError(f"steps of {name} must be 1, the whole image, not {self.steps}")
        self.pooling = checked_pooling(pooling)
        self.make_layers(encoded_features(self.step_shape, (self.sizes[0], self.sizes[1])))

    def make_layers(self, features: int) -> None:
        """Make the layers; ``features`` is the number of values after the second pool."""
        raise NotImplementedError

    def config(self) -> dict[str, Any]:
        """Return what :func:`pyrel.nn.build` needs to make this net again; JSON can hold it."""
        return super().config() | {"pooling": self.pooling}
