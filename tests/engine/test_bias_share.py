# SPDX-License-Identifier: Apache-2.0
"""``bias="share"``: what biases, constants and stabilisers would absorb goes to the inputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import (
    RELATIVE,
    assert_relevance,
    rows,
    target_score,
    unchecked,
    unchecked_at,
)
from engine.linear_rules import EXHIBITS, RULES, compiled, expected
from engine.operator_models import seeded
from reference import explain
from torch import Tensor, nn

import pyrel
from pyrel.benchmark.layers import softplus_bias
from pyrel.benchmark.peers.lstm_lrp import LstmLrp

EPSILON = 1e-3


def assert_all_shared(e: Any, amplified: float = 1.0) -> None:
    """ΣR is what was put in, and nothing is absorbed."""
    start, relevance = target_score(e), rows(e.relevance)
    allowed = amplified * RELATIVE * np.maximum(np.abs(start), np.abs(relevance).sum(axis=1))
    assert (np.abs(relevance.sum(axis=1) - start) <= allowed).all()
    assert (np.abs(e.absorbed) <= allowed).all()


SMALL = (
    *("conv2d-padded", "conv2d-groups", "max-pool", "average-pool", "sigmoid", "TokenBag"),
    *("GatedSum", "RNN-plain-last"),
)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *((name, rule) for name in SMALL for rule in ("epsilon", "alpha-beta-textbook", "flat")),
        *((name, rule) for name in SMALL[::3] for rule in ("alpha-beta", "gamma")),
        *((name, "epsilon") for name in ("GRU-plain-last", "ConvDeepPlus-T4-3-5-9-7")),
    ],
)
def test_agrees_with_the_reference_and_keeps_all(name: str, rule: str) -> None:
    wanted = expected(name, rule, bias="share")
    e = compiled(name, rule, bias="share")(EXHIBITS[name].inputs, target=wanted.target)
    assert_relevance(e, wanted, "lrp_epsilon")
    assert_all_shared(e)


@pytest.mark.parametrize("name", ["GatedSum", "GRUCellLoop"])
def test_gates_that_get_half(name: str) -> None:
    """Sigmoids absorb what their constant ½ has: the rest agrees, and is counted."""
    wanted = expected(name, "epsilon", bias="share", gates="half")
    explainer = compiled(name, "epsilon", bias="share", gates="half")
    assert_relevance(explainer(EXHIBITS[name].inputs, target=wanted.target), wanted, "lrp_epsilon")


@pytest.mark.parametrize(("cell", "layers"), [("LSTM", 2), ("GRU", 1)])
def test_every_step_of_a_recurrence_keeps_all(cell: str, layers: int) -> None:
    torch.manual_seed(2)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core = getattr(nn, cell)(3, 9, num_layers=layers, batch_first=True)
            self.out = nn.Linear(9, 2)

        def forward(self, x: Tensor) -> Tensor:
            steps: Tensor = self.core(x)[0]
            return self.out(steps[:, -1])

    x = np.random.default_rng(0).normal(size=(20, 5, 3)).astype(np.float32)
    e = unchecked_at(Last().eval(), x, method="lrp_epsilon", bias="share", epsilon=EPSILON)(x)
    assert_all_shared(e, 4.0)


def test_deep_taylor() -> None:
    """Positive biases give their share to pixels, too; what pools of zeros get stays absorbed."""
    for name in ("conv2d-padded", "average-pool", "batch-norm-of-activations"):
        exhibit = EXHIBITS[name]
        wanted = explain(exhibit.graph, exhibit.inputs, "deep_taylor", bias="share")
        e = exhibit.compiled("deep_taylor", bias="share")(exhibit.inputs, target=wanted.target)
        assert_relevance(e, wanted, "deep_taylor")
        relevance = rows(e.relevance)
        assert (relevance >= 0).all()
        np.testing.assert_allclose(
            relevance.sum(axis=1), np.maximum(target_score(e), 0), rtol=1e-4, atol=1e-5
        )


def test_equal_parts() -> None:
    """By hand: z = 6 + 2 of two inputs, and a bias of 2 of which each gets 1 / 8 of z."""
    model = nn.Linear(2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[3.0, 0.0]]))
        model.bias.fill_(2.0)
    x = np.array([[2.0, 5.0]], np.float32)
    e = pyrel.Explainer(model, x, method="lrp_epsilon", bias="share", epsilon=1e-20)(x)
    np.testing.assert_allclose(e.relevance, [[7.0, 1.0]], rtol=1e-6)
    assert e.absorbed == 0


class Beside(nn.Module):
    """A unit that reads padding alone, beside others; and constants."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.out = nn.Conv1d(1, 2, 2, padding=2), nn.Linear(14, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.window(x)).flatten(1))


def test_what_stays_absorbed() -> None:
    """Units that read padding alone have nobody to give their bias to."""
    model = seeded(Beside, 0)
    with torch.no_grad():
        model.window.bias.fill_(0.7)
    x = np.random.default_rng(1).normal(size=(5, 1, 4)).astype(np.float32)
    e = unchecked(model, x, method="lrp_epsilon", bias="share")(x, target=0)
    weight, bias = (p.detach().numpy() for p in model.out.parameters())
    alone = 0.7 * weight[0].reshape(2, 7)[:, [0, 6]].sum()
    assert abs(alone) > 0.1
    # They have their own share of the output, and their part of its bias.
    np.testing.assert_allclose(e.absorbed, alone + 4 * bias[0] / 14, rtol=1e-3)


def test_given_first_states_absorb_what_sums_give_them() -> None:
    name = "LSTM-proj_size=2-bidirectional=True-last-given"
    wanted = expected(name, "epsilon", bias="share")
    e = compiled(name, "epsilon", bias="share")(EXHIBITS[name].inputs, target=wanted.target)
    assert_relevance(e, wanted, "lrp_epsilon")
    assert (np.abs(e.absorbed) > 1e-3 * np.abs(target_score(e))).mean() > 0.5


@pytest.mark.parametrize("rule", list(RULES))
def test_the_same_bits_in_any_batch(rule: str) -> None:
    name = "GatedSum"
    explainer, x = compiled(name, rule, bias="share"), EXHIBITS[name].inputs
    together = rows(explainer(x).relevance)
    np.testing.assert_array_equal(rows(explainer(x[5:6]).relevance), together[5:6])


def test_the_published_code() -> None:
    """Its bias factor of 1 shares alike, but counts states of zeros: so the first step is apart.

    With a single step it gives half of all to the first state; ours gives the input all of it.
    """
    torch.manual_seed(0)
    units, features, steps = 6, 6, 4
    core = nn.LSTM(features, units, batch_first=True)
    with torch.no_grad():  # no bias but that of the output: then the first step shares ε only
        core.bias_ih_l0.zero_(), core.bias_hh_l0.zero_()
    readout = nn.Linear(units, 2)

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.core, self.out = core, readout

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.core(x)[0][:, -1])

    raw = np.array([0.3, -0.2], np.float32)
    with torch.no_grad():
        readout.bias.copy_(torch.from_numpy(np.asarray(softplus_bias(raw), np.float32)))
    state = {f"layers.{name}": p.detach().numpy() for name, p in core.named_parameters()}
    state |= {"output.weight": readout.weight.detach().numpy(), "output.bias": raw}
    config = {"steps": steps, "cell": "LSTM", "sizes": [units]}
    x = np.random.default_rng(4).normal(size=(8, steps, features)).astype(np.float32)
    theirs = LstmLrp(config, state, 1e-9, bias_factor=1.0)(x)
    explainer = unchecked_at(Last().eval(), x, method="lrp_epsilon", bias="share", epsilon=1e-9)
    e = explainer(x)
    bound = 1e-4 * np.abs(rows(theirs)).sum(axis=1)
    assert (np.abs(rows(e.relevance - theirs)) <= bound[:, None]).all()
