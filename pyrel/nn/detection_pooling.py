# SPDX-License-Identifier: Apache-2.0
"""The detection-pooling network of the deep Taylor paper."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

WEIGHT_STD = 0.05


class DetectionPooling(nn.Module):
    """Layers of detection units, each pooled by groups (Montavon et al. 2017, equation 7).

    A layer computes ``x_j = max(0, sum_i x_i w_ij + b_j)`` and pools groups of neighbouring units
    by their L^q norm, ``x_k = (sum_j x_j^q)^(1/q)``: the sum for q = 1, the largest for q = inf
    (section 5.2). Weights start from a normal distribution with sigma 0.05, biases from 0; `clamp`
    keeps them at or below 0, so that the origin is a root.

    Parameters
    ----------
    inputs : int
        Elements of a sample; samples of any shape are read as rows of them.
    layers : iterable of (int, int)
        Detection units and pools of each layer; the first a multiple of the second. By default
        those of section 6.1: 400 units in 100 pools, 400 units in one.
    pooling : {"sum", "max"} or float
        Or a finite q, at least 1. "sum", "max" and q = 2 can be captured and compiled; other q are
        explained by `pyrel.experiment.training_free`.

    Raises
    ------
    TypeError, ValueError
        Sizes are not whole numbers from 1 on, or units no multiple of pools; ``pooling`` is
        another word, or below 1.

    Examples
    --------
    >>> network = pyrel.nn.DetectionPooling(28 * 56)
    >>> network(torch.rand(5, 28, 56)).shape
    torch.Size([5, 1])
    """

    def __init__(
        self,
        inputs: int = 28 * 56,
        layers: Iterable[tuple[int, int]] = ((400, 100), (400, 1)),
        pooling: str | float = "sum",
    ) -> None:
        super().__init__()
        self.sizes = tuple((_whole(units), _whole(pools)) for units, pools in layers)
        if not self.sizes:
            raise ValueError("layers: wanted one at least, given none")
        for units, pools in self.sizes:
            if units % pools:
                raise ValueError(f"layers: {units} units do not make {pools} pools of one size")
        self.power = _power(pooling)
        before = [_whole(inputs), *(pools for _, pools in self.sizes)]
        self.detection = nn.ModuleList(
            nn.Linear(width, units) for width, (units, _) in zip(before, self.sizes, strict=False)
        )
        self.reset_parameters()

    @property
    def linear(self) -> list[nn.Linear]:
        """What the detection units of each layer apply max(0, ·) to."""
        return [layer for layer in self.detection if isinstance(layer, nn.Linear)]

    def reset_parameters(self) -> None:
        """Draw the weights anew from torch's random generator; set the biases to 0."""
        for layer in self.linear:
            nn.init.normal_(layer.weight, 0.0, WEIGHT_STD)
            nn.init.zeros_(layer.bias)

    def clamp(self) -> None:
        """Set biases that are above 0 to 0, as after each step of training."""
        with torch.no_grad():
            for layer in self.linear:
                layer.bias.clamp_(max=0.0)

    def forward(self, x: Tensor) -> Tensor:
        """Return the last layer's pools: (n, ...) to (n, pools)."""
        return self.activities(x)[-1][1]

    def activities(self, x: Tensor, sharpness: float | None = None) -> list[tuple[Tensor, Tensor]]:
        """Return the detection units, (n, units), and the pools, (n, pools), of each layer.

        Parameters
        ----------
        x : Tensor, shape (n, ...)
        sharpness : float, optional
            t of the differentiable ``log(0.5 + 0.5 exp(t z)) / t`` in place of max(0, z), by which
            the paper finds roots (table 1, note b).
        """
        found, a = [], x.flatten(1)
        for layer, (width, pools) in zip(self.linear, self.sizes, strict=True):
            z = layer(a)
            if sharpness is None:
                units = F.relu(z)
            else:
                units = F.softplus(z, sharpness) - math.log(2) / sharpness
            a = self._pooled(units.reshape(-1, pools, width // pools))
            found.append((units, a))
        return found

    def config(self) -> dict[str, Any]:
        """Return the arguments that make a network like this; JSON can hold them."""
        pooling = {1.0: "sum", math.inf: "max"}.get(self.power, self.power)
        inputs = self.linear[0].in_features
        return {"inputs": inputs, "layers": [list(s) for s in self.sizes], "pooling": pooling}

    def extra_repr(self) -> str:
        """Return the settings, for ``repr``."""
        return ", ".join(f"{name}={value!r}" for name, value in self.config().items())

    def _pooled(self, units: Tensor) -> Tensor:
        if self.power == 1:
            return units.sum(2)
        if self.power == math.inf:
            return units.amax(2)
        norm: Tensor = torch.linalg.vector_norm(units, self.power, dim=2)
        return norm


class MinMaxRelevance(nn.Module):
    """A trainable model of the relevance of some pools (Montavon et al. 2017, section 5.1).

    ``y_j = max(0, sum_i x_i v_ij + a_j)`` with ``a_j = min(0, sum_l R_l v_lj + d_j)``, and the
    modelled relevance of pool k is the sum of its y_j. Weights and offsets start as those of a
    `DetectionPooling`.

    Parameters
    ----------
    inputs : int
        Elements of a sample, x_i.
    above : int
        Detection units of the layer above, whose relevance R_l inhibits.
    pools : int
        How many relevances R_k are modelled.
    units : int
        Units y_j for each.

    Raises
    ------
    TypeError, ValueError
        A size is no whole number from 1 on.

    Examples
    --------
    >>> model = pyrel.nn.MinMaxRelevance(28 * 56, above=400, pools=100, units=4)
    >>> model(torch.rand(5, 28, 56), torch.rand(5, 400)).shape
    torch.Size([5, 100])
    """

    def __init__(self, inputs: int, above: int, pools: int, units: int) -> None:
        super().__init__()
        self.pools, self.units = _whole(pools), _whole(units)
        self.detection = nn.Linear(_whole(inputs), self.pools * self.units, bias=False)
        self.inhibition = nn.Linear(_whole(above), self.pools * self.units)
        for layer in (self.detection, self.inhibition):
            nn.init.normal_(layer.weight, 0.0, WEIGHT_STD)
        nn.init.zeros_(self.inhibition.bias)

    def forward(self, x: Tensor, above: Tensor) -> Tensor:
        """Return the modelled relevance: (n, ...) and R_l, (n, above), to (n, pools)."""
        inhibited = F.relu(-self.inhibition(above))  # -a_j
        y = F.relu(self.detection(x.flatten(1)) - inhibited)
        modelled: Tensor = y.reshape(-1, self.pools, self.units).sum(2)
        return modelled


def _whole(value: int) -> int:
    whole = operator.index(value)
    if whole < 1:
        raise ValueError(f"sizes have to be at least 1, not {whole}")
    return whole


def _power(pooling: str | float) -> float:
    named = {"sum": 1.0, "max": math.inf}
    if isinstance(pooling, str):
        if pooling not in named:
            raise ValueError(f"pooling must be 'sum', 'max' or a number q, not {pooling!r}")
        return named[pooling]
    power = float(pooling)
    if not power >= 1:
        raise ValueError(f"pooling: the power has to be at least 1, not {pooling!r}")
    return power
