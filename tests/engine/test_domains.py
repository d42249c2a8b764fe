# SPDX-License-Identifier: Apache-2.0
"""Which rule an input feature gets, and who keeps relevance that no input gets."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from engine.cases import sample
from engine.checks import assert_deep_taylor
from reference import explain
from torch import Tensor, nn

import pyrel


class Mlp(nn.Module):
    """Two layers with biases of both signs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.hidden, self.out = nn.Linear(6, 9), nn.Linear(9, 3)
        with torch.no_grad():
            self.hidden.bias.uniform_(-0.5, 0.5)
            self.out.bias.copy_(torch.tensor([0.5, -0.5, 0.25]))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x)))

    def graph(self, x: ref.Node) -> ref.Node:
        weights = [p.detach().double().numpy() for p in self.parameters()]
        return ref.linear(ref.relu(ref.linear(x, *weights[:2])), *weights[2:])


def check(module: Any, x: np.ndarray, **domain: Any) -> Any:
    wanted = explain(module.graph(ref.input_node(x.shape[1:], **domain)), x)
    e = pyrel.Explainer(module, x[:2], method="deep_taylor", **domain)(x)
    assert_deep_taylor(e, wanted)
    return e


@pytest.mark.parametrize(
    "domain",
    [
        {"low": 0, "high": 1},
        {"low": -1.0, "high": 0.0},
        {"low": -2.0, "high": np.arange(6, dtype=np.float32)},
        {"low": -np.arange(6, dtype=np.float32), "high": np.full(6, 7, np.float32)},
        {"low": np.zeros(1, np.float32), "high": np.float32(3)},
        {"low": np.zeros(6, np.float32), "high": np.array([1, 0, 2, 0, 0.5, 0], np.float32)},
    ],
    ids=["unit", "negative", "high-per-feature", "both-per-feature", "broadcast", "constant-zeros"],
)
def test_bounds(domain: dict[str, Any]) -> None:
    e = check(Mlp().eval(), sample((6,), 40, **domain), **domain)
    assert (e.absorbed > 0).any()


def test_torch_bounds_are_those_of_numpy() -> None:
    module, high = Mlp().eval(), np.linspace(0.5, 2, 6, dtype=np.float32)
    x = sample((6,), 9, -1.0, high)
    one = pyrel.Explainer(module, x, method="deep_taylor", low=-1.0, high=high)(x)
    low, bound = torch.tensor(-1.0), torch.from_numpy(high)
    two = pyrel.Explainer(module, x, method="deep_taylor", low=low, high=bound)(x)
    np.testing.assert_array_equal(one.relevance, two.relevance)


def test_bounds_of_a_sequence_per_column() -> None:
    class Steps(Mlp):
        def forward(self, x: Tensor) -> Tensor:
            return self.out(torch.relu(self.hidden(x.flatten(1))))

        def graph(self, x: ref.Node) -> ref.Node:
            return super().graph(ref.reshape(x, 6))

    high = np.array([[0.5], [1.0], [2.0]], np.float32)
    check(Steps().eval(), sample((3, 2), 20, 0.0, high), low=0.0, high=high)


def test_values_on_bounds_that_float32_cannot_hold_are_inside() -> None:
    """float32(0.1) > 0.1 and float32(-0.1) < -0.1: still the bounds that were given."""
    module = Mlp().eval()
    x = np.tile(np.array([0.1, -0.1], np.float32), (2, 3))
    e = pyrel.Explainer(module, x, method="deep_taylor", low=-0.1, high=0.1)(x)
    assert (e.relevance >= 0).all()


@pytest.mark.parametrize("bounded", [True, False])
def test_bias_alone_absorbs(bounded: bool) -> None:
    """A zero input, or units without weights, leave everything to the positive biases."""
    module = Mlp().eval()
    with torch.no_grad():
        module.hidden.weight.zero_()
    x = sample((6,), 5)
    domain = {"low": 0.0, "high": 1.0} if bounded else {}
    e = check(module, x, **domain)
    assert (e.relevance == 0).all()
    # 9 hidden units and 3 outputs pass the start on, each rounding by at most a few eps.
    np.testing.assert_allclose(e.absorbed, np.maximum(e.output.max(1), 0), rtol=1e-5)


def test_no_relevance_where_the_output_is_not_positive() -> None:
    module = Mlp().eval()
    with torch.no_grad():
        module.out.bias.fill_(-100.0)
    x = sample((6,), 5)
    e = pyrel.Explainer(module, x, method="deep_taylor", low=0.0, high=1.0)(x)
    assert (e.relevance == 0).all()
    assert (e.absorbed == 0).all()
    assert (e.output < 0).all()


class Given(nn.Module):
    """A given initial state enters through a linear layer of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.initial = nn.Parameter(torch.rand(7))
        self.inward, self.recurrent = nn.Linear(5, 7), nn.Linear(7, 7, bias=False)
        self.out = nn.Linear(7, 2)
        with torch.no_grad():
            self.recurrent.weight.abs_()

    def forward(self, x: Tensor) -> Tensor:
        h = self.initial.expand(x.shape[0], 7)
        for t in range(3):
            h = torch.relu(self.inward(x[:, t]) + self.recurrent(h))
        return self.out(h)

    def graph(self, x: ref.Node) -> ref.Node:
        w = {name: p.detach().double().numpy() for name, p in self.named_parameters()}
        h: ref.Node = ref.constant(w["initial"])
        for t in range(3):
            inward = ref.linear(ref.take(x, t), w["inward.weight"], w["inward.bias"])
            h = ref.relu(ref.add(inward, ref.linear(h, w["recurrent.weight"])))
        return ref.linear(h, w["out.weight"], w["out.bias"])


def test_given_state_behind_its_own_layer_absorbs() -> None:
    """Parameter-only subgraphs fold, so U·h₀ is part of the bias of its one linear node."""
    e = check(Given().eval(), sample((3, 5), 30), low=0.0, high=1.0)
    assert (e.absorbed > 0).any()


class Branches(nn.Module):
    """A pre-activation's relevance must not be split by signed addends: 3a − 2b."""

    def forward(self, x: Tensor) -> Tensor:
        return self.plus(x[:, :1]) + self.minus(x[:, 1:])

    def __init__(self) -> None:
        super().__init__()
        self.plus, self.minus = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        with torch.no_grad():
            self.plus.weight.fill_(3.0)
            self.minus.weight.fill_(-2.0)


def test_sum_of_preactivations_is_one_node() -> None:
    x = np.array([[1.0, 1.0], [0.5, 0.0]], np.float32)
    e = pyrel.Explainer(Branches(), x, method="deep_taylor", low=0.0, high=1.0)(x)
    # z^β: a·3 against (b − 1)·(−2): b at its upper bound 1 gets nothing, b = 0 gets 2 of 3.5.
    np.testing.assert_allclose(
        e.relevance, [[1.0, 0.0], [1.5 * 1.5 / 3.5, 1.5 * 2 / 3.5]], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({"low": 0.5, "high": 1.0}, "low"),
        ({"low": -1.0, "high": -0.5}, "high"),
        ({"low": 1.0, "high": -1.0}, "low|high"),
        ({"low": np.array([0, 0, 0.1, 0, 0, 0]), "high": 1.0}, "low"),
        ({"low": 0.0, "high": np.ones(5)}, "high"),
        ({"low": np.zeros((2, 6)), "high": 1.0}, "low"),
        ({"low": float("nan"), "high": 1.0}, "low"),
        ({"low": 0.0, "high": "white"}, "high"),
        ({"low": 0.0, "high": 1j}, "high"),
    ],
)
def test_bad_bounds(domain: dict[str, Any], message: str) -> None:
    x = np.zeros((2, 6), np.float32)
    with pytest.raises((ValueError, TypeError), match=message):
        pyrel.Explainer(Mlp().eval(), x, method="deep_taylor", **domain)
