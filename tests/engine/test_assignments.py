# SPDX-License-Identifier: Apache-2.0
"""Assignments of a composite: each puts its rule somewhere, or is refused; merged nodes."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from engine.checks import unchecked
from torch import Tensor, nn

from pyrel.methods import (
    Assign,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    Proportional,
    Signal,
    Winner,
)


class Tower(nn.Module):
    """An embedding, a convolution with batch normalisation, a pool, an LSTM and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.emb = nn.Embedding(9, 4)
        self.conv, self.bn = nn.Conv1d(4, 5, 3, padding=1), nn.BatchNorm1d(5)
        self.pool = nn.AvgPool1d(2)
        self.lstm, self.fc = nn.LSTM(5, 4, batch_first=True), nn.Linear(4, 3)
        nn.init.uniform_(self.bn.weight, 0.5, 1.5)
        nn.init.uniform_(self.bn.running_mean, -0.5, 0.5)  # type: ignore[arg-type]

    def forward(self, ids: Tensor) -> Tensor:
        maps = torch.relu(self.bn(self.conv(self.emb(ids).transpose(1, 2))))
        states: Tensor = self.lstm(self.pool(maps).transpose(1, 2))[0]
        return self.fc(states[:, -1])  # type: ignore[no-any-return]


class Summed(nn.Module):
    """Two layers added up before the ReLU, as in a recurrent cell."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.c(torch.relu(self.a(x[:, :3]) + self.b(x[:, 3:])))
        return scores


torch.manual_seed(0)
TOWER, SUMMED = Tower().eval(), Summed().eval()
IDS, X = torch.randint(0, 9, (3, 8)), torch.randn(3, 5)


def relevance(model: nn.Module, x: Tensor, *assignments: Assign) -> Tensor:
    found: Tensor = unchecked(model, x, method=Composite(assignments))(x).relevance
    return found


def test_a_batch_normalisation_leaves_the_layer_its_name() -> None:
    by_name = relevance(TOWER, IDS, Assign(Flat(), module="conv"))
    assert torch.equal(by_name, relevance(TOWER, IDS, Assign(Flat(), kind="convolution")))
    assert torch.equal(by_name, relevance(TOWER, IDS, Assign(Flat(), module="bn")))
    assert not torch.equal(by_name, relevance(TOWER, IDS))
    shown = str(unchecked(TOWER, IDS, method=Composite([Assign(Flat(), module="conv")])))
    assert re.search(r"convolution +conv +Flat\(\)", shown)
    assert re.search(r", instruction set \w+[,)]", shown)  # a set of bf16 is no precision


def test_any_of_the_layers_of_a_sum_names_it() -> None:
    found = [relevance(SUMMED, X, Assign(Flat(), module=name)) for name in ("a", "b", "")]
    assert all(torch.equal(each, found[0]) for each in found)
    assert not torch.equal(found[0], relevance(SUMMED, X))


def test_any_of_the_layers_of_a_gated_sum_names_it() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.own, self.rest, self.gate = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.tanh(self.own(x) + torch.sigmoid(self.gate(x)) * self.rest(x))

    model, x = Cell().eval(), torch.randn(3, 3)
    found = [relevance(model, x, Assign(Flat(), module=name)) for name in ("own", "rest")]
    assert torch.equal(*found)
    assert not torch.equal(found[0], relevance(model, x))
    with pytest.raises(ValueError, match="module='gate'.*matches none"):
        relevance(model, x, Assign(Flat(), module="gate"))  # a gate gets no relevance


NOWHERE: dict[str, tuple[list[Assign], str]] = {
    "only moves": ([Assign(Flat(), module="emb")], "Assign(Flat(), module='emb') fits no node"),
    "a pool": ([Assign(Flat(), module="pool")], "sum of 'pool'"),
    "no such kind": ([Assign(Winner(), kind="max_pool")], "(kind 'max_pool')"),
    "too deep": ([Assign(Flat(), from_input=7)], "dense of 'fc' (from_input=2, from_output=0)"),
    "of another kind": (
        [Assign(Flat(), kind="convolution", module="lstm")],
        "Assign(Flat(), kind='convolution', module='lstm') fits no node (kind 'convolution')",
    ),
    "after one for all": (
        [Assign(Epsilon()), Assign(Flat(), module="fc")],
        "Assign(Flat(), module='fc') is never used: Assign(Epsilon(epsilon=1e-06)) stands before",
    ),
    "two for all": (
        [Assign(Epsilon()), Assign(Flat())],
        "Assign(Flat()) is never used",
    ),
    "twice": (
        [Assign(Flat(), module="fc"), Assign(Flat(), module="fc")],
        "Assign(Flat(), module='fc') is never used",
    ),
}


@pytest.mark.parametrize("case", NOWHERE)
def test_an_assignment_that_puts_its_rule_nowhere_is_refused(case: str) -> None:
    assignments, message = NOWHERE[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        relevance(TOWER, IDS, *assignments)


def test_a_default_may_be_left_nothing() -> None:
    rules = [Assign(Flat(), kind="convolution"), Assign(Gamma(), kind="dense")]
    assert torch.equal(
        relevance(TOWER, IDS, *rules, Assign(Epsilon(1e-3))), relevance(TOWER, IDS, *rules)
    )


@pytest.mark.parametrize("preset", ["epsilon_plus", "epsilon_alpha2_beta1", "epsilon_gamma_box"])
def test_presets_take_models_without_convolutions(preset: str) -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).eval(), torch.rand(2, 4)
    options: Any = {"low": 0.0, "high": 1.0} if preset == "epsilon_gamma_box" else {}
    found = unchecked(model, x, method=preset, **options)(x).relevance
    assert torch.equal(found, unchecked(model, x, method="lrp_epsilon")(x).relevance)


def test_a_number_of_steps_without_the_node_is_explained_all_the_same() -> None:
    """With one step a sum of the states before and the new one is the new one alone."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.lstm(x)[0].mean(1)  # type: ignore[no-any-return]

    model = Mean().eval()
    method = Composite([Assign(Proportional(1e-3), kind="sum", module="")])
    explainer = unchecked(model, torch.randn(2, 5, 3), method=method)
    assert explainer(torch.randn(2, 1, 3)).relevance.isfinite().all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Assign(Epsilon(), kind="product"),
            "wanted a rule of the class ProductRule for the product node",
        ),
        (lambda: Assign(Flat(), kind="activation"), "for the activation node, got Flat()"),
        (lambda: Assign(Signal(), kind="sum"), "Assign(Signal(), kind='sum'): wanted"),
        (lambda: Assign(Gamma(), kind="max_pool"), "wanted a rule of the class PoolingRule"),
        (
            lambda: Assign(Pass(), module="fc"),
            "wanted a rule of the class LinearRule for the dense node",
        ),
        (lambda: Assign(Flat(), kind="copy"), "wanted a rule of the class Pass for the copy node"),
        (lambda: Assign(Flat(), module=["lstm", "fc"]), "module: wanted one pattern"),  # type: ignore[arg-type]
        (lambda: Composite(Assign(Flat())), "assignments: wanted a list of Assign, got Assign("),  # type: ignore[arg-type]
        (lambda: Composite({"conv": Flat()}), "assignments: wanted a list of Assign, got {'conv'"),  # type: ignore[arg-type]
    ],
)
def test_what_is_of_the_wrong_type(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        make()
