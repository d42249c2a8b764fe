# SPDX-License-Identifier: Apache-2.0
"""Sums with zeros, such as the first state of a cell: 0 and nearly 0 give one map."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from engine.checks import (
    RELATIVE,
    assert_conserved,
    assert_relevance,
    rows,
    target_score,
    unchecked,
)
from engine.operator_models import seeded
from engine.recurrent_models import Classifier, Variant
from engine.sequences import assert_same
from reference import explain
from torch import Tensor, nn
from torch.nn import functional

import pyrel
from pyrel.benchmark import gated
from pyrel.benchmark.peers.lstm_lrp import LstmLrp
from pyrel.compiler.lowering.lower import lower

STEPS, FEATURES, UNITS = 6, 4, 5
EPSILON = 1e-3
NEARLY = 1e-30


def inputs(count: int = 20, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(0, 0.4, (count, STEPS, FEATURES)).astype(np.float32)


def started(variant: Variant, first: float) -> Classifier:
    """A classifier whose given states all are one number."""
    module = seeded(lambda: Classifier(variant), 3)
    assert isinstance(module, Classifier)
    for state in module.states:
        state.fill_(first)
    return module


class ByHand(nn.Module):
    """A cell in a loop, from states that all are one number."""

    def __init__(self, kind: str, first: float) -> None:
        super().__init__()
        count = {"lstm": 4, "gru": 3}.get(kind, 1)
        self.x, self.h = nn.Linear(FEATURES, count * UNITS), nn.Linear(UNITS, count * UNITS)
        self.out, self.kind, self.first = nn.Linear(UNITS, 3), kind, first

    def forward(self, x: Tensor) -> Tensor:
        h = c = torch.full((x.shape[0], UNITS), self.first)
        for step in x.unbind(1):
            h, c = getattr(self, self.kind)(self.x(step), self.h(h), h, c)
        return self.out(h)

    def lstm(self, x: Tensor, u: Tensor, _: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (x + u).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c

    def gru(self, x: Tensor, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        (r, z, n), (s, v, m) = x.chunk(3, 1), u.chunk(3, 1)
        z = torch.sigmoid(z + v)
        return (1 - z) * torch.tanh(n + torch.sigmoid(r + s) * m) + z * h, c

    def leaky(self, x: Tensor, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return 0.3 * h + 0.7 * torch.tanh(x + u), c

    def minimal(self, x: Tensor, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """The candidate is a pre-activation, so the first sum is one that gates stand in."""
        z = torch.sigmoid(u)
        return (1 - z) * h + z * x, c

    def linear(self, x: Tensor, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """A state that was carried on, even of zeros, is no pre-activation."""
        return torch.sigmoid(u) * h + x, c

    def relu(self, x: Tensor, u: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return torch.relu(torch.sigmoid(u) * h + x), c


LAYERS: list[tuple[dict[str, Any], str]] = [
    ({}, "last"),
    ({"num_layers": 2}, "all"),
    ({"bidirectional": True}, "mean"),
    ({"bidirectional": True, "num_layers": 2}, "hidden"),
]
VARIANTS = [
    *(Variant(kind, *layers, given=True) for kind in ("LSTM", "GRU") for layers in LAYERS),
    Variant("LSTM", {"proj_size": 3, "num_layers": 2}, given=True),
    Variant("RNN", *LAYERS[-1], given=True),
]
MODELS: dict[str, Callable[[float], nn.Module]] = {
    **{variant.name: lambda first, v=variant: started(v, first) for variant in VARIANTS},  # type: ignore[misc]
    **{
        kind: lambda first, k=kind: seeded(lambda: ByHand(k, first), 3)  # type: ignore[misc]
        for kind in ("lstm", "gru", "leaky", "minimal", "linear", "relu")
    },
}
OPTIONS: dict[str, dict[str, Any]] = {
    "signal": {"method": "lrp_epsilon"},
    "half": {"method": "lrp_epsilon", "gates": "half"},
    "deep_taylor": {"method": "deep_taylor", "low": -3.0, "high": 3.0},
}
# Deep Taylor has no rule for states that may be any number and are read as such, as minimal's.
EXPLAINED = [
    *((name, "signal") for name in MODELS),
    *((name, "half") for name in list(MODELS)[::2]),
    *((name, "deep_taylor") for name in list(MODELS)[1::2] if name != "minimal"),
]


@functools.cache
def captured(name: str, first: float) -> Any:
    return pyrel.capture(MODELS[name](first), inputs(2))


@pytest.mark.parametrize(("name", "rule"), EXPLAINED)
def test_zero_and_nearly_zero_give_one_map(name: str, rule: str) -> None:
    x, options = inputs(), OPTIONS[rule] | {"epsilon": EPSILON}
    zero, nearly = (
        unchecked(captured(name, first), x[:2], **options)(x) for first in (0.0, NEARLY)
    )
    np.testing.assert_array_equal(zero.output, nearly.output)
    size = np.abs(nearly.relevance).max()
    assert size > 0
    np.testing.assert_allclose(zero.relevance, nearly.relevance, rtol=0, atol=RELATIVE * size)
    size = max(size, np.abs(nearly.absorbed).max())
    np.testing.assert_allclose(zero.absorbed, nearly.absorbed, rtol=0, atol=RELATIVE * size)
    np.testing.assert_allclose(zero.amplification, nearly.amplification, rtol=RELATIVE)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_states_that_are_not_given_are_zeros(kind: str) -> None:
    """Of all lengths, in batches of several, and of an explainer that was saved."""
    options = {"bidirectional": True, "num_layers": 2}
    given = started(Variant(kind, options, "mean", given=True), 0.0)
    model = seeded(lambda: Classifier(Variant(kind, options, "mean")), 3)
    x = inputs()
    of_given = unchecked(given, x, method="lrp_epsilon", epsilon=EPSILON)
    explainer = unchecked(model, x, method="lrp_epsilon", epsilon=EPSILON, lengths=True)
    assert_same(explainer(x), of_given(x))
    for steps in (1, 2, 9):
        longer = np.concatenate([x, x], axis=1)[:, :steps]
        assert_same(explainer(longer), of_given(longer))
    lengths = np.array([STEPS, 2, 1])[np.arange(len(x)) % 3]
    e = explainer(x, lengths=lengths)
    for number, length in enumerate(lengths):
        alone = of_given(x[number : number + 1, :length])
        np.testing.assert_array_equal(e.relevance[number, :length], alone.relevance[0])


def test_saved_programs(tmp_path: Path) -> None:
    x = inputs()
    explainer = unchecked(
        MODELS["LSTM-plain-last-given"](0.0), x, method="lrp_epsilon", epsilon=EPSILON
    )
    explainer.save(tmp_path / "program")
    assert_same(pyrel.Explainer.load(tmp_path / "program")(x), explainer(x))


@functools.cache
def two_layers(kind: str) -> tuple[Classifier, Any]:
    """Return a model of two layers both ways, from zeros, and its graph."""
    options = {"bidirectional": True, "num_layers": 2}
    module = started(Variant(kind, options, "mean", given=True), 0.0)
    return module, pyrel.capture(module, inputs(2))


@pytest.mark.parametrize(
    ("gates", "epsilon"), [("signal", 1e-6), ("signal", 1e-3), ("signal", 1.0), ("half", 1e-3)]
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_agrees_with_the_reference(kind: str, gates: str, epsilon: float) -> None:
    (module, captured_graph), x = two_layers(kind), inputs(10)
    graph = Classifier.graph(module, ref.input_node(x.shape[1:]))
    expected = explain(graph, x, "lrp_epsilon", gates=gates, epsilon=epsilon)
    e = unchecked(captured_graph, x, method="lrp_epsilon", gates=gates, epsilon=epsilon)(
        x, target=expected.target
    )
    assert_relevance(e, expected, "lrp_epsilon")


@pytest.mark.parametrize("kind", [gated.LSTM, gated.GRU])
def test_agrees_with_the_published_code(kind: type[gated.LSTM]) -> None:
    """Written anew in float64 (`LstmLrp`), with ε = 1e-3 as there."""
    cell = kind(STEPS, (FEATURES,), classes=3, sizes=(UNITS, UNITS))
    cell = seeded(lambda: cell, 3)  # type: ignore[assignment]
    x = inputs()
    state = {name: value.numpy() for name, value in cell.state_dict().items()}
    wanted = rows(LstmLrp(cell.config(), state, EPSILON)(x))
    e = unchecked(cell, x, method="lrp_epsilon", epsilon=EPSILON)(x)
    size = e.amplification * np.abs(target_score(e))
    assert (np.abs(rows(e.relevance) - wanted).max(axis=1) <= RELATIVE * size).all()


# What is such a sum, and what is none


class Plus(nn.Module):
    """tanh(W x), ReLU or a gated value, with zeros added to it by ``plus``, and a linear layer."""

    def __init__(self, kind: str, plus: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.w, self.gate, self.out = (nn.Linear(FEATURES, FEATURES) for _ in range(3))
        self.kind, self.plus = kind, plus

    def forward(self, x: Tensor) -> Tensor:
        h = self.w(x[:, 0])
        if self.kind != "linear":
            h = torch.relu(h) if self.kind == "relu" else torch.tanh(h)
        if self.kind == "gated":
            h = torch.sigmoid(self.gate(x[:, 0])) * h
        return self.out(self.plus(h))


WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda h: h,
    "number": lambda h: h + 0.0,
    "tensor": lambda h: torch.zeros(FEATURES) + h,
    "difference": lambda h: h - torch.zeros_like(h),
    "multiple": lambda h: h + 0.0 * torch.tanh(h),
    "stacked": lambda h: torch.stack([h, torch.zeros_like(h)]).sum(0),
    "padded": lambda h: functional.pad(h[:, None], (0, 0, 1, 1)).sum(1),
}


SUMS = [way for way in WAYS if way != "none"]


@functools.cache
def plus(kind: str, way: str) -> tuple[Any, Any]:
    """Return a model and its graph."""
    model = seeded(lambda: Plus(kind, WAYS[way]), 3)
    return model, pyrel.capture(model, inputs(2))


@functools.cache
def explained(kind: str, way: str, method: str, **options: Any) -> Any:
    if method in ("lrp_epsilon", "deep_taylor"):
        options["epsilon"] = 0.1
    explainer = unchecked(plus(kind, way)[1], inputs(2), method=method, **options)
    return explainer(inputs(), target=1)


@pytest.mark.parametrize("way", SUMS)
@pytest.mark.parametrize("kind", ["tanh", "gated"])
def test_zeros_make_a_sum_of_what_may_be_negative(kind: str, way: str) -> None:
    """By hand: of R of the unit h the share h / (h + ε sign h) goes on, ε's is absorbed."""
    e = explained(kind, way, "lrp_epsilon")
    model = copy.deepcopy(plus(kind, way)[0]).double()
    with torch.no_grad():
        x = torch.from_numpy(inputs()[:, 0]).double()
        z, score = model.w(x), model(torch.from_numpy(inputs()).double())[:, 1:2]
        h = torch.tanh(z) * (torch.sigmoid(model.gate(x)) if kind == "gated" else 1)
        r = h * model.out.weight[1] * score / (score + 0.1 * torch.sign(score))
        r = r * h / (h + 0.1 * torch.sign(h))
        wanted = x * ((r / (z + 0.1 * torch.sign(z))) @ model.w.weight)
    found = np.asarray(e.relevance)[:, 0]
    size = e.amplification[:, None] * np.abs(score.numpy())
    assert (np.abs(found - wanted.numpy()) <= RELATIVE * size).all()
    assert (np.asarray(e.relevance)[:, 1:] == 0).all()
    assert_conserved(e, target_score(e))
    whole = explained(kind, "none", "lrp_epsilon")
    assert np.abs(e.relevance - whole.relevance).max() > 0.01 * np.abs(e.relevance).max()


@pytest.mark.parametrize("way", SUMS)
@pytest.mark.parametrize("kind", ["linear", "relu"])
@pytest.mark.parametrize("method", ["gradient", "deep_taylor", "lrp_epsilon", "lrp_alpha_beta"])
def test_zeros_beside_pre_activations_and_relus_are_nothing(
    kind: str, way: str, method: str
) -> None:
    with_zeros, without = (
        explained(kind, which, method, low=-9.0, high=9.0) for which in (way, "none")
    )
    assert_same(with_zeros, without)


@pytest.mark.parametrize("way", SUMS)
@pytest.mark.parametrize("kind", ["tanh", "gated"])
@pytest.mark.parametrize("method", ["gradient", "guided_backprop", "gradient_x_input"])
def test_gradients_have_no_work_for_them(kind: str, way: str, method: str) -> None:
    programs = []
    for which in (way, "none"):
        _, graph = plus(kind, which)
        bounds = np.full(graph.input_size, np.inf)
        programs.append(lower(graph, pyrel.methods.get(method), -bounds, bounds))
    one, other = ([repr(i) for i in program.every_instruction()] for program in programs)
    assert one == other
