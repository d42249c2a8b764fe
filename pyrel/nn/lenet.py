# SPDX-License-Identifier: Apache-2.0
"""LeNet: the feed-forward network that the thesis compares dropout rates on."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrel.nn.convolution import pooled
from pyrel.nn.feed_forward import FeedForward
from pyrel.nn.layers import SoftplusConv2d, SoftplusLinear


class LeNet(FeedForward):
    """LeNet-5 of ReLUs: two convolutions of 5 x 5, each pooled over 2 x 2, and three layers.

    LeCun et al., *Gradient-based learning applied to document recognition* (1998); thesis, figure
    4.15, which does not say how it differs from the original. Here it has the form of `FeedForward`
    and dropout falls on the two dense layers. ``sizes`` is ``(maps of C1, maps of C3, C5, F6)``;
    28 x 28 pixels and the sizes of 1998 make 107,786 parameters. Parameters and errors are those of
    `FeedForward`.

    Examples
    --------
    >>> net = pyrel.nn.LeNet().eval()
    >>> net(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 10])
    """

    default_sizes: ClassVar[tuple[int, ...]] = (6, 16, 120, 84)
    size_names: ClassVar[tuple[str, ...]] = ("maps of C1", "maps of C3", "C5", "F6")
    majority_sizes: ClassVar[tuple[int, ...]] = default_sizes

    def make_layers(self, features: int) -> None:
        """Make two convolutions and three dense layers."""
        first, second, third, fourth = self.sizes
        self.conv_1 = SoftplusConv2d(1, first, 5)
        self.conv_2 = SoftplusConv2d(first, second, 5)
        self.dense_1 = SoftplusLinear(features, third)
        self.dense_2 = SoftplusLinear(third, fourth)
        self.output = SoftplusLinear(fourth, self.classes)

    def last_state(self, x: Tensor) -> Tensor:
        """Return the values of F6: (n, 1, height, width) to (n, F6)."""
        a = pooled(F.relu(self.conv_1(x)), self.pooling)
        a = pooled(F.relu(self.conv_2(a)), self.pooling)
        a = self.dropout(F.relu(self.dense_1(a.flatten(1))))
        return F.relu(self.dense_2(a))
