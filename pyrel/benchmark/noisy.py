# SPDX-License-Identifier: Apache-2.0
"""Right answers for convolutions and gates, in float64, and how far float32 may be off them.

There are no bounds to propagate here as in `reference.py`: the explanation by hand runs again with
roundings of float32 drawn at random and put into every product (stochastic arithmetic). What
that moves an answer by, times `_SAFETY`, is what an answer may be off beyond 1e-5.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrel.benchmark.jobs import Job
from pyrel.benchmark.peers.by_hand import ByHand
from pyrel.benchmark.peers.runners import torch_by_hand
from pyrel.benchmark.peers.with_torch import TorchLibrary
from pyrel.benchmark.reference import RELATIVE, Reference

_ROUNDING = 4 * float(np.finfo(np.float32).eps)  # of a product, in parts of the sum of |terms|
_RUNS = 2
_SAFETY = 8.0  # a norm of many errors rarely differs so much from draw to draw
_DECIDED = 1e-3  # samples that roundings move by more are not measured with
_SLAB = 64  # samples at a time, for the memory's sake


class NoisyLibrary(TorchLibrary):
    """float64, where every product is off as float32's may be."""

    def __init__(self, seed: int) -> None:
        super().__init__(torch.float64)
        self._random = torch.Generator().manual_seed(seed)

    def _off(self, value: Tensor, size: Tensor) -> Tensor:
        draw = torch.randn(size.shape, generator=self._random, dtype=torch.float64)
        return value + _ROUNDING * size * draw

    def affine(self, a: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """Return a @ weight + bias."""
        size = super().affine(a.abs(), weight.abs(), bias.abs())
        return self._off(super().affine(a, weight, bias), size)

    def add_product(self, base: Tensor, a: Tensor, weight: Tensor) -> Tensor:
        """Return base + a @ weight."""
        return self.affine(a, weight, base)

    def product(self, a: Tensor, weight: Tensor) -> Tensor:
        """Return a @ weight."""
        return self._off(super().product(a, weight), super().product(a.abs(), weight.abs()))

    def convolve(self, a: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        """Return the two-dimensional convolution of images."""
        known = None if bias is None else bias.abs()
        size = super().convolve(a.abs(), weight.abs(), known, padding)
        return self._off(super().convolve(a, weight, bias, padding), size)

    def convolve_back(self, a: Tensor, weight: Tensor, padding: int) -> Tensor:
        """Return the transpose of `convolve`, without bias."""
        size = super().convolve_back(a.abs(), weight.abs(), padding)
        return self._off(super().convolve_back(a, weight, padding), size)


def explain(job: Job, x: npt.NDArray[np.floating]) -> Reference:
    """Explain samples (n, steps, features) of a ConvDeep cell, an LSTM or a GRU in float64."""
    exact = torch_by_hand(job, TorchLibrary(torch.float64))
    noisy = [torch_by_hand(job, NoisyLibrary(seed)) for seed in range(_RUNS)]
    assert not isinstance(exact, ByHand)
    relevance, moved, same = [], [], []
    zero = units = 0
    with torch.inference_mode():
        for slab in torch.split(torch.from_numpy(x.astype(np.float64)), _SLAB):
            wanted = exact(slab).flatten(1)
            *values, scores = exact.activations(slab)
            zero += sum(int((v == 0).sum()) for v in values)
            units += sum(v.numel() for v in values)
            off = torch.stack([(other(slab).flatten(1) - wanted).norm(dim=1) for other in noisy])
            lead = scores.topk(2, 1).values if scores.shape[1] > 1 else scores.repeat(1, 2)
            relevance.append(wanted.reshape(slab.shape).numpy())
            moved.append(_SAFETY * off.amax(0).numpy())
            same.append(((lead[:, 0] - lead[:, 1]) > _DECIDED * scores.abs().amax(1)).numpy())
    found = np.concatenate(relevance)
    norm = np.sqrt((found.reshape(len(x), -1) ** 2).sum(axis=1))
    doubt = np.concatenate(moved)
    decided = np.concatenate(same) & (norm > 0) & (doubt <= _DECIDED * norm)
    zeros = {"input": float((x == 0).mean()), "activations": zero / units}
    return Reference(found, RELATIVE * norm + doubt, decided, zeros)
