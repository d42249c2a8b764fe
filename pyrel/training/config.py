# SPDX-License-Identifier: Apache-2.0
"""The settings that decide the outcome of a training run, in one immutable value."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch

Schedule = Literal["constant", "one-cycle", "cosine", "step"]
Keep = Literal["last", "best"]
Optimizer = Literal["adam", "sgd"]


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training run; equal settings and data give equal weights on one machine.

    The loss is softmax cross-entropy; optimiser and batch size are by default those of the thesis
    (section 4.3).

    Attributes
    ----------
    epochs : int
        Passes over the training data, at least 1. The thesis trains for 200.
    batch_size : int
        At least 1.
    learning_rate : float
        Of the constant schedule, and the highest of the others; above 0.
    optimizer : {"adam", "sgd"}
        Adam with torch's default moments, or stochastic gradient descent.
    momentum : float
        Of stochastic gradient descent, in [0, 1): 0 for none.
    schedule : {"one-cycle", "constant", "cosine", "step"}
        How the learning rate changes with the batches; see :func:`pyrel.training.schedule.rate`.
    warmup : float
        Part of a one-cycle run in which the rate rises, in (0, 1).
    decay_epochs, decay_factor : int, float
        The step schedule multiplies the rate by the factor, in (0, 1], after every so many epochs,
        fewer than the run has.
    seed : int
        Of the batch order and the dropout masks, in [0, 2**63).
    target_accuracy : float, optional
        Stop after the first epoch whose validation accuracy, in (0, 1], reaches it.
    keep : {"last", "best"}
        Which weights the model has in the end: the last, or those of the best validation accuracy.
    device : str
        "cpu", "cuda", "cuda:1" …, or "auto": CUDA where torch finds it.
    threads : int, optional
        Number of torch's CPU threads during the run; None leaves it as it is. The products of a
        batch of 100 through the thesis's cells are too small to share: one thread is as fast as
        two there, and leaves the other core free.

    Raises
    ------
    TypeError, ValueError
        A setting is not of that kind or out of that range; the message names it.

    Examples
    --------
    >>> pyrel.training.TrainingConfig(epochs=3, schedule="cosine").epochs
    3
    """

    epochs: int = 30
    batch_size: int = 50
    learning_rate: float = 1e-3
    optimizer: Optimizer = "adam"
    momentum: float = 0.9
    schedule: Schedule = "one-cycle"
    warmup: float = 0.3
    decay_epochs: int = 10
    decay_factor: float = 0.1
    seed: int = 0
    target_accuracy: float | None = None
    keep: Keep = "last"
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        """Check every setting."""
        for name in ("epochs", "batch_size", "decay_epochs"):
            _check_whole(name, getattr(self, name), 1)
        if self.threads is not None:
            _check_whole("threads", self.threads, 1)
        _check_whole("seed", self.seed, 0)
        if self.seed >= 2**63:
            raise ValueError(f"seed must be below 2**63, not {self.seed}")
        _check_number("learning_rate", self.learning_rate, math.inf)
        _check_choice("optimizer", self.optimizer, get_args(Optimizer))
        if self.momentum != 0:
            _check_number("momentum", self.momentum, math.nextafter(1, 0))
        _check_number("warmup", self.warmup, math.nextafter(1, 0))
        _check_number("decay_factor", self.decay_factor, 1)
        if self.target_accuracy is not None:
            _check_number("target_accuracy", self.target_accuracy, 1)
        _check_choice("schedule", self.schedule, get_args(Schedule))
        if self.schedule == "step" and self.decay_epochs >= self.epochs:
            raise ValueError(
                f"decay_epochs must be below the {self.epochs} epochs of the run, not "
                f"{self.decay_epochs}: the step schedule would never lower the rate"
            )
        _check_choice("keep", self.keep, get_args(Keep))
        resolve_device(self.device)

    def to_dict(self) -> dict[str, Any]:
        """Return the settings by name; JSON can hold them."""
        return dataclasses.asdict(self)


def resolve_device(name: str) -> torch.device:
    """Return the torch device that a ``device`` setting means on this machine.

    Raises
    ------
    ValueError
        The name is no CPU or CUDA device, or torch finds no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', not {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'auto', 'cpu' or 'cuda', not {name!r}")
    count = torch.cuda.device_count() if device.type == "cuda" else 1
    if (device.index or 0) >= count:
        raise ValueError(f"device is {name!r}, but torch finds {count} CUDA devices")
    return device


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _check_number(name: str, value: object, most: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not 0 < value <= most or math.isinf(value):
        end = "" if math.isinf(most) else f" and at most {most:g}"
        raise ValueError(f"{name} must be a number above 0{end}, not {value}")


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
