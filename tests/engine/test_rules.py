# SPDX-License-Identifier: Apache-2.0
"""αβ, γ, flat, z⁺, w² and z^β at linear nodes of every kind, against the reference."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from engine.checks import assert_conserved, assert_relevance, rows, target_score, unchecked
from engine.layer_graphs import layer_graph
from engine.linear_rules import EXHIBITS, RULES, compiled, expected, made
from engine.operator_models import chain, seeded
from reference import explain
from reference_rules import ReferenceRule
from torch import Tensor, nn

import pyrel
from pyrel.methods import AlphaBeta, Assign, Composite, Flat, Gamma, WSquared, ZBeta

NEW = [name for name in RULES if name != "epsilon"]
every_rule = pytest.mark.parametrize("rule", NEW)


SMALL = (
    *("conv2d-padded", "conv2d-groups", "max-pool", "average-pool", "sigmoid"),
    *("TokenBag", "GatedSum", "GRUCellLoop"),
)
LARGE = (
    *("LSTM-bidirectional=True-num_layers=2-mean-given", "ConvDeepPlus-T4-3-5-9-7"),
    *("RLSTM-T5-17-9", "layer-norm"),
)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        *((name, rule) for name in SMALL for rule in NEW if rule != "alpha-beta-3"),
        *((name, rule) for name in LARGE for rule in ("alpha-beta", "gamma", "w-squared")),
    ],
)
def test_agrees_with_the_reference(name: str, rule: str) -> None:
    wanted = expected(name, rule)
    e = compiled(name, rule)(EXHIBITS[name].inputs, target=wanted.target)
    left_out = assert_relevance(e, wanted, "lrp_epsilon")
    assert left_out <= 0.05 * len(wanted.target)
    assert np.abs(wanted.relevance).max() > 1e-3


@pytest.mark.parametrize("rule", ["alpha-beta", "gamma", "flat", "w-squared"])
@pytest.mark.parametrize("name", ["GatedSum", "GRUCellLoop", "LSTM-plain-last"])
def test_half_of_the_relevance_to_gates(name: str, rule: str) -> None:
    """A gate gets half of what the weights that it multiplies would."""
    wanted = expected(name, rule, gates="half")
    e = compiled(name, rule, gates="half")(EXHIBITS[name].inputs, target=wanted.target)
    assert_relevance(e, wanted, "lrp_epsilon")


@every_rule
@pytest.mark.parametrize("name", ["max-pool", "GRUCellLoop"])
def test_the_same_bits_in_any_batch_and_on_any_number_of_threads(name: str, rule: str) -> None:
    explainer, x = compiled(name, rule), EXHIBITS[name].inputs
    together = rows(explainer(x).relevance)
    for first, stop in ((0, 1), (39, 40), (3, 16)):
        part = rows(explainer(x[first:stop]).relevance)
        np.testing.assert_array_equal(part, together[first:stop])
    try:
        pyrel.set_num_threads(3)
        np.testing.assert_array_equal(rows(explainer(x).relevance), together)
    finally:
        pyrel.set_num_threads(1)


# Where a composite puts rules that depend on what is known of the inputs


@pytest.mark.parametrize("name", ["conv2d-padded", "average-pool", "max-pool", "conv1d"])
def test_box_rule_of_a_first_layer(name: str) -> None:
    exhibit = EXHIBITS[name]
    linear = [node for node in ref.reachable(exhibit.graph) if isinstance(node, ref.Affine)]
    others = [Assign(Gamma(0.5), kind="convolution")] if len(linear) > 2 else []
    method = Composite([Assign(ZBeta(), from_input=0), *others])
    given = {linear[0].serial: ReferenceRule("z_beta"), linear[-1].serial: ReferenceRule("epsilon")}
    gamma = ReferenceRule("gamma", gamma=0.5)
    wanted = explain(
        exhibit.graph,
        exhibit.inputs,
        "lrp_epsilon",
        rule=lambda node: given.get(node.serial, gamma),
    )
    e = exhibit.compiled(method)(exhibit.inputs, target=wanted.target)
    assert_relevance(e, wanted, "lrp_epsilon")


def test_box_rule_at_any_layer_whose_inputs_are_bounded() -> None:
    """Sigmoid and tanh units, and ReLUs; relevance is of both signs, as is the output."""
    for name in ("sigmoid", "tanh", "GatedUnits"):
        exhibit = EXHIBITS[name]
        wanted = explain(exhibit.graph, exhibit.inputs, "lrp_epsilon", rule=ReferenceRule("z_beta"))
        e = exhibit.compiled(Composite([Assign(ZBeta())]))(exhibit.inputs, target=wanted.target)
        assert_relevance(e, wanted, "lrp_epsilon")


def test_box_rule_without_a_box() -> None:
    model, x = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)), torch.zeros(2, 4)
    with pytest.raises(pyrel.UnsupportedModelError, match="give low= and high="):
        pyrel.Explainer(model, x, method=Composite([Assign(ZBeta())]))


# Units and values at the edges


def dense(*widths: int, bias: bool = True) -> nn.Sequential:
    """Return dense layers with ReLUs between them."""
    layers: list[nn.Module] = []
    for before, after in zip(widths, widths[1:], strict=False):
        layers += [nn.Linear(before, after, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# Models that no test changes, so that each is captured once for all rules.


@functools.cache
def seeded_dense(*widths: int, seed: int, bias: bool = True) -> nn.Module:
    return seeded(lambda: dense(*widths, bias=bias), seed)


@functools.cache
def of_one_sign() -> nn.Module:
    """The first half of the units has no negative contributions, the second no positive ones."""
    model: Any = seeded(lambda: dense(8, 6, 3), 4)
    with torch.no_grad():
        weight, bias = model[0].weight, model[0].bias
        weight.abs_(), bias.abs_()
        weight[3:], bias[3:] = -weight[3:], -bias[3:]
        model[2].weight[1], model[2].bias[1] = -model[2].weight[1].abs(), -0.5
        model[2].weight[2], model[2].bias[2] = 0.0, 0.0  # its contributions are all zero
    return model


@functools.cache
def convolved() -> nn.Module:
    return seeded(lambda: chain(nn.Conv1d(2, 5, 3, padding=1), nn.ReLU(), nn.Linear(30, 3)), 1)


def assert_agrees(model: nn.Module, x: Any, rule: str, **domain: Any) -> Any:
    """Compare the engine with the reference; return the explanation."""
    bounds = (domain.get("low", -np.inf), domain.get("high", np.inf))
    graph = layer_graph(model, ref.input_node(x.shape[1:], *bounds))
    wanted = explain(graph, x, "lrp_epsilon", rule=RULES[rule][1])
    e = unchecked(model, x, method=made(rule), **domain)(x, target=wanted.target)
    assert_relevance(e, wanted, "lrp_epsilon")
    np.testing.assert_allclose(
        e.absorbed, wanted.absorbed, rtol=0, atol=1e-4 * wanted.peak.max(initial=1e-30)
    )
    return e


def drawn(*shape: int) -> Any:
    return np.random.default_rng(3).normal(size=shape).astype(np.float32)


@every_rule
@pytest.mark.parametrize("widths", [(1, 1, 1), (17, 1, 17, 2), (33, 17, 16, 1)])
def test_awkward_widths(widths: tuple[int, ...], rule: str) -> None:
    model = seeded_dense(*widths, seed=2)
    assert_agrees(model, drawn(13, widths[0]), rule)


@every_rule
def test_units_without_contributions_of_one_sign(rule: str) -> None:
    model, x = of_one_sign(), np.abs(drawn(12, 8))
    x[6:] *= -1
    graph = layer_graph(model, ref.input_node((8,)))
    explainer = unchecked(model, x, method=made(rule))
    for target in range(3):
        wanted = explain(graph, x, "lrp_epsilon", target, rule=RULES[rule][1])
        e = explainer(x, target=target)
        assert_conserved(e, target_score(e))
        np.testing.assert_allclose(e.relevance, wanted.relevance, rtol=0, atol=1e-5)
        np.testing.assert_allclose(e.absorbed, wanted.absorbed, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("textbook", "sums"), [(False, (1.0, 1.0)), (True, (2.0, -1.0))])
def test_what_is_lost_or_invented_at_one_sign_counts_as_absorbed(
    textbook: bool, sums: tuple[float, float]
) -> None:
    """The published formula multiplies by α where all is positive, by −β where all is negative."""
    model = nn.Linear(3, 2, bias=False).eval()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 2.0, 3.0], [-1.0, -2.0, -3.0]]))
    x = np.ones((1, 3), np.float32)
    explainer = pyrel.Explainer(model, x, method="lrp_alpha_beta", textbook=textbook, check=None)
    for target, (score, share) in enumerate(zip((6.0, -6.0), sums, strict=True)):
        e = explainer(x, target=target)
        np.testing.assert_allclose(e.relevance.sum(), share * score, rtol=1e-6)
        np.testing.assert_allclose(e.absorbed, (1 - share) * score, rtol=1e-6, atol=1e-6)


@every_rule
def test_inputs_of_zeros(rule: str) -> None:
    """Biases alone make the output: only rules that reach zeros give inputs anything."""
    e = assert_agrees(convolved(), np.zeros((2, 2, 6), np.float32), rule)
    assert (e.relevance != 0).any() == (rule in ("flat", "w-squared"))


@every_rule
def test_outputs_of_zero(rule: str) -> None:
    """Of a net without biases at zeros z is 0 everywhere, and so is all relevance."""
    model = seeded_dense(5, 9, 2, seed=1, bias=False)
    e = unchecked(model, np.zeros((3, 5)), method=made(rule))(np.zeros((3, 5), np.float32))
    assert (e.relevance == 0).all()
    assert (e.absorbed == 0).all()


class Cancels(nn.Module):
    """A unit whose inputs cancel, read by an output that has a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(2, 1, bias=False), nn.Linear(1, 1)
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor([[1.0, -1.0]]))
            self.out.weight.fill_(2.0), self.out.bias.fill_(3.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.first(x))


def test_gamma_rule_where_z_is_zero() -> None:
    """Relevance that the flat rule brings to z = 0 is absorbed; αβ has shares for it."""
    x, model = np.ones((1, 2), np.float32), Cancels()
    flat = Assign(Flat(), from_output=0)
    e = pyrel.Explainer(model, x, method=Composite([flat, Assign(Gamma())]), check=None)(x)
    assert (e.relevance == 0).all()
    assert e.absorbed == 3
    e = pyrel.Explainer(model, x, method=Composite([flat, Assign(AlphaBeta())]), check=None)(x)
    np.testing.assert_allclose(e.relevance, [[6.0, -3.0]], rtol=1e-6)


class Given(nn.Module):
    """Inputs beside constants, the second of which is zero."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.Linear(5, 2)
        self.register_buffer("state", torch.tensor([[0.7, 0.0]]))

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(torch.cat([x, self.state.expand(x.shape[0], 2)], 1))


@pytest.mark.parametrize("rule", [Flat(), WSquared()], ids=repr)
def test_constants_beside_inputs(rule: Any) -> None:
    """Constants that are not zero are inputs of the node whose share is absorbed."""
    torch.manual_seed(0)
    model, x = Given().eval(), drawn(4, 3)
    e = pyrel.Explainer(model, x, method=Composite([Assign(rule)]), check=None)(x, target=0)
    weight = model.cell.weight.detach().numpy()[0]
    shares = np.ones(5) if isinstance(rule, Flat) else weight**2
    shares[4] = 0.0  # a constant zero
    wanted = e.output[:, :1] * shares / shares.sum()
    np.testing.assert_allclose(e.relevance, wanted[:, :3], rtol=1e-5)
    np.testing.assert_allclose(e.absorbed, wanted[:, 3], rtol=1e-5)


@pytest.mark.parametrize("rule", ["flat", "w-squared", "alpha-beta", "gamma"])
def test_inputs_that_are_always_zero_by_their_bounds(rule: str) -> None:
    """Dense layers take such inputs for padding."""
    model, x = seeded_dense(5, 7, 2, seed=6), drawn(9, 5)
    low, high = np.array([-9, 0, -9, 0, 0.0]), np.array([9, 0, 9, 9, 9.0])
    x = np.clip(x, low, high).astype(np.float32)
    e = assert_agrees(model, x, rule, low=low, high=high)
    assert (e.relevance[:, 1] == 0).all()
