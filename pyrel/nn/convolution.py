# SPDX-License-Identifier: Apache-2.0
"""Convolutions and pooling over the image of one step."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyrel.nn.layers import SoftplusConv2d

Pooling = Literal["max", "sum"]

_KERNELS = (5, 3)
_WINDOW = 2


class ConvEncoder(nn.Module):
    """Two convolutions of ReLU units, 5 x 5 and 3 x 3, each pooled over 2 x 2 (thesis, 4.2.2).

    Convolutions keep height and width. Windows of the pooling do not overlap; where a side is odd,
    the last window has one row or column, so that sizes are halved and rounded up.

    Parameters
    ----------
    step_shape : (int, int)
        Height and width of the image.
    maps : (int, int)
        Numbers of maps of the two convolutions.
    pooling : {"max", "sum"}
        What a pool makes of its window.
    literal : bool
        Each convolution also reads the maps that it made at the step before (thesis, 4.6.3).

    Raises
    ------
    ValueError
        ``step_shape`` is no height and width, or ``pooling`` another word.
    """

    def __init__(
        self,
        step_shape: tuple[int, ...],
        maps: tuple[int, int],
        pooling: Pooling,
        *,
        literal: bool = False,
    ) -> None:
        super().__init__()
        self.pooling = checked_pooling(pooling)
        self.literal = literal
        self.features = encoded_features(step_shape, maps)
        own = maps if literal else (0, 0)
        self.conv_1 = SoftplusConv2d(1 + own[0], maps[0], _KERNELS[0])
        self.conv_2 = SoftplusConv2d(maps[0] + own[1], maps[1], _KERNELS[1])

    def forward(self, image: Tensor) -> Tensor:
        """Return the pooled maps of an image as a row: (n, height, width) to (n, features)."""
        return self.step(image, None)[0]

    def step(self, image: Tensor, before: list[Tensor] | None) -> tuple[Tensor, list[Tensor]]:
        """Return the pooled maps of one step as a row, and the maps of both convolutions.

        Parameters
        ----------
        image : Tensor
            Shape (n, height, width).
        before : list of Tensor, optional
            The maps of the step before; read where ``literal`` is set, zeros if None.
        """
        a, maps = image.unsqueeze(1), []
        for i, conv in enumerate((self.conv_1, self.conv_2)):
            if self.literal:
                empty = (a.shape[0], conv.out_maps, *a.shape[2:])
                a = torch.cat([a, a.new_zeros(empty) if before is None else before[i]], 1)
            maps.append(F.relu(conv(a)))
            a = pooled(maps[-1], self.pooling)
        return a.flatten(1), maps

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return f"pooling={self.pooling!r}, literal={self.literal}"


def pooled(maps: Tensor, pooling: Pooling) -> Tensor:
    """Pool maps over windows of 2 x 2, smaller ones at odd edges: max, or sum."""
    if pooling == "max":
        return F.max_pool2d(maps, _WINDOW, ceil_mode=True)
    return F.avg_pool2d(maps, _WINDOW, ceil_mode=True, divisor_override=1)


def checked_pooling(pooling: Pooling) -> Pooling:
    """Return the kind of pooling, or raise ValueError where there is no such kind."""
    if pooling not in get_args(Pooling):
        raise ValueError(f"pooling must be 'max' or 'sum', not {pooling!r}")
    return pooling


def encoded_features(step_shape: tuple[int, ...], maps: tuple[int, int]) -> int:
    """Return how many features a :class:`ConvEncoder` makes of an image.

    Raises
    ------
    ValueError
        ``step_shape`` is no height and width.
    """
    if len(step_shape) != 2:
        raise ValueError(f"step_shape must be a height and a width to convolve, not {step_shape}")
    height, width = (-(-side // _WINDOW**2) for side in step_shape)
    return height * width * maps[1]
