# SPDX-License-Identifier: Apache-2.0
"""One pass over the training samples."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from pyrel.training.config import TrainingConfig
from pyrel.training.progress import Reporter
from pyrel.training.result import TrainingDivergedError
from pyrel.training.samples import Samples
from pyrel.training.schedule import rate
from pyrel.training.state import TrainingState

# Looking at the loss of every batch would make a CUDA device wait for Python.
_LOOK_EVERY = {"cpu": 1, "cuda": 32}


class EpochMeans(NamedTuple):
    """Means over the samples of an epoch as they were seen, and the last learning rate."""

    loss: float
    accuracy: float
    learning_rate: float


def run_epoch(
    state: TrainingState, config: TrainingConfig, samples: Samples, reporter: Reporter
) -> EpochMeans:
    """Update the model with every training sample once, in an order drawn for this epoch.

    Seeds torch's global generators, from which dropout draws its masks.

    Raises
    ------
    TrainingDivergedError
        The loss became NaN or infinite.
    """
    order = _draw_randomness(state, samples)
    batches = torch.split(order, config.batch_size)
    look_every = _LOOK_EVERY[samples.x.device.type]
    loss_sum = torch.zeros((), device=samples.x.device)
    right = torch.zeros((), dtype=torch.int64, device=samples.x.device)
    learning_rate, seen = 0.0, 0
    state.model.train()
    for number, index in enumerate(batches, 1):
        learning_rate = rate(config, state.epoch * len(batches) + number - 1, len(batches))
        target = samples.y.index_select(0, index)
        loss, scores = _step(state, samples.x.index_select(0, index), target, learning_rate)
        loss_sum += loss * len(index)
        right += (scores.argmax(1) == target).sum()
        seen += len(index)
        if number % look_every == 0 or number == len(batches):
            _check_finite(loss_sum, state.epoch + 1, number, learning_rate)
            if reporter.due():
                reporter.batch(state.epoch + 1, number, loss_sum.item() / seen)
    return EpochMeans(loss_sum.item() / seen, right.item() / seen, learning_rate)


def _draw_randomness(state: TrainingState, samples: Samples) -> Tensor:
    """Seed the dropout masks of an epoch and return the order of its samples."""
    seed = int(torch.randint(2**62, (), generator=state.generator))
    torch.manual_seed(seed)
    order = torch.randperm(len(samples.y), generator=state.generator)
    return order.to(samples.x.device)


def _step(
    state: TrainingState, x: Tensor, target: Tensor, learning_rate: float
) -> tuple[Tensor, Tensor]:
    """Update the model with one batch; return its loss and scores before the update."""
    scores = state.model(x)
    loss = F.cross_entropy(scores, target)
    state.optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    for group in state.optimizer.param_groups:
        group["lr"] = learning_rate
    state.optimizer.step()
    return loss.detach(), scores.detach()


def _check_finite(loss_sum: Tensor, epoch: int, batch: int, learning_rate: float) -> None:
    if not math.isfinite(loss_sum.item()):
        raise TrainingDivergedError(
            f"the loss became {loss_sum.item()} in epoch {epoch}, by batch {batch}, at learning "
            f"rate {learning_rate:.3g}; try a lower learning_rate, or a longer warmup with the "
            f"one-cycle schedule"
        )
