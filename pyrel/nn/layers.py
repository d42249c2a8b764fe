# SPDX-License-Identifier: Apache-2.0
"""The layers that the cells are made of."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WEIGHT_STD = 0.1
WEIGHT_CUT = 2 * WEIGHT_STD
# softplus of this is 0.01, the bias that every layer starts from.
INITIAL_BIAS = math.log(math.expm1(0.01))


def draw_weights(weight: Tensor) -> None:
    """Draw weights from a normal distribution with sigma 0.1 cut at two sigma, in place."""
    nn.init.trunc_normal_(weight, 0.0, WEIGHT_STD, -WEIGHT_CUT, WEIGHT_CUT)


class SoftplusLinear(nn.Module):
    """Linear layer with a bias that is never positive: ``h = W a - softplus(b)``.

    Deep Taylor decomposition assumes biases <= 0; the softplus keeps them so without stopping their
    gradient (thesis, section 4.3). Weights start from a normal distribution with sigma 0.1 cut at
    two sigma, biases at ``b = ln(exp(0.01) - 1)``, so that ``softplus(b) = 0.01``.

    Parameters
    ----------
    in_features, out_features : int
        Widths of ``a`` and ``h``.
    """

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's random generator; set the biases back."""
        draw_weights(self.weight)
        nn.init.constant_(self.bias, INITIAL_BIAS)

    def forward(self, a: Tensor) -> Tensor:
        """Return ``W a - softplus(b)``: (n, in_features) to (n, out_features)."""
        return F.linear(a, self.weight, -F.softplus(self.bias))

    def extra_repr(self) -> str:
        """Return the widths, for ``repr``."""
        return f"{self.in_features}, {self.out_features}"


class SoftplusConv2d(nn.Module):
    """Convolution that keeps height and width, in the form of :class:`SoftplusLinear`.

    Parameters
    ----------
    in_maps, out_maps : int
        Numbers of maps, that is of channels.
    kernel : int
        Height and width of the kernel, odd; the map is padded by ``kernel // 2`` zeros around.
    """

    def __init__(self, in_maps: int, out_maps: int, kernel: int) -> None:
        super().__init__()
        self.in_maps = in_maps
        self.out_maps = out_maps
        self.kernel = kernel
        self.weight = nn.Parameter(torch.empty(out_maps, in_maps, kernel, kernel))
        self.bias = nn.Parameter(torch.empty(out_maps))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's random generator; set the biases back."""
        draw_weights(self.weight)
        nn.init.constant_(self.bias, INITIAL_BIAS)

    def forward(self, a: Tensor) -> Tensor:
        """Return ``W * a - softplus(b)``: (n, in_maps, h, w) to (n, out_maps, h, w)."""
        return F.conv2d(a, self.weight, -F.softplus(self.bias), padding=self.kernel // 2)

    def extra_repr(self) -> str:
        """Return numbers of maps and the kernel, for ``repr``."""
        return f"{self.in_maps}, {self.out_maps}, kernel={self.kernel}"


class StepDropout(nn.Dropout):
    """Dropout in a layer that is used at every step of a sequence.

    Parameters
    ----------
    p : float
        Probability that a unit is dropped in training.
    stationary : bool
        Draw one mask for each sequence, shared by all its steps (Gal and Ghahramani 2016; thesis,
        section 4.6.1), instead of a new one at every step.
    """

    def __init__(self, p: float, stationary: bool) -> None:
        super().__init__(p)
        self.stationary = stationary

    def over_steps(self) -> Callable[[Tensor], Tensor]:
        """Return the function that drops units of one layer at the steps of one batch."""
        if not (self.stationary and self.training):
            return self
        mask: Tensor | None = None

        def drop(a: Tensor) -> Tensor:
            nonlocal mask
            if mask is None:
                mask = self(torch.ones_like(a))
            return a * mask

        return drop

    def extra_repr(self) -> str:
        """Return probability and kind, for ``repr``."""
        return f"p={self.p}, stationary={self.stationary}"
