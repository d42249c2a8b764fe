# SPDX-License-Identifier: Apache-2.0
"""Where numbers come near the ends of float32's range, relevance is conserved or refused."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyrel

FEATURES = 6
LOST = r"the relevance of x\[1\] is not conserved: ΣR \+ absorbed is .* near the ends of float32"


class Recurrent(nn.Module):
    """A recurrent layer, whose gates and states stay small whatever goes in."""

    def __init__(self, layer: type[nn.Module], scale: float = 1.0) -> None:
        super().__init__()
        self.core: Any = layer(FEATURES, 8, batch_first=True)
        self.out = nn.Linear(8, 3)
        for each in self.core.parameters():
            each.data *= scale

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x.view(x.shape[0], -1, FEATURES))[0][:, -1])


def pooled(x: Tensor) -> Tensor:
    return nn.functional.max_pool1d(torch.relu(x)[:, None], 2)[:, 0]


class Squashed(nn.Module):
    """A layer of large values, of which a function makes small ones."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.function = nn.Linear(2 * FEATURES, 8), function
        self.out = nn.LazyLinear(3)
        self.out(function(self.first(torch.zeros(1, 2 * FEATURES))))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.out(self.function(self.first(x))) * 1e-3)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "large weights": lambda: Recurrent(nn.LSTM, 1e37),
    "tanh": lambda: Squashed(torch.tanh),
    "layer norm": lambda: Squashed(nn.LayerNorm(8)),
    "relu": lambda: Squashed(torch.relu),
    "max pool": lambda: Squashed(pooled),
}
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("lrp_epsilon", {}),
    ("lrp_epsilon", {"gates": "half"}),
    ("lrp_epsilon", {"pooling": "proportional"}),
    ("deep_taylor", {}),
]
CASES = [
    (name, method, options)
    for name in MODELS
    for method, options in METHODS
    if method != "deep_taylor" or name in ("relu", "max pool")  # it has no rule for the others
]


@functools.cache
def graph(name: str) -> Any:
    torch.manual_seed(0)
    return pyrel.capture(MODELS[name]().eval(), inputs(1.0))


@functools.cache
def compiled(name: str, method: str, **options: Any) -> Any:
    return pyrel.Explainer(graph(name), None, method, check=None, **options)


def inputs(scale: float) -> Any:
    """Four samples; from the second on they are ``scale`` times as large."""
    x = np.random.default_rng(0).uniform(-1, 1, (4, 2 * FEATURES))
    x[1:] *= scale
    return x.astype(np.float32)


@pytest.mark.parametrize("scale", [1e-37, 1e30, 1e36, 1e37, 3e38])
@pytest.mark.parametrize(("name", "method", "options"), CASES)
def test_relevance_is_conserved_or_refused(
    name: str, method: str, options: dict[str, Any], scale: float
) -> None:
    try:
        e = compiled(name, method, **options)(inputs(scale))
    except ValueError as error:
        assert "float32" in str(error) and "x[" in str(error)
        return
    size = np.abs(e.relevance.sum(axis=1, dtype=np.float64) - e.conservation)
    gap = np.abs(e.conservation + e.absorbed.astype(np.float64))
    assert (gap <= 1.01e-3 * size * np.maximum(e.amplification, 1)).all()


@pytest.mark.parametrize("name", ["LSTM", "GRU", "tanh", "layer norm"])
def test_the_first_sample_that_loses_relevance_is_named(name: str) -> None:
    explainer = compiled(name, "lrp_epsilon")
    x = inputs(3e38)
    explainer(x[:1])
    for batch in (x, np.resize(x, (64, x.shape[1]))):
        with pytest.raises(ValueError, match=LOST):
            explainer(batch)
    unchecked = pyrel.Explainer(graph(name), None, "lrp_epsilon", check=None, check_finite=False)
    gap = unchecked(x).conservation + unchecked(x).absorbed
    assert (np.abs(gap) > 1e-3)[1:].any()


def test_infinite_sums_are_refused() -> None:
    """A share of infinity is 0, whatever the relevance."""
    layer = nn.Linear(2, 3)
    layer.weight.data = torch.tensor([[3e38, 3e38], [1.0, 0.0], [0.0, 1.0]])
    out = nn.Linear(3, 2)
    out.weight.data = torch.tensor([[1e-5, 2.0, 1.0], [1e-5, 1.0, 2.0]])
    model = nn.Sequential(layer, nn.Tanh(), out)
    x = np.array([[1e-6, 1e-6], [1.0, 1.0]], np.float32)
    explainer = pyrel.Explainer(model, x, "lrp_epsilon", check=None)
    explainer(x[:1])
    with pytest.raises(ValueError, match=r"the relevance of x\[1\] is NaN or infinite"):
        explainer(x)
    checked = pyrel.Explainer(model, x, "lrp_epsilon", check="all").checked
    assert "relevance for the example overflows in float32" in checked


def test_nothing_is_refused_where_nothing_is_put_in() -> None:
    """deep_taylor hands on max(0, score)."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(1.5e38)
        model[2].weight.fill_(0.0)
        model[2].bias.fill_(-1.0)
    x = np.full((1, 2), 1.0, np.float32)
    e = pyrel.Explainer(model, x, "deep_taylor", low=-1, high=1, check=None)(x)
    assert not e.relevance.any()


def test_constants_beyond_float32_are_refused() -> None:
    """A weight in float64, and weights times the bounds of the input."""
    layer, x = nn.Linear(2, 2).double(), np.ones((1, 2), np.float32)
    layer.weight.data.fill_(1e60)
    with pytest.raises(ValueError, match=r"overflows in float32 when .* is 1e\+60, "):
        pyrel.Explainer(nn.Sequential(layer, nn.Tanh()), x, "gradient", check=None)
    layer.weight.data.fill_(1e30)
    with pytest.raises(ValueError, match=r"overflows in float32 when .* is 2e\+40, "):
        bounds = {"low": -1e10, "high": 1e10}
        pyrel.Explainer(nn.Sequential(layer, nn.ReLU()), x, "deep_taylor", check=None, **bounds)


def test_gradients_are_those_of_autograd() -> None:
    torch.manual_seed(0)
    model, x = Recurrent(nn.GRU).eval(), inputs(3e38)
    e = pyrel.Explainer(graph("GRU"), None, "gradient", check=None)(x, target=0)
    leaf = torch.from_numpy(x).requires_grad_()
    model(leaf)[:, 0].sum().backward()
    np.testing.assert_allclose(e.relevance, leaf.grad, rtol=1e-4, atol=1e-6)
