# SPDX-License-Identifier: Apache-2.0
"""A value minus itself, detached, is exactly 0, where a ReLU hands on no gradient."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import pyrel
from pyrel.compiler.graph.nodes import Add, Linear
from pyrel.compiler.passes.gradient_stops import prepared

Forward = Callable[[Any, Tensor], Tensor]


def deep(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x))
    return torch.relu(m.second(h) - m.second(h.detach()))


def of_steps(m: Any, x: Tensor) -> Tensor:
    h = m.first(torch.stack([x, 2 * x], 1))
    return torch.relu(h - h.detach()).sum(1)


def under_no_grad(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        before = m.first(x)
    return torch.relu(m.first(x) - before)


FORWARDS: dict[str, Forward] = {
    "the same value": lambda m, x: torch.relu(m.first(x) - m.first(x).detach()),
    "the other sign": lambda m, x: torch.relu(m.first(x).detach() - m.first(x)),
    "scaled": lambda m, x: torch.relu(0.5 * m.first(x) - 0.5 * m.first(x).detach()),
    "clamped": lambda m, x: (m.first(x) - m.first(x).detach()).clamp(min=0),
    "leaky": lambda m, x: functional.leaky_relu(m.first(x) - m.first(x).detach(), 0.1),
    "convolved": lambda m, x: torch.relu(m.conv(x[:, None]) - m.conv(x[:, None].detach())).mean(1),
    "deep": deep,
    "of steps": of_steps,
    "under no_grad": under_no_grad,
    "another layer": lambda m, x: torch.relu(m.first(x) - m.other(x).detach()),
}


class Model(nn.Module):
    """An output for each forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.other, self.second = nn.Linear(7, 7), nn.Linear(7, 7), nn.Linear(7, 7)
        self.conv, self.out = nn.Conv1d(1, 3, 3, padding=1), nn.Linear(7, 1)

    def forward(self, x: Tensor) -> Tensor:
        each = [self.out(forward(self, x)) for forward in FORWARDS.values()]
        return torch.cat(each, 1) + 1e-3 * x.sum(1, keepdim=True)


@functools.cache
def explained() -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    model, x = Model().eval(), torch.randn(9, 7)
    graph = pyrel.capture(model, x)
    explainer = pyrel.Explainer(graph, None, "gradient", check=None)
    return model, x, (graph, explainer)


@pytest.mark.parametrize("name", FORWARDS)
def test_gradients_are_those_of_autograd(name: str) -> None:
    model, x, (_, explainer) = explained()
    number = list(FORWARDS).index(name)
    leaf = x.clone().requires_grad_()
    model(leaf)[:, number].sum().backward()
    e = explainer(x, target=number)
    np.testing.assert_allclose(e.relevance, leaf.grad, rtol=1e-5, atol=1e-6)


def test_other_sums_are_merged_still() -> None:
    _, _, (graph, _) = explained()
    made = prepared(graph, pyrel.methods.get("gradient")).nodes
    assert any(isinstance(node, Linear) and node.weight.shape == (7, 14) for node in made)
    conserving = prepared(graph, pyrel.methods.get("lrp_epsilon")).nodes
    left = [sum(isinstance(node, Add) for node in nodes) for nodes in (made, conserving)]
    assert left[0] - left[1] >= len(FORWARDS) - 2
