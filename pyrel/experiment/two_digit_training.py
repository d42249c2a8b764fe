# SPDX-License-Identifier: Apache-2.0
"""Train the network of the two-digit problem, and beside it the min-max relevance model."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pyrel.data import TwoDigitSamples, two_digits
from pyrel.experiment.problem import Images
from pyrel.experiment.relevance_models import relevance_of_pools
from pyrel.nn import DetectionPooling, MinMaxRelevance
from pyrel.training import TrainingDivergedError

LOW, HIGH = -0.5, 1.5
POSITIVE = 100.0  # the target of an image with a wanted digit; that of others is 0

_BATCHES = 100  # drawn at once


@dataclass(frozen=True, kw_only=True)
class TwoDigitTraining:
    """Settings of a training run; what the paper gives is the default (section 6.1).

    Attributes
    ----------
    iterations : int
        Mini-batches; 300,000 in the paper.
    batch_size : int
    learning_rate, model_learning_rate : float
        Of the network and of the relevance model, constant. "Small" in the paper.
    shift : int
        Largest translation of a digit in pixels; the paper has no number.
    layers : tuple of (int, int)
        Of the network; see `pyrel.nn.DetectionPooling`.
    seed : int
        Of first weights and samples.
    """

    iterations: int = 60_000
    batch_size: int = 20
    learning_rate: float = 1e-4
    model_learning_rate: float = 1e-2
    shift: int = 3
    layers: tuple[tuple[int, int], tuple[int, int]] = ((400, 100), (400, 1))
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name; JSON can hold them."""
        return asdict(self)


@dataclass(frozen=True, eq=False)
class TwoDigitNetwork:
    """What a training run gives.

    Attributes
    ----------
    network : DetectionPooling
    model : MinMaxRelevance
        Of the relevance of the network's first pools.
    history : list of dict
        By "iteration": the root mean square errors "network" and "model" over the mini-batches
        since the one before.
    """

    network: DetectionPooling
    model: MinMaxRelevance
    history: list[dict[str, float]]


def train_two_digit(
    images: Images,
    config: TwoDigitTraining | None = None,
    say: Callable[[int, int], None] | None = None,
) -> TwoDigitNetwork:
    """Train network and relevance model on pairs of digits, drawn anew for each mini-batch.

    Stochastic gradient descent on the mean square error; biases of the network are kept at or below
    0. The model is fitted in parallel to the true relevance of the network as it is then. Same
    arguments, same result on one machine with one number of threads.

    Parameters
    ----------
    images : (uint8 of shape (n, 28, 28), integers of shape (n,))
    config
        The default is that of `TwoDigitTraining`.
    say
        Called with (done, total) iterations, again and again.

    Raises
    ------
    TrainingDivergedError
        The error became NaN or infinite.
    """
    config = config or TwoDigitTraining()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = DetectionPooling(layers=config.layers)
        (units, pools), (above, _) = config.layers
        model = MinMaxRelevance(network.linear[0].in_features, above, pools, units // pools)
    steps = _Steps(network, model, config)
    history, done = [], 0
    while done < config.iterations:
        batches = min(_BATCHES, config.iterations - done)
        x, y = _draw(images, config, done, batches * config.batch_size)
        by_batch = zip(
            x.reshape(batches, config.batch_size, -1), y.reshape(batches, -1), strict=True
        )
        errors = [steps(*batch) for batch in by_batch]
        done += batches
        of_network, of_model = np.sqrt(np.mean(errors, axis=0))
        if not math.isfinite(of_network + of_model):
            raise TrainingDivergedError(
                f"the error is {of_network} for the network and {of_model} for the relevance model "
                f"after {done} iterations; try a smaller learning rate"
            )
        history.append({"iteration": done, "network": float(of_network), "model": float(of_model)})
        if say is not None:
            say(done, config.iterations)
    return TwoDigitNetwork(network.eval(), model.eval(), history)


def draw_samples(images: Images, count: int, seed: int) -> TwoDigitSamples:
    """Draw test samples, digits of which stand where they are in the data set."""
    return two_digits(*images, count, seed, low=LOW, high=HIGH)


def _draw(images: Images, config: TwoDigitTraining, done: int, count: int) -> tuple[Tensor, Tensor]:
    """Draw rows of pixels and targets; each call has a stream of its own."""
    seed = (config.seed << 32) + done
    samples = two_digits(*images, count, seed, shift=config.shift, low=LOW, high=HIGH)
    x = torch.from_numpy(samples.x.reshape(count, -1))
    return x, POSITIVE * torch.from_numpy(samples.y).float()


class _Steps:
    """Steps of both descents on one mini-batch."""

    def __init__(
        self, network: DetectionPooling, model: MinMaxRelevance, config: TwoDigitTraining
    ) -> None:
        self.network, self.model = network, model
        self.descent = torch.optim.SGD(network.parameters(), config.learning_rate)
        self.of_model = torch.optim.SGD(model.parameters(), config.model_learning_rate)

    def __call__(self, x: Tensor, y: Tensor) -> tuple[float, float]:
        """Return the mean square errors before the step."""
        activities = self.network.activities(x)
        with torch.no_grad():
            relevance = relevance_of_pools(self.network, activities)
            units = activities[1][0].detach()
        error = nn.functional.mse_loss(activities[1][1][:, 0], y)
        _step(self.descent, error)
        self.network.clamp()
        of_model = nn.functional.mse_loss(self.model(x, units), relevance)
        _step(self.of_model, of_model)
        return error.item(), of_model.item()


def _step(descent: torch.optim.Optimizer, error: Tensor) -> None:
    descent.zero_grad()
    error.backward()  # type: ignore[no-untyped-call]
    descent.step()
