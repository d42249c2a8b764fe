# SPDX-License-Identifier: Apache-2.0
"""One value that an elementwise function takes many times, as a gate that is one for all units."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, torch_gradient, unchecked_at
from torch import Tensor, nn

UNITS = 6


class Expanded(nn.Module):
    """A gate of one number for all units; written by ``expand``, or by weights that are repeated.

    Parameters
    ----------
    repeated : bool
    summed : bool
        What is gated is a pre-activation that others are added to.
    """

    def __init__(self, repeated: bool, summed: bool) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.gate, self.signal = nn.Linear(5, 1), nn.Linear(5, UNITS)
        self.more, self.out = nn.Linear(5, UNITS), nn.Linear(UNITS, 3)
        self.repeated, self.summed = repeated, summed

    def forward(self, x: Tensor) -> Tensor:
        if self.repeated:
            weight, bias = self.gate.weight.repeat(UNITS, 1), self.gate.bias.repeat(UNITS)
            gates = torch.sigmoid(nn.functional.linear(x, weight, bias))
        else:
            gates = torch.sigmoid(self.gate(x).expand(-1, UNITS))
        signal = self.signal(x) if self.summed else torch.tanh(self.signal(x))
        gated = gates * signal
        return self.out(torch.tanh(gated + self.more(x)) if self.summed else gated)


X = np.random.default_rng(0).normal(size=(7, 5)).astype(np.float32)


@pytest.mark.parametrize("summed", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {"method": "gradient"},
        {"method": "lrp_epsilon"},
        {"method": "lrp_epsilon", "gates": "half"},
        {"method": "lrp_epsilon", "bias": "share"},
        {"method": "lrp_alpha_beta", "gates": "half"},
    ],
    ids=str,
)
def test_expanding_gives_what_repeated_weights_give(options: Any, summed: bool) -> None:
    one, other = (
        unchecked_at(Expanded(repeated, summed).eval(), X[:2], **options)(X, 1)
        for repeated in (False, True)
    )
    size = np.abs(other.relevance).max()
    np.testing.assert_allclose(one.relevance, other.relevance, rtol=0, atol=RELATIVE * size)
    np.testing.assert_allclose(one.absorbed, other.absorbed, rtol=0, atol=RELATIVE * size)


@pytest.mark.parametrize("summed", [False, True])
def test_gradients_are_torchs(summed: bool) -> None:
    model = Expanded(False, summed).eval()
    e = unchecked_at(model, X[:2], method="gradient")(X)
    _, gradient = torch_gradient(model.double(), X.astype(np.float64), e.target)
    np.testing.assert_allclose(
        e.relevance, gradient, rtol=0, atol=RELATIVE * np.abs(gradient).max()
    )
