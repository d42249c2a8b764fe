# SPDX-License-Identifier: Apache-2.0
"""LeNet: the feed-forward network that the thesis compares dropout rates on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrel.nn.cell import Cell
from pyrel.nn.convolution import Pooling, checked_pooling, encoded_features, pooled
from pyrel.nn.layers import SoftplusConv2d, SoftplusLinear


class LeNet(Cell):
    """LeNet-5 of ReLUs: two convolutions of 5 x 5, each pooled over 2 x 2, and three layers.

    LeCun et al., *Gradient-based learning applied to document recognition* (1998); thesis, figure
    4.15, which does not say how it differs from the original. Here all layers have the form of the
    cells (`SoftplusLinear`), units are ReLUs, convolutions keep height and width, and dropout falls
    on the two dense layers. ``sizes`` is ``(maps of C1, maps of C3, C5, F6)``; 28 x 28 pixels and
    the sizes of 1998 make 107,786 parameters.

    It has no recurrence: a sequence is one step, the whole image. The other parameters are those of
    `Cell`; ``stationary`` has no effect.

    Parameters
    ----------
    steps : int
        1.
    pooling : {"max", "sum"}
        What a pool makes of its window.

    Raises
    ------
    TypeError, ValueError
        As `Cell`; or ``steps`` is above 1, or ``step_shape`` no height and width.

    Examples
    --------
    >>> net = pyrel.nn.LeNet().eval()
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    default_sizes: ClassVar[tuple[int, ...]] = (6, 16, 120, 84)
    size_names: ClassVar[tuple[str, ...]] = ("maps of C1", "maps of C3", "C5", "F6")
    majority_sizes: ClassVar[tuple[int, ...]] = (6, 16, 120, 84)

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
            raise ValueError(f"steps of LeNet must be 1, the whole image, not {self.steps}")
        self.pooling = checked_pooling(pooling)
        first, second, third, fourth = self.sizes
        self.conv_1 = SoftplusConv2d(1, first, 5)
        self.conv_2 = SoftplusConv2d(first, second, 5)
        self.dense_1 = SoftplusLinear(encoded_features(self.step_shape, (first, second)), third)
        self.dense_2 = SoftplusLinear(third, fourth)
        self.output = SoftplusLinear(fourth, self.classes)

    def config(self) -> dict[str, Any]:
        """Return what :func:`pyrel.nn.build` needs to make this net again; JSON can hold it."""
        return super().config() | {"pooling": self.pooling}

    def last_state(self, x: Tensor) -> Tensor:
        """Return the values of F6: (n, 1, height, width) to (n, F6)."""
        a = pooled(F.relu(self.conv_1(x)), self.pooling)
        a = pooled(F.relu(self.conv_2(a)), self.pooling)
        a = self.dropout(F.relu(self.dense_1(a.flatten(1))))
        return F.relu(self.dense_2(a))
