# SPDX-License-Identifier: Apache-2.0
"""Inputs that a model's class score is largest for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


@dataclass(frozen=True, eq=False)
class Maximised:
    """What `maximise_activation` found.

    Attributes
    ----------
    x : Tensor, shape (count, ...)
        The inputs, in [low, high].
    scores : Tensor, shape (steps + 1, count)
        Class scores without the prior, at the start and after each step.
    """

    x: Tensor
    scores: Tensor


def maximise_activation(
    model: nn.Module,
    shape: Sequence[int],
    target: int,
    *,
    low: float,
    high: float,
    count: int = 1,
    prior: float = 0.01,
    steps: int = 200,
    rate: float = 0.1,
    seed: int = 0,
) -> Maximised:
    """Ascend the gradient of ``score(x) − prior · ‖x‖²`` from even noise, within [low, high].

    Simonyan et al. 2014. The first step is of length ``rate`` · √(number of elements)
    before it is held to the range, whatever the scale of the score; the length falls evenly to 0.
    Noise fills the whole range: around an input of zeros the units of a network of ReLUs may all
    be 0, and its gradient with them.

    Parameters
    ----------
    model : nn.Module
        Maps (n, ...) to scores (n, classes) or (n,). Runs in eval mode, and is left as it was.
    shape : sequence of int
        Of one input.
    target : int
        The class.
    low, high : float
        ``low <= 0 <= high``.
    count : int
        Number of inputs, from different noise.
    prior : float
        λ of the L2 prior, at least 0.
    steps, rate, seed
        Number and size of the steps; seed of the noise.

    Raises
    ------
    ValueError
        A setting is out of range, there is no such class, or the score has no gradient at a start.
    """
    if not (-math.inf < low <= 0 <= high < math.inf and low < high):
        raise ValueError(f"low, high: wanted finite low <= 0 <= high, given {low} and {high}")
    if prior < 0 or rate <= 0 or steps < 1 or count < 1:
        raise ValueError(
            f"prior, rate, steps, count: wanted at least 0, above 0, and from 1 on, given {prior}, "
            f"{rate}, {steps} and {count}"
        )
    was_training = model.training
    model.eval()
    try:
        lengths = rate * np.arange(steps, 0, -1) / steps
        start = _start(model, shape, count, (low, high), seed)
        return _ascend(model, start, target, (low, high), prior, lengths)
    finally:
        model.train(was_training)


def _start(
    model: nn.Module, shape: Sequence[int], count: int, ends: tuple[float, float], seed: int
) -> Tensor:
    """Return even noise over the range, of the model's type and place."""
    generator = torch.Generator().manual_seed(seed)
    noise = ends[0] + (ends[1] - ends[0]) * torch.rand(count, *shape, generator=generator)
    parameter = next(model.parameters(), noise)
    return noise.to(parameter.device, parameter.dtype).clamp(*ends)


def _ascend(
    model: nn.Module,
    x: Tensor,
    target: int,
    ends: tuple[float, float],
    prior: float,
    lengths: NDArray[np.float64],
) -> Maximised:
    scores: list[Tensor] = []
    for length in lengths * math.sqrt(x[0].numel()):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            score = _score(model, x, target)
            (gradient,) = torch.autograd.grad(score.sum(), x)
        flat = int((gradient.flatten(1) == 0).all(1).sum())
        if not scores and flat:
            raise ValueError(
                f"the score of class {target} has no gradient at {flat} of {len(x)} starts: "
                "give another seed"
            )
        scores.append(score.detach())
        with torch.no_grad():
            uphill = gradient - 2 * prior * x
            # What is at an end and would go beyond it takes no part of the step's length.
            outward = torch.where(uphill > 0, x >= ends[1], x <= ends[0])
            uphill = torch.where(outward, 0.0, uphill)
            size = uphill.flatten(1).norm(dim=1).reshape(-1, *[1] * (x.dim() - 1))
            x = (x + float(length) * uphill / size.clamp(min=1e-12)).clamp(*ends)
    with torch.no_grad():
        scores.append(_score(model, x, target))
    return Maximised(x, torch.stack(scores))


def _score(model: nn.Module, x: Tensor, target: int) -> Tensor:
    output = model(x)
    columns: Tensor = output.reshape(len(x), -1)
    if not 0 <= target < columns.shape[1]:
        raise ValueError(f"target: wanted 0 to {columns.shape[1] - 1}, given {target}")
    return columns[:, target]
