# SPDX-License-Identifier: Apache-2.0
"""Gradients where a function has none: torch's choice at exact ties and kinks, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import (
    RELATIVE,
    assert_conserved,
    assert_within,
    norms,
    rows,
    target_score,
    unchecked,
    unchecked_at,
)
from torch import Tensor, nn
from torch.nn import functional

import pyrel
from pyrel.compiler.graph.nodes import Graph

SHAPE = (6, 4)
Function = Callable[[Tensor], Tensor]

FUNCTIONS: dict[str, Function] = {
    "relu": torch.relu,
    "clamp": lambda h: h.clamp(min=0),
    "clamp_min": lambda h: torch.clamp_min(h, 0),
    "clamp of a clamp": lambda h: (h.clamp(min=0) - 1).clamp(min=0),
    "relu of a clamp": lambda h: torch.relu(h.clamp(min=0)),
    "maximum with 0": lambda h: torch.maximum(h, torch.zeros(())),
    "maximum": lambda h: torch.maximum(h[:, :3], h[:, 3:]),
    "maximum with itself": lambda h: torch.maximum(h, h),
    "max of two": lambda h: torch.max(h[:, :2], h[:, 2:4]),
    "amax": lambda h: h.amax(1),
    "amax of the last": lambda h: h.amax(2),
    "amax of many": lambda h: torch.cat([h, h, h.flip(1)], 1).amax(1),
    "amax of clamps": lambda h: h.clamp(min=0).amax(1),
    "amax of relus": lambda h: torch.relu(h).amax(1),
    "amax of maxima": lambda h: h.unflatten(1, (2, 3)).amax(2).amax(1),
    "amax with a constant": lambda h: h.masked_fill(torch.arange(4) > 1, -1.0).amax(2),
    "max over steps": lambda h: h.max(1)[0],
    "max with constants": lambda h: h.masked_fill(torch.arange(4) > 1, -1.0).max(2)[0],
    "max of copies": lambda h: torch.cat([h, h, h[:, :1]], 1).max(1)[0],
    "max_pool1d": lambda h: functional.max_pool1d(h.mT, 3, 1, 1),
    "max_pool2d": lambda h: functional.max_pool2d(h[:, None], 3, 2, 1),
    "adaptive_max_pool1d": lambda h: functional.adaptive_max_pool1d(h.mT, 4)[:, :2],
    "relu of max_pool1d": lambda h: torch.relu(functional.max_pool1d(h.mT, 2)),
    "leaky_relu": functional.leaky_relu,
    "elu": lambda h: functional.elu(h, 3.0),
    "selu": functional.selu,
    "celu": lambda h: functional.celu(h, 2.0),
    "gelu": functional.gelu,
    "silu": functional.silu,
    "softplus": lambda h: functional.softplus(30 * h),
    "where": lambda h: torch.where(torch.arange(4) > 1, h, torch.relu(h)),
    "float64": lambda h: torch.relu(h.double()).to(h.dtype),
}


class Together(nn.Module):
    """An output for each function of the same whole numbers: many are 0, many are equal."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.first = nn.Linear(4, 4, bias=False)
        with torch.no_grad():
            self.first.weight.copy_(torch.eye(4).flip(0))
        self.weight = nn.Parameter(torch.randn(24))

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x)
        each = [function(h).flatten(1) for function in FUNCTIONS.values()]
        return torch.stack([value @ self.weight[: value.shape[1]] for value in each], 1)


@pytest.fixture(scope="module")
def graph() -> Graph:
    return pyrel.capture(Together(), whole_numbers()[:1])


def whole_numbers() -> Any:
    return np.random.default_rng(4).integers(-2, 3, (40, *SHAPE)).astype(np.float32)


def gradient(function: Function, x: Any) -> Any:
    leaf = torch.from_numpy(x).double().requires_grad_()
    module = Together().double()
    value = function(module.first(leaf)).flatten(1)
    (value @ module.weight[: value.shape[1]]).sum().backward()
    assert leaf.grad is not None
    return leaf.grad.numpy()


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input"])
def test_ties_and_kinks_are_torchs(graph: Graph, method: str) -> None:
    x = whole_numbers()
    explainer = unchecked(graph, method=method)
    for target, (name, function) in enumerate(FUNCTIONS.items()):
        expected = gradient(function, x) * (x if method == "gradient_x_input" else 1)
        error = norms(rows(explainer(x, target=target).relevance) - rows(expected))
        assert_within(error, RELATIVE * norms(expected), name)


@pytest.mark.parametrize("name", ["maximum with itself", "max with constants", "max of copies"])
def test_a_value_may_come_twice_in_a_window(graph: Graph, name: str) -> None:
    e = unchecked(graph, method="lrp_epsilon")(whole_numbers(), target=list(FUNCTIONS).index(name))
    assert_conserved(e, target_score(e))


def test_the_largest_of_many_steps_is_shared_at_any_number_of_them(tmp_path: Any) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(1)
            self.first, self.out = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.first(x).amax(1))

    rng = np.random.default_rng(0)
    explainer = unchecked(Model(), whole_numbers()[:1], method="gradient")
    explainer.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    for steps in (1, 2, 9, 30):
        x = rng.integers(0, 2, (6, steps, 4)).astype(np.float32)  # equal steps
        e = explainer(x)
        leaf = torch.from_numpy(x).double().requires_grad_()
        Model().double()(leaf).gather(1, torch.as_tensor(e.target)[:, None]).sum().backward()
        assert leaf.grad is not None
        error = norms(rows(e.relevance) - rows(leaf.grad))
        assert_within(error, RELATIVE * norms(leaf.grad), str(steps))
        np.testing.assert_array_equal(loaded(x).relevance, e.relevance)


@pytest.mark.parametrize(
    "function",
    [torch.round, torch.floor, torch.sign, torch.abs, functional.relu6, functional.hardtanh,
     lambda h: functional.threshold(h, 0.5, 0.0), torch.nan_to_num, lambda h: h.int().to(h.dtype),
     lambda h: h.clamp(-1, 1), lambda h: h.clamp(max=0), lambda h: (h > 0).to(h.dtype) * h,
     lambda h: h % 2, lambda h: h.half().to(h.dtype)],
)  # fmt: skip
def test_others_are_torchs_too_or_refused(function: Function) -> None:
    class Model(Together):
        def forward(self, x: Tensor) -> Tensor:
            value = function(self.first(x)).flatten(1)
            return (value @ self.weight[: value.shape[1]])[:, None]

    x = whole_numbers()
    try:
        e = unchecked_at(Model(), x[:1], method="gradient")(x)
    except pyrel.UnsupportedModelError:
        return
    expected = gradient(function, x)
    assert_within(norms(rows(e.relevance) - rows(expected)), RELATIVE * norms(expected), "gradient")
