# SPDX-License-Identifier: Apache-2.0
"""Scores, loss and accuracy of a trained model, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from pyrel.training.samples import FloatInput, IntInput, checked_inputs, checked_samples


class Evaluation(NamedTuple):
    """Mean cross-entropy and share of right predictions (in [0, 1]) over some samples."""

    loss: float
    accuracy: float


def predict(model: nn.Module, x: FloatInput, *, batch_size: int = 1000) -> Tensor:
    """Return the raw outputs of a model in eval mode.

    Parameters
    ----------
    model : nn.Module
        Left in the mode that it was in.
    x : array or tensor of floats, shape (n, …)
        Moved to the device of the model batch by batch.
    batch_size : int
        Samples computed at once.

    Returns
    -------
    Tensor
        Shape (n, classes), on the CPU.

    Raises
    ------
    TypeError, ValueError
        ``x`` holds no floats, no samples, or NaN or infinity.
    """
    samples = checked_inputs("x", x)
    device = next(model.parameters()).device
    with evaluating(model):
        outputs = [model(part.to(device)).cpu() for part in torch.split(samples, batch_size)]
    return torch.cat(outputs)


def evaluate(model: nn.Module, x: FloatInput, y: IntInput, *, batch_size: int = 1000) -> Evaluation:
    """Return loss and accuracy of a model in eval mode.

    Parameters
    ----------
    model : nn.Module
        Left in the mode that it was in.
    x : array or tensor of floats, shape (n, …)
    y : array or tensor of integers, shape (n,)
        The right classes.
    batch_size : int
        Samples computed at once.

    Returns
    -------
    Evaluation

    Raises
    ------
    TypeError, ValueError
        ``x`` or ``y`` has another kind or shape.
    """
    samples = checked_samples("x", x, "y", y)
    return score(model, samples.x, samples.y, batch_size)


def score(model: nn.Module, x: Tensor, y: Tensor, batch_size: int = 1000) -> Evaluation:
    """Return loss and accuracy over samples that are checked already."""
    device = next(model.parameters()).device
    loss = torch.zeros((), dtype=torch.float64, device=device)
    right = torch.zeros((), dtype=torch.int64, device=device)
    pairs = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    with evaluating(model):
        for part, part_y in pairs:
            target = part_y.to(device)
            outputs = model(part.to(device))
            loss += F.cross_entropy(outputs, target, reduction="sum")
            right += (outputs.argmax(1) == target).sum()
    return Evaluation(loss.item() / len(y), right.item() / len(y))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model into eval mode without gradients, and back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
