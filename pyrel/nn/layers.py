# SPDX-License-Identifier: Apache-2.0
"""The one kind of layer that the cells are made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WEIGHT_STD = 0.1
WEIGHT_CUT = 2 * WEIGHT_STD
# softplus of this is 0.01, the bias that every layer starts from.
INITIAL_BIAS = math.log(math.expm1(0.01))


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
        nn.init.trunc_normal_(self.weight, 0.0, WEIGHT_STD, -WEIGHT_CUT, WEIGHT_CUT)
        nn.init.constant_(self.bias, INITIAL_BIAS)

    def forward(self, a: Tensor) -> Tensor:
        """Return ``W a - softplus(b)``: (n, in_features) to (n, out_features)."""
        return F.linear(a, self.weight, -F.softplus(self.bias))

    def extra_repr(self) -> str:
        """Return the widths, for ``repr``."""
        return f"{self.in_features}, {self.out_features}"
