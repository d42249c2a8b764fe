# SPDX-License-Identifier: Apache-2.0
"""Chains of torch's layers at small awkward sizes: every operator, its options, its neighbours."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def chain(*layers: nn.Module) -> nn.Sequential:
    """Layers in a row, flattened before the last one."""
    return nn.Sequential(*layers[:-1], nn.Flatten(), layers[-1])


def seen(norm: Any) -> Any:
    """Give a batch norm statistics, as training would."""
    norm.running_mean.normal_(0.0, 0.3)
    norm.running_var.uniform_(0.5, 2.0)
    return norm


def around(function: nn.Module) -> nn.Sequential:
    """An activation between two linear layers."""
    return nn.Sequential(nn.Linear(7, 17), function, nn.Linear(17, 3))


# Name: (how to make it, shape of a sample, low, high).
Chain = tuple[Callable[[], nn.Module], tuple[int, ...], float, float]

CONVOLUTIONS: dict[str, Chain] = {
    "conv2d": (
        lambda: chain(nn.Conv2d(2, 5, 3), nn.ReLU(), nn.Linear(5 * 3 * 2, 3)),
        (2, 5, 4), 0.0, 1.0,
    ),
    "conv2d-padded": (
        lambda: chain(
            nn.Conv2d(3, 9, (3, 2), stride=(2, 1), padding=(1, 0)),
            nn.ReLU(),
            nn.Conv2d(9, 4, 3, padding=(0, 2), bias=False),
            nn.ReLU(),
            nn.Linear(4 * 1 * 6, 2),
        ),
        (3, 5, 5), -1.0, 1.0,
    ),
    "conv2d-groups": (
        lambda: chain(
            nn.Conv2d(4, 6, 2, dilation=2, groups=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, groups=6, padding="same"),
            nn.ReLU(),
            nn.Linear(6 * 4 * 3, 3),
        ),
        (4, 4, 3), -0.5, 1.5,
    ),
    "conv2d-1x1": (
        lambda: chain(nn.Conv2d(17, 33, 1), nn.ReLU(), nn.Linear(33 * 4, 2)),
        (17, 2, 2), 0.0, 1.0,
    ),
    "conv1d": (
        lambda: chain(
            nn.Conv1d(3, 8, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv1d(8, 5, 2, stride=2, bias=False),
            nn.ReLU(),
            nn.Linear(5 * 4, 3),
        ),
        (3, 9), -1.0, 0.5,
    ),
    "conv1d-strided-padding": (
        lambda: chain(
            nn.Conv1d(2, 4, 5, stride=3, padding=4, groups=2), nn.ReLU(), nn.Linear(4 * 4, 2)
        ),
        (2, 8), 0.0, 1.0,
    ),
    "conv-after-conv": (
        lambda: chain(
            nn.Conv2d(1, 3, 2, padding=1), nn.Conv2d(3, 4, 2), nn.ReLU(), nn.Linear(4 * 9, 3)
        ),
        (1, 3, 3), -1.0, 1.0,
    ),
    "zero-pad": (
        lambda: chain(
            nn.ZeroPad2d((1, 2, 0, 1)), nn.Conv2d(2, 4, 2), nn.ReLU(), nn.Linear(4 * 3 * 5, 3)
        ),
        (2, 3, 3), 0.0, 1.0,
    ),
}  # fmt: skip

POOLS: dict[str, Chain] = {
    "max-pool": (
        lambda: chain(
            nn.Conv2d(2, 5, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(5, 4, 2),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=1, padding=1),
            nn.Linear(4 * 2 * 1, 3),
        ),
        (2, 5, 4), 0.0, 1.0,
    ),
    "max-pool-dilated": (
        lambda: chain(
            nn.Conv1d(3, 5, 2), nn.ReLU(), nn.MaxPool1d(2, stride=1, dilation=3), nn.Linear(25, 3)
        ),
        (3, 9), -1.0, 1.0,
    ),
    "max-pool-of-pre-activations": (
        lambda: chain(nn.Conv1d(3, 6, 3), nn.MaxPool1d(2), nn.ReLU(), nn.Linear(6 * 3, 3)),
        (3, 8), -1.0, 1.0,
    ),
    "max-pool-of-tanh": (
        lambda: chain(nn.Conv1d(3, 6, 3), nn.Tanh(), nn.MaxPool1d(3, 2, 1), nn.Linear(6 * 3, 3)),
        (3, 8), -1.0, 1.0,
    ),
    "max-pool-of-pixels": (
        lambda: chain(nn.MaxPool2d(2), nn.Conv2d(2, 5, 2), nn.ReLU(), nn.Linear(5 * 2, 3)),
        (2, 4, 6), 0.0, 1.0,
    ),
    "average-pool": (
        lambda: chain(
            nn.Conv2d(2, 5, 2),
            nn.ReLU(),
            nn.AvgPool2d(2, padding=1, ceil_mode=True),
            nn.Conv2d(5, 4, 2),
            nn.ReLU(),
            nn.AvgPool2d((1, 2), stride=1, padding=(0, 1), count_include_pad=False),
            nn.Linear(16, 3),
        ),
        (2, 5, 4), 0.0, 1.0,
    ),
    "average-pool-beside-padding": (  # of windows with a column that is only padding
        lambda: chain(
            nn.Conv2d(2, 6, (1, 4)), nn.ReLU(), nn.AvgPool2d(2, padding=1), nn.Linear(18, 3)
        ),
        (2, 5, 4), -1.0, 1.0,
    ),
    "average-pool-of-pixels": (
        lambda: chain(nn.AvgPool1d(3, 2, 1), nn.Conv1d(3, 5, 2), nn.ReLU(), nn.Linear(5 * 3, 3)),
        (3, 8), -1.0, 1.0,
    ),
    "average-pool-of-pre-activations": (
        lambda: chain(nn.Conv1d(3, 6, 3), nn.AvgPool1d(2), nn.ReLU(), nn.Linear(6 * 3, 3)),
        (3, 8), -1.0, 1.0,
    ),
    "adaptive-average-pool": (
        lambda: chain(
            nn.Conv2d(2, 5, 2),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d((3, 2)),
            nn.Conv2d(5, 7, 1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Linear(7, 3),
        ),
        (2, 6, 4), -1.0, 1.0,
    ),
    "adaptive-average-pool1d": (
        lambda: chain(nn.Conv1d(2, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool1d(3), nn.Linear(15, 3)),
        (2, 6), 0.0, 1.0,
    ),
}  # fmt: skip

ACTIVATIONS: dict[str, Chain] = {
    name: (lambda make=make: around(make()), (7,), -1.0, 1.0)  # type: ignore[misc]
    for name, make in {
        "sigmoid": nn.Sigmoid,
        "tanh": nn.Tanh,
        "softplus": nn.Softplus,
        "softplus-beta": lambda: nn.Softplus(beta=3.0),
        "leaky-relu": lambda: nn.LeakyReLU(0.2),
        "elu": nn.ELU,
        "elu-alpha": lambda: nn.ELU(0.5),
        "gelu": nn.GELU,
        "gelu-tanh": lambda: nn.GELU("tanh"),
        "silu": nn.SiLU,
    }.items()
}

NORMS: dict[str, Chain] = {
    "batch-norm-2d": (
        lambda: chain(
            nn.Conv2d(2, 5, 2, bias=False), seen(nn.BatchNorm2d(5)), nn.ReLU(), nn.Linear(30, 3)
        ),
        (2, 4, 3), -1.0, 1.0,
    ),
    "batch-norm-1d": (
        lambda: nn.Sequential(
            nn.Linear(9, 15), seen(nn.BatchNorm1d(15)), nn.ReLU(), nn.Linear(15, 3)
        ),
        (9,), 0.0, 1.0,
    ),
    "batch-norm-of-activations": (
        lambda: nn.Sequential(
            nn.Linear(9, 15), nn.ReLU(), seen(nn.BatchNorm1d(15)), nn.Linear(15, 3)
        ),
        (9,), 0.0, 1.0,
    ),
    "batch-norm-of-steps": (
        lambda: chain(
            nn.Conv1d(3, 4, 2), seen(nn.BatchNorm1d(4)), nn.Tanh(), nn.Linear(4 * 5, 3)
        ),
        (3, 6), -1.0, 1.0,
    ),
    "layer-norm": (
        lambda: nn.Sequential(nn.Linear(9, 17), nn.LayerNorm(17), nn.ReLU(), nn.Linear(17, 3)),
        (9,), -1.0, 1.0,
    ),
    "layer-norm-rows": (
        lambda: chain(nn.Linear(5, 8), nn.Tanh(), nn.LayerNorm((3, 8)), nn.Linear(24, 2)),
        (3, 5), -1.0, 1.0,
    ),
    "layer-norm-plain": (
        lambda: chain(
            nn.Linear(5, 8), nn.LayerNorm(8, elementwise_affine=False), nn.GELU(), nn.Linear(24, 2)
        ),
        (3, 5), -1.0, 1.0,
    ),
    "layer-norm-first": (
        lambda: nn.Sequential(
            nn.LayerNorm(9, bias=False), nn.Linear(9, 5), nn.ReLU(), nn.Linear(5, 2)
        ),
        (9,), -1.0, 1.0,
    ),
}  # fmt: skip

CHAINS = CONVOLUTIONS | POOLS | ACTIVATIONS | NORMS


def seeded(make: Callable[[], nn.Module], seed: int) -> nn.Module:
    """Return a module in eval mode whose weights keep the variance of signals."""
    torch.manual_seed(seed)
    module = make().eval()
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1:
                fan = (parameter[0].numel() + len(parameter)) / 2
                parameter.normal_(0.0, (2 / fan) ** 0.5)
            else:
                # Biases of both signs under which narrow layers stay alive; scales near 1.
                parameter.normal_(1.0 if name.endswith("weight") else 0.1, 0.2)
    return module
