# SPDX-License-Identifier: Apache-2.0
"""Local response normalisation: exact gradients, and bypassed by what conserves relevance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pyrel

EPS = 2.0**-24
SETTINGS = [
    {"size": 3, "alpha": 0.7, "beta": 0.75, "k": 2.0},
    {"size": 4, "alpha": 2.0, "beta": 0.5, "k": 1.0},
    {"size": 7, "alpha": 1.5, "beta": 1.25, "k": 0.5},
    {"size": 2},
]


class Net(nn.Module):
    """A convolution over one step at a time, ReLUs, the normalisation, and an output."""

    def __init__(self, relu: bool = True, **settings: float) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first = nn.Conv1d(3, 6, 1)
        self.activation = nn.ReLU() if relu else nn.Tanh()
        self.norm = nn.LocalResponseNorm(**settings)
        self.last = nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.activation(self.first(x))).flatten(1))


def inputs() -> torch.Tensor:
    torch.manual_seed(2)
    return torch.rand(11, 3, 2)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("relu", [True, False])
def test_gradients_are_those_of_torch(settings: dict, relu: bool) -> None:
    net, x = Net(relu, **settings), inputs()
    e = pyrel.Explainer(net, x, "gradient")(x, 1)
    exact = x.double().requires_grad_()
    output = net.double()(exact)
    (wanted,) = torch.autograd.grad(output[:, 1].sum(), exact)
    # Three products of at most 12 terms each way and a power, whose gradients add up.
    bound = 8 * 40 * EPS * (1 + wanted.abs().max())
    assert (e.output - output).abs().max() <= bound
    assert (e.relevance - wanted).abs().max() <= bound


@pytest.mark.parametrize("gates", ["signal", "half"])
@pytest.mark.parametrize("settings", SETTINGS[:3])
def test_relevance_goes_by_it(settings: dict, gates: str) -> None:
    """z⁺ of the last layer reads what is normalised; its relevance is that of the ReLUs."""
    net, x = Net(**settings), inputs()
    with torch.no_grad():
        net.last.bias.fill_(0.4)
    e = pyrel.Explainer(net, x, "deep_taylor", low=0.0, high=1.0, gates=gates)(x, 0)
    net = net.double()
    with torch.no_grad():
        units = torch.relu(net.first(x.double()))
        normed = net.norm(units)
        up = net.last.weight[0].clamp(min=0)
        above = (normed.flatten(1) @ up + net.last.bias[0].clamp(min=0))[:, None]
        start = net(x.double())[:, :1].clamp(min=0)
        relevance = (normed.flatten(1) * up / above * start).reshape(units.shape)
        w, b = net.first.weight[:, :, 0], net.first.bias
        terms = torch.einsum("ji,nit->njit", w, x.double()) - w.clamp(max=0)[None, :, :, None]
        below = terms.sum(2) + b.clamp(min=0)[None, :, None]
        s = torch.where(below > 0, relevance / below, 0.0)
        wanted = (terms * s[:, :, None]).sum(1)
    assert (start > 0).sum() > 3
    # All terms have one sign: two layers of up to 13 terms, forward and backward, and a power.
    assert (e.relevance - wanted).abs().max() <= 8 * 40 * EPS * start.max()
    # Positive biases take their share; nothing else is lost.
    assert e.conservation.add(e.absorbed).abs().max() <= 1e-6 * max(1.0, float(start.max()))


def test_a_map_of_two_axes_and_a_saved_program(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3), nn.ReLU(), nn.LocalResponseNorm(3, alpha=0.9), nn.Flatten(),
        nn.Linear(5 * 3 * 4, 3),
    )  # fmt: skip
    x = torch.rand(4, 2, 5, 6)
    explainer = pyrel.Explainer(net, x, "gradient_x_input")
    assert "gradients" in explainer.checked
    explainer.save(tmp_path / "net.program")
    again = pyrel.Explainer.load(tmp_path / "net.program")
    assert torch.equal(again(x).relevance, explainer(x).relevance)
    assert "product" in str(pyrel.Explainer(net, x, "lrp_epsilon"))


def test_what_cannot_be_divided_by_is_refused() -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="k = 0"):
        pyrel.Explainer(Net(size=3, k=0.0), inputs(), "gradient")


def test_a_large_signal_stays_exact() -> None:
    """(1 + u)^-β by its logarithm, over many orders of magnitude."""
    net = nn.Sequential(nn.LocalResponseNorm(3, alpha=1.0, beta=0.75), nn.Flatten())
    x = torch.logspace(-12, 12, 60).reshape(20, 3, 1) * torch.tensor([1.0, -1.0, 1.0])[:, None]
    found = pyrel.Explainer(net, x, "gradient", check=None).forward(x)
    wanted = net(x.double())
    # 4 roundings of the power, (1 + 0.75 ln(1 + 1e24)) times as much by its argument, and 4 more.
    assert ((found - wanted) / wanted).abs().max() <= (4 * (1 + 0.75 * 56) + 8) * 2 * EPS
    assert np.isfinite(found.numpy()).all()
