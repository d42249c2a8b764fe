# SPDX-License-Identifier: Apache-2.0
"""A small network in the manner of VGG, for which patterns are fitted and judged."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrel.nn.cell import Cell
from pyrel.nn.convolution import Pooling, checked_pooling, encoded_features, pooled
from pyrel.nn.layers import SoftplusConv2d, SoftplusLinear

_KERNEL = 3


class VGG(Cell):
    """Two blocks of two 3 x 3 convolutions, each block pooled over 2 x 2, and two dense layers.

    The manner of Simonyan and Zisserman, *Very deep convolutional networks for large-scale image
    recognition* (2014), at the size of 28 x 28 pixels: 218,490 parameters. All layers have the
    form of the cells (`SoftplusLinear`), whose biases are never positive, units are ReLUs, and
    dropout falls on the dense layer. ``sizes`` is ``(maps of block 1, maps of block 2, dense)``.

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
    >>> net = pyrel.nn.VGG().eval()
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    default_sizes: ClassVar[tuple[int, ...]] = (16, 32, 128)
    size_names: ClassVar[tuple[str, ...]] = ("maps of block 1", "maps of block 2", "dense")
    majority_sizes: ClassVar[tuple[int, ...]] = (16, 32, 128)

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
            raise ValueError(f"steps of VGG must be 1, the whole image, not {self.steps}")
        self.pooling = checked_pooling(pooling)
        first, second, dense = self.sizes
        self.conv_1 = SoftplusConv2d(1, first, _KERNEL)
        self.conv_2 = SoftplusConv2d(first, first, _KERNEL)
        self.conv_3 = SoftplusConv2d(first, second, _KERNEL)
        self.conv_4 = SoftplusConv2d(second, second, _KERNEL)
        self.dense = SoftplusLinear(encoded_features(self.step_shape, (first, second)), dense)
        self.output = SoftplusLinear(dense, self.classes)

    def config(self) -> dict[str, Any]:
        """Return what :func:`pyrel.nn.build` needs to make this net again; JSON can hold it."""
        return super().config() | {"pooling": self.pooling}

    def last_state(self, x: Tensor) -> Tensor:
        """Return the values of the dense layer: (n, 1, height, width) to (n, dense)."""
        a = F.relu(self.conv_2(F.relu(self.conv_1(x))))
        a = F.relu(self.conv_4(F.relu(self.conv_3(pooled(a, self.pooling)))))
        return F.relu(self.dense(pooled(a, self.pooling).flatten(1)))
