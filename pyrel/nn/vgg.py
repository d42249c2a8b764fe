# SPDX-License-Identifier: Apache-2.0
"""A small network in the manner of VGG, for which patterns are fitted and judged."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrel.nn.convolution import pooled
from pyrel.nn.feed_forward import FeedForward
from pyrel.nn.layers import SoftplusConv2d, SoftplusLinear

_KERNEL = 3


class VGG(FeedForward):
    """Two blocks of two 3 x 3 convolutions, each block pooled over 2 x 2, and two dense layers.

    The manner of Simonyan and Zisserman, *Very deep convolutional networks for large-scale image
    recognition* (2014), in the form of `FeedForward` at the size of 28 x 28 pixels: 218,490
    parameters. Dropout falls on the dense layer. ``sizes`` is ``(maps of block 1, maps of block 2,
    dense)``. Parameters and errors are those of `FeedForward`.

    Examples
    --------
    >>> net = pyrel.nn.VGG().eval()
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    default_sizes: ClassVar[tuple[int, ...]] = (16, 32, 128)
    size_names: ClassVar[tuple[str, ...]] = ("maps of block 1", "maps of block 2", "dense")
    majority_sizes: ClassVar[tuple[int, ...]] = default_sizes

    def make_layers(self, features: int) -> None:
        """Make four convolutions and two dense layers."""
        first, second, dense = self.sizes
        self.conv_1 = SoftplusConv2d(1, first, _KERNEL)
        self.conv_2 = SoftplusConv2d(first, first, _KERNEL)
        self.conv_3 = SoftplusConv2d(first, second, _KERNEL)
        self.conv_4 = SoftplusConv2d(second, second, _KERNEL)
        self.dense = SoftplusLinear(features, dense)
        self.output = SoftplusLinear(dense, self.classes)

    def last_state(self, x: Tensor) -> Tensor:
        """Return the values of the dense layer: (n, 1, height, width) to (n, dense)."""
        a = F.relu(self.conv_2(F.relu(self.conv_1(x))))
        a = F.relu(self.conv_4(F.relu(self.conv_3(pooled(a, self.pooling)))))
        return F.relu(self.dense(pooled(a, self.pooling).flatten(1)))
