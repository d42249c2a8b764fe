# SPDX-License-Identifier: Apache-2.0
"""Deep Taylor decomposition of detection-pooling networks by the paper's two relevance models.

Montavon et al. 2017, section 5: the training-free model, whose pools hand on relevance in
proportion to their units' activities, and the min-max model, which is fitted.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pyrel.explainer import Explainer
from pyrel.nn import DetectionPooling, MinMaxRelevance

_Floats = npt.NDArray[np.float32]


def training_free(
    network: DetectionPooling, x: npt.ArrayLike, *, low: float, high: float
) -> npt.NDArray[np.float64]:
    """Return training-free deep Taylor relevance, worked out in float64 by torch.

    In proportion to activities below each pool, whatever its power (section 5.2); by z⁺ below the
    detection units of upper layers, by z^β below those of the first. For sum and max pooling, and
    for q = 2, ``Explainer(network, x, "deep_taylor")`` is the same and faster.

    Parameters
    ----------
    network : DetectionPooling
        With one output, whose biases are at most 0.
    x : array of shape (n, ...)
        In [low, high].
    low, high : float
        Range of the inputs.

    Returns
    -------
    ndarray of float64
        In the shape of ``x``.

    Raises
    ------
    ValueError
        There are several outputs, or positive biases.
    """
    _check(network)
    rows = torch.as_tensor(np.asarray(x, dtype=np.float64)).flatten(1)
    exact = copy.deepcopy(network).double()
    with torch.no_grad():
        activities = exact.activities(rows)
        relevance = activities[-1][1]
        for i in reversed(range(len(activities))):
            units = activities[i][0]
            relevance = _below_pools(units, relevance)
            weight = exact.linear[i].weight
            if i:
                relevance = _z_plus(activities[i - 1][1], weight, relevance)
            else:
                relevance = _z_beta(rows, weight, relevance, low, high)
    return np.asarray(relevance.numpy().reshape(np.shape(x)))


def relevance_of_pools(
    network: DetectionPooling, activities: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return the true relevance R_k of the first layer's pools, (n, pools): z⁺ in the top layer.

    Parameters
    ----------
    network : DetectionPooling
        Of two layers and one output.
    activities
        Of `DetectionPooling.activities`.
    """
    (_, below), (units, output) = activities
    return _z_plus(below, network.linear[1].weight, _below_pools(units, output))


def _below_pools(units: Tensor, relevance: Tensor) -> Tensor:
    """Hand the relevance of pools to their units in proportion to these."""
    grouped = units.reshape(len(units), relevance.shape[1], -1)
    shares = _divided(relevance, grouped.sum(2))
    return (grouped * shares[:, :, None]).flatten(1)


def _z_plus(a: Tensor, weight: Tensor, relevance: Tensor) -> Tensor:
    positive = weight.clamp(min=0)
    return a * (_divided(relevance, a @ positive.T) @ positive)


def _z_beta(x: Tensor, weight: Tensor, relevance: Tensor, low: float, high: float) -> Tensor:
    positive, negative = weight.clamp(min=0), weight.clamp(max=0)
    below = low * positive.sum(1) + high * negative.sum(1)
    s = _divided(relevance, x @ weight.T - below)
    return x * (s @ weight) - low * (s @ positive) - high * (s @ negative)


def _divided(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Divide; where the denominator is 0, nothing is handed on."""
    return torch.where(denominator > 0, numerator / denominator, torch.zeros_like(numerator))


@dataclass(frozen=True, eq=False)
class MinMaxExplanation:
    """What `DeepTaylorMinMax` gives, arrays of the input's type.

    Attributes
    ----------
    relevance : float32, shape of the input
    output : float32, shape (n,)
        Of the network: f(x), the relevance that there is.
    modelled : float32, shape (n,)
        Of the relevance model: the sum of all modelled R_k, to which ``relevance`` adds up.
    """

    relevance: Any
    output: Any
    modelled: Any


class DeepTaylorMinMax:
    """Deep Taylor decomposition with the min-max relevance model in the first layer.

    The network's units R_l = x_l of the second layer inhibit the model (equation 10); the model's
    units take R_j = y_j (equation 14), and hand it to the inputs by z^β (equation 15). The network
    and the model make one feed-forward net, whose deep Taylor decomposition this is: what inhibits
    has a negative weight, to which z⁺ gives nothing. So the engine works it out.

    Parameters
    ----------
    network : DetectionPooling
        Of two layers with sum pooling and one output.
    model : MinMaxRelevance
        Fitted to the `relevance_of_pools` of ``network``.
    example : array or Tensor, shape (n, ...)
        Any input of the right shape.
    low, high : float
        Range of the inputs.

    Raises
    ------
    ValueError
        The network is another one, or the model does not fit it.
    """

    name = "deep_taylor_minmax"

    def __init__(
        self,
        network: DetectionPooling,
        model: MinMaxRelevance,
        example: Any,
        *,
        low: float,
        high: float,
    ) -> None:
        _check(network)
        if len(network.sizes) != 2 or network.power != 1:
            raise ValueError(
                f"network: wanted two layers with sum pooling, given {len(network.sizes)} with "
                f"{network.config()['pooling']}"
            )
        sizes = (network.linear[0].in_features, network.sizes[1][0], network.sizes[0][1])
        given = (model.detection.in_features, model.inhibition.in_features, model.pools)
        if given != sizes:
            raise ValueError(
                f"model: wanted one of {sizes[0]} inputs, {sizes[1]} units above and {sizes[2]} "
                f"pools, given {given[0]}, {given[1]} and {given[2]}"
            )
        both = _NetworkAndModel(network, model)
        self.explainer = Explainer(both, example, "deep_taylor", low=low, high=high)

    def __call__(self, x: Any) -> MinMaxExplanation:
        """Explain a batch.

        Parameters
        ----------
        x : array or Tensor of floats, shape (n, ...)

        Raises
        ------
        ValueError, TypeError
            As for an `Explainer`.
        """
        e = self.explainer(x, 0)
        return MinMaxExplanation(e.relevance, e.output[:, 1], e.output[:, 0])


class _NetworkAndModel(nn.Module):
    """The sum of the modelled relevance, and the network's output, side by side."""

    def __init__(self, network: DetectionPooling, model: MinMaxRelevance) -> None:
        super().__init__()
        self.network, self.model = network, model

    def forward(self, x: Tensor) -> Tensor:
        units, output = self.network.activities(x)[-1]
        modelled = self.model(x, units).sum(1, keepdim=True)
        return torch.cat([modelled, output], 1)


def _check(network: DetectionPooling) -> None:
    if network.sizes[-1][1] != 1:
        raise ValueError(f"network: wanted one output, given {network.sizes[-1][1]}")
    if any(bool((layer.bias > 0).any()) for layer in network.linear):
        raise ValueError("network: biases above 0 are not allowed here; `clamp` sets them to 0")
