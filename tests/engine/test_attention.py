# SPDX-License-Identifier: Apache-2.0
"""Attention: its weights are gates for methods that conserve, as in Ali et al. 2022."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, assert_within, rows, target_score
from torch import Tensor, nn
from torch.nn import functional

import pyrel

STEPS, WIDTH, UNITS, CLASSES = 5, 4, 6, 3
EPSILON = 1e-3


class Pooled(nn.Module):
    """A mean of states, weighted by attention."""

    def __init__(self) -> None:
        super().__init__()
        self.state, self.score = nn.Linear(WIDTH, UNITS), nn.Linear(UNITS, 1)
        self.out = nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.state(x))
        return self.out((self.score(h).softmax(1) * h).sum(1))


def batch(count: int = 20) -> np.ndarray:
    rng = np.random.default_rng(3)
    return rng.normal(size=(count, STEPS, WIDTH)).astype(np.float32)


def stabilised(z: Any) -> Any:
    return z + EPSILON * np.where(z < 0, -1, 1)


def test_values_get_relevance_by_their_weighted_share() -> None:
    """R of a value is a_t h_t / Σ a_t h_t of what the mean gets; written in float64."""
    torch.manual_seed(0)
    model, x = Pooled().eval(), batch()
    e = pyrel.Explainer(model, x[:2], method="lrp_epsilon", epsilon=EPSILON)(x)
    w = {name: p.detach().double().numpy() for name, p in model.named_parameters()}
    z = x.astype(np.float64) @ w["state.weight"].T + w["state.bias"]
    h = np.tanh(z)
    s = h @ w["score.weight"].T + w["score.bias"]
    a = np.exp(s - s.max(axis=1, keepdims=True))
    weighted = a / a.sum(axis=1, keepdims=True) * h
    c = weighted.sum(axis=1)
    f = c @ w["out.weight"].T + w["out.bias"]
    r = np.where(np.arange(CLASSES) == np.asarray(e.target)[:, None], f, 0.0)
    r = c * ((r / stabilised(f)) @ w["out.weight"])
    r = weighted * (r / stabilised(c))[:, None]
    r = x * ((r / stabilised(z)) @ w["state.weight"])
    size = np.asarray(e.amplification) * np.abs(f).max(axis=1)
    assert_within(np.abs(rows(e.relevance) - rows(r)), RELATIVE * size[:, None], "relevance")


class Masked(nn.Module):
    """Causal attention of several heads, after a recurrent layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(WIDTH, UNITS, batch_first=True)
        self.out = nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lstm(x)[0].unflatten(2, (2, 3)).transpose(1, 2)
        mixed = functional.scaled_dot_product_attention(h, h, h, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2)[:, -1])


class Encoder(nn.Module):
    """Two layers of a transformer's encoder."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 8, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(x).mean(1))


@functools.cache
def seeded(kind: type[nn.Module]) -> nn.Module:
    """Return a model that no test changes, so that it is captured once."""
    torch.manual_seed(1)
    return kind().eval()


@pytest.mark.parametrize("kind", [Pooled, Masked, Encoder])
@pytest.mark.parametrize("options", [{"gates": "signal"}, {"bias": "share"}], ids=str)
def test_relevance_is_conserved(kind: type[nn.Module], options: Any) -> None:
    model, x = seeded(kind), batch()
    e = pyrel.Explainer(model, x[:2], "lrp_epsilon", epsilon=EPSILON, check="all", **options)(x)
    total = rows(e.relevance).sum(axis=1) + np.asarray(e.absorbed, np.float64)
    start = target_score(e)
    size = np.maximum(1.0, np.asarray(e.amplification)) * np.abs(start)
    assert_within(np.abs(total - start)[:, None], RELATIVE * size[:, None], "conservation")


def test_a_softmax_that_is_read_has_no_rule() -> None:
    """Relevance of the weights themselves, of a layer or of the output, goes nowhere by itself."""
    x = batch()
    for model in (
        nn.Sequential(nn.Linear(WIDTH, UNITS), nn.Softmax(-1), nn.Flatten(), nn.LazyLinear(3)),
        nn.Sequential(nn.Flatten(), nn.LazyLinear(3), nn.Softmax(-1)),
    ):
        model(torch.from_numpy(x))
        with pytest.raises(pyrel.UnsupportedModelError, match="both or neither is a gate"):
            pyrel.Explainer(model.eval(), x[:2], "lrp_epsilon")
