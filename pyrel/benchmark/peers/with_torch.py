# SPDX-License-Identifier: Apache-2.0
"""`ByHand` with torch."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from pyrel.benchmark.peers.by_hand import TINY


class TorchLibrary:
    """The operations of `ArrayLibrary` in torch, in one precision; and convolutions."""

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        self._dtype = dtype

    def array(self, values: npt.NDArray[Any]) -> Tensor:
        """Return a tensor of the values in the precision of the library."""
        return torch.tensor(values, dtype=self._dtype)

    def affine(self, a: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return a @ weight + bias."""
        return torch.addmm(bias, a, weight)

    def add_product(self, base: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Return base + a @ weight."""
        return torch.addmm(base, a, weight)

    def product(self, a: Tensor, weight: Tensor) -> Tensor:
        """Return a @ weight."""
        return torch.mm(a, weight)

    def convolve(self, a: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        """Return the two-dimensional convolution of images."""
        return torch.conv2d(a, weight, bias, padding=padding)

    def convolve_back(self, a: Tensor, weight: Tensor, padding: int) -> Tensor:
        """Return the transpose of `convolve`, without bias."""
        return torch.conv_transpose2d(a, weight, padding=padding)

    def relu(self, over: Tensor) -> Tensor:
        """Return max(0, over), in place."""
        return over.relu_()

    def at_least_tiny(self, over: Tensor) -> Tensor:
        """Return max(TINY, over), in place."""
        return over.clamp_(min=TINY)

    def times(self, a: Tensor, over: Tensor) -> Tensor:
        """Return a · over, in place."""
        return over.mul_(a)

    def where_active(self, a: Tensor, over: Tensor, guided: bool) -> Tensor:
        """Return `over` where a > 0 (guided: and `over` > 0), else 0, in place."""
        over.mul_(a > 0)
        return over.relu_() if guided else over

    def add_after_first(self, over: Tensor, rest: Tensor) -> Tensor:
        """Add `rest` to the steps from 1 on, in place."""
        over[:, 1:].add_(rest)
        return over

    def stack(self, steps: list[Tensor]) -> Tensor:
        """Stack tensors (n, width) to (n, steps, width)."""
        return torch.stack(steps, 1)

    def start(self, output: Tensor, propagates: bool) -> Tensor:
        """Return max(0, output), or else 1, at the largest output of each row, 0 beside it."""
        score, target = output.max(1, keepdim=True)
        value = score.clamp_(min=0) if propagates else torch.ones_like(score)
        return torch.zeros_like(output).scatter_(1, target, value)
