# SPDX-License-Identifier: Apache-2.0
"""LRP-ε of exponential gates, normalisers, deviations and selective scans, against float64.

The rules are written as input times the gradient of a model whose factors that count as constants
are detached, whose functions are multiples of their inputs, and whose pre-activations and sums z
have the gradient of z / (z + ε sign z) times themselves. (A sum of sums is one division by z more
or less than in pyrel, which is of the size of ε.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, assert_within, rows, unchecked
from torch import Tensor, nn
from zoo_of_architectures.table import ARCHITECTURES

import pyrel

EPSILON = 1e-6
Rewritten = Callable[[Any, Tensor], Tensor]


def stabilised(z: Tensor) -> Tensor:
    """Return z, of whose relevance ε takes its part."""
    kept = (z / (z + EPSILON * torch.where(z < 0, -1.0, 1.0))).detach()
    return kept * z + ((1 - kept) * z).detach()


def handed_on(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """Return a function of z, which hands its relevance on."""
    return z * (function(z) / z).detach()


def min_gru(m: Any, x: Tensor) -> Tensor:
    z, candidate = torch.sigmoid(m.gate(x)).detach(), m.candidate(x)
    h = torch.zeros(len(x), m.out.in_features, dtype=x.dtype)
    for t in range(x.shape[1]):
        h = stabilised((1 - z[:, t]) * h + z[:, t] * candidate[:, t])
    return m.out(h)


def s_lstm(m: Any, x: Tensor) -> Tensor:
    h = c = n = largest = torch.zeros(len(x), m.out.in_features, dtype=x.dtype)
    for t in range(x.shape[1]):
        i, f, z, o = (m.of_input(x[:, t]) + m.of_state(h)).chunk(4, dim=1)
        kept = torch.nn.functional.logsigmoid(f) + largest
        largest = torch.maximum(kept, i)
        forget, new = torch.exp(kept - largest).detach(), torch.exp(i - largest).detach()
        c = stabilised(forget * c + new * handed_on(torch.tanh, stabilised(z)))
        n = forget * n + new
        h = torch.sigmoid(o).detach() * c / n
    return m.out(h)


def mamba(m: Any, x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    deviation = (centred.square().mean(-1, keepdim=True) + m.norm.eps).sqrt().detach()
    normal = stabilised(centred / deviation) * m.norm.weight + m.norm.bias
    u, gate = stabilised(m.enter(normal)).chunk(2, dim=-1)
    u = m.conv(u.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)
    u = handed_on(torch.nn.functional.silu, stabilised(u))
    delta, b, c = m.select(u).detach().split([1, m.states, m.states], dim=-1)
    delta = torch.nn.functional.softplus(m.step(delta)).unsqueeze(-1).detach()
    decay = torch.exp(delta * -torch.exp(m.log_a)).detach()
    h, found = torch.zeros(len(x), m.inner, m.states, dtype=x.dtype), []
    for t in range(x.shape[1]):
        entering = delta[:, t] * b[:, t].unsqueeze(1) * u[:, t].unsqueeze(-1)
        h = stabilised(decay[:, t] * h + entering)
        found.append(stabilised((h * c[:, t].unsqueeze(1)).sum(dim=-1)))
    y = stabilised(torch.stack(found, dim=1) + u * m.through)
    silu = handed_on(torch.nn.functional.silu, gate)
    gated = 0.5 * y * silu.detach() + 0.5 * y.detach() * silu
    return m.out(stabilised((x + m.leave(gated)).mean(dim=1)))


def reversible_norm(m: Any, x: Tensor) -> Tensor:
    mean = x.mean(dim=1, keepdim=True)
    deviation = torch.sqrt(x.var(dim=1, keepdim=True, unbiased=False) + 1e-5).detach()
    normal = stabilised(stabilised(x - mean) / deviation * m.scale + m.shift)
    h = torch.zeros(len(x), m.gru.hidden_size, dtype=x.dtype)
    g = m.gru
    for t in range(x.shape[1]):
        r, z, _ = (normal[:, t] @ g.weight_ih_l0.T + g.bias_ih_l0).chunk(3, dim=1)
        rh, zh, nh = (h @ g.weight_hh_l0.T + g.bias_hh_l0).chunk(3, dim=1)
        r, z = torch.sigmoid(r + rh).detach(), torch.sigmoid(z + zh).detach()
        new = (normal[:, t] @ g.weight_ih_l0.T + g.bias_ih_l0).chunk(3, dim=1)[2] + r * nh
        h = stabilised((1 - z) * handed_on(torch.tanh, stabilised(new)) + z * h)
    found = stabilised(m.out(h)) - m.shift
    return stabilised(stabilised(found) / (m.scale + 1e-10) * deviation[:, 0] + mean[:, 0])


REWRITTEN: dict[str, Rewritten] = {
    "minGRU": min_gru,
    "sLSTM": s_lstm,
    "Mamba block": mamba,
    "RevIN and GRU": reversible_norm,
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_relevance_is_that_of_the_rules(name: str) -> None:
    (given,) = (each for each in ARCHITECTURES if each.name == name)
    explainer = unchecked(given.captured, given.example, method="lrp_epsilon", epsilon=EPSILON)
    e = explainer(given.inputs, given.target)
    x = torch.from_numpy(given.inputs).double().requires_grad_()
    output = REWRITTEN[name](copy.deepcopy(given.module).double(), x)
    score = stabilised(output)[torch.arange(len(x)), torch.as_tensor(np.asarray(e.target))]
    (gradient,) = torch.autograd.grad(score.sum(), x)
    scale = np.abs(rows(output.detach())).max(axis=1, keepdims=True)
    assert_within(np.abs(rows(e.output) - rows(output.detach())), RELATIVE * scale, "output")
    error = np.abs(rows(e.relevance) - rows((gradient * x).detach()))
    size = np.maximum(1.0, np.asarray(e.amplification)) * np.abs(score.detach().numpy())
    assert_within(error, RELATIVE * size[:, None], "relevance")


def test_an_exponential_in_a_single_sum_makes_no_scan() -> None:
    """As in an affine coupling; else one factor of h · c(v) would count as a parameter."""

    class Coupled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.p = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            h = torch.tanh(self.b(u))
            return h * self.c(v) + h * torch.exp(self.a(u)) + self.p(h)

    x = torch.randn(2, 4), torch.randn(2, 4)
    with pytest.raises(pyrel.UnsupportedModelError, match="both or neither is a gate"):
        pyrel.Explainer(Coupled(), x, "lrp_epsilon")
