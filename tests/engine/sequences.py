# SPDX-License-Identifier: Apache-2.0
"""Models that take sequences of any length, and what it takes to compare explanations."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from engine.operator_models import seeded
from torch import Tensor, nn

import pyrel
from pyrel.compiler.capture.capture import Capture, capture_at

FEATURES, WIDTH, CLASSES, VOCABULARY = 4, 5, 3, 11


class Last(nn.Module):
    """An LSTM and a linear layer over its last step."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.LSTM(FEATURES, WIDTH, batch_first=True)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x)[0][:, -1])


class Mean(nn.Module):
    """A bidirectional GRU of two layers and a linear layer over the mean of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.GRU(FEATURES, WIDTH, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x)[0].mean(1))


class Front(nn.Module):
    """A convolution over time with padding, ReLU, and an RNN of ReLU units."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Conv1d(FEATURES, WIDTH, 3, padding=1)
        self.core = nn.RNN(WIDTH, WIDTH, nonlinearity="relu", batch_first=True)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.front(x.transpose(1, 2))).transpose(1, 2)
        return self.out(self.core(h)[1][0])


class Packed(nn.Module):
    """A model that is told the lengths, and packs its sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.LSTM(FEATURES, WIDTH, batch_first=True, bidirectional=True)
        self.out = nn.Linear(2 * WIDTH, CLASSES)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            x, lengths, batch_first=True, enforce_sorted=False
        )
        return self.out(self.core(packed)[1][0].transpose(0, 1).flatten(1))


class Tokens(nn.Module):
    """Embedded tokens through an LSTM."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.rest = nn.Embedding(VOCABULARY, FEATURES), Last()

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.table(x))


MODELS = (Last, Mean, Front, Packed, Tokens)


def made(make: Callable[[], nn.Module]) -> nn.Module:
    """Return a model in eval mode with seeded weights."""
    return seeded(make, 1)


def batch(make: Callable[[], nn.Module], n: int, steps: int, seed: int = 0) -> Any:
    """Return sequences, or token ids, that the model takes."""
    rng = np.random.default_rng(seed)
    if make is Tokens:
        return rng.integers(0, VOCABULARY, (n, steps))
    return rng.uniform(-1.0, 1.0, (n, steps, FEATURES)).astype(np.float32)


@functools.cache
def captured(make: Callable[[], nn.Module], steps: int) -> Capture:
    """Capture a model with an example of some steps."""
    return capture_at(made(make), batch(make, 2, steps), lengths=make is Packed)


def explainer(make: Callable[[], nn.Module], method: str, steps: int = 6, **options: Any) -> Any:
    """Compile a model with an example of some steps; the tests check the results themselves."""
    bounds = {} if make is Tokens else {"low": -1.0, "high": 1.0}
    options = {"lengths": make is Packed, "check": None} | options
    if method.startswith("pattern_"):  # by an estimator that needs no samples
        options = {"estimator": "filter"} | options
    return pyrel.Explainer(captured(make, steps), method=method, **bounds, **options)


# For tests that only call it.
shared = functools.cache(explainer)


def scores(make: Callable[[], nn.Module], x: Any, lengths: Any = None) -> Any:
    """What torch says of whole sequences."""
    given = [torch.as_tensor(x)]
    if make is Packed:
        given.append(torch.as_tensor(np.full(len(x), x.shape[1]) if lengths is None else lengths))
    with torch.no_grad():
        return made(make)(*given).numpy()


def assert_same(one: Any, other: Any) -> None:
    """All fields agree, bit for bit."""
    for field in ("relevance", "output", "target", "absorbed", "conservation", "amplification"):
        a, b = np.asarray(getattr(one, field)), np.asarray(getattr(other, field))
        assert a.dtype == b.dtype, field
        assert a.tobytes() == b.tobytes(), field
