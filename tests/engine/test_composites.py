# SPDX-License-Identifier: Apache-2.0
"""Composites: which rule stands where, what is refused, and rules of a user's own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.linear_rules import EXHIBITS
from torch import Tensor, nn

import pyrel
from pyrel import methods
from pyrel.methods import (
    AlphaBeta,
    Assign,
    Composite,
    Denominator,
    Epsilon,
    Factor,
    Flat,
    Gamma,
    LinearNode,
    LinearRule,
    Part,
    Propagation,
    RelevancePropagation,
    Sign,
    Site,
    Term,
    ZPlus,
)


class Tower(nn.Module):
    """Two convolutions, a recurrence over the columns, and two dense layers."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv1d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 5, 2), nn.Tanh()
        )
        self.core = nn.RNN(5, 6, batch_first=True)
        self.head = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 2))

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.core(self.front(x).transpose(1, 2))[0]
        return self.head(states[:, -1])


torch.manual_seed(0)
TOWER = Tower().eval()
X = torch.rand(6, 3, 4, generator=torch.Generator().manual_seed(1))
PLACES = ("front.0", "front.2", "core", "head.0", "head.2")


@functools.cache
def captured() -> pyrel.Graph:
    return pyrel.capture(TOWER, X)


def explained(method: Any, **options: Any) -> Any:
    return unchecked(captured(), X, method=method, **options)(X, target=0).relevance.numpy()


def assert_placed(method: RelevancePropagation, *rules: LinearRule) -> None:
    """The linear nodes have these rules, from the input up."""

    class Spelled(RelevancePropagation):
        name = "spelled"

        def linear_rule(self, site: Site) -> LinearRule:
            return dict(zip(PLACES, rules, strict=True))[site.module]

    np.testing.assert_array_equal(
        explained(method, low=0.0, high=1.0), explained(Spelled(method.epsilon), low=0.0, high=1.0)
    )


GAMMA, FLAT, ALPHA, EPSILON = Gamma(0.5), Flat(), AlphaBeta(), Epsilon(1e-3)
DEFAULT = Epsilon()


def test_by_kind() -> None:
    composite = Composite([Assign(GAMMA, kind="convolution"), Assign(EPSILON, kind="dense")])
    assert_placed(composite, GAMMA, GAMMA, EPSILON, EPSILON, EPSILON)
    assert_placed(Composite([Assign(ALPHA)]), ALPHA, ALPHA, ALPHA, ALPHA, ALPHA)
    assert_placed(Composite([]), DEFAULT, DEFAULT, DEFAULT, DEFAULT, DEFAULT)


def test_by_the_name_of_the_module() -> None:
    composite = Composite([Assign(GAMMA, module="front.*"), Assign(EPSILON, module="*.2")])
    assert_placed(composite, GAMMA, GAMMA, DEFAULT, DEFAULT, EPSILON)
    composite = Composite([Assign(GAMMA, module="core"), Assign(FLAT, module="[fh]*.0")])
    assert_placed(composite, FLAT, DEFAULT, GAMMA, FLAT, DEFAULT)


def test_by_position() -> None:
    composite = Composite([Assign(FLAT, from_input=0), Assign(GAMMA, from_output=0)])
    assert_placed(composite, FLAT, DEFAULT, DEFAULT, DEFAULT, GAMMA)
    composite = Composite([Assign(FLAT, from_input=2), Assign(GAMMA, from_output=1)])
    assert_placed(composite, DEFAULT, DEFAULT, FLAT, GAMMA, DEFAULT)


@pytest.mark.parametrize("layers", [1, 2])
def test_all_steps_of_a_layer_are_at_one_depth(layers: int) -> None:
    """At the first step of a recurrence, whose state is zeros, there is one addend fewer."""

    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(3, 4, num_layers=layers, batch_first=True)
            self.head = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.head(self.rnn(x)[0][:, -1])
            return scores

    torch.manual_seed(0)
    x = torch.rand(2, 5, 3)
    explainer = pyrel.Explainer(
        Last().eval(), x, method=Composite([Assign(FLAT, from_output=1)]), check=None
    )
    rules = [line.split()[:-1] for line in str(explainer).splitlines()[1:] if "Flat" in line]
    assert rules == [["dense", "×", "5", "rnn"]]  # the last layer's five steps


def test_the_first_that_fits() -> None:
    rules = [Assign(FLAT, from_input=0), Assign(GAMMA, kind="convolution"), Assign(ALPHA)]
    assert_placed(Composite(rules), FLAT, GAMMA, ALPHA, ALPHA, ALPHA)
    both = Assign(EPSILON, kind="convolution", module="front.*", from_output=3)
    assert_placed(Composite([both]), DEFAULT, EPSILON, DEFAULT, DEFAULT, DEFAULT)


def test_presets() -> None:
    z_plus, box = ZPlus(), methods.ZBeta()
    assert_placed(methods.EpsilonPlus(), z_plus, z_plus, DEFAULT, DEFAULT, DEFAULT)
    assert_placed(methods.EpsilonAlpha2Beta1(), ALPHA, ALPHA, DEFAULT, DEFAULT, DEFAULT)
    textbook = AlphaBeta(textbook=True)
    preset = methods.EpsilonAlpha2Beta1(textbook=True)
    assert_placed(preset, textbook, textbook, DEFAULT, DEFAULT, DEFAULT)
    gamma = methods.EpsilonGammaBox(gamma=0.5, epsilon=1e-3)
    assert_placed(gamma, box, Gamma(0.5, 1e-3), EPSILON, EPSILON, EPSILON)


def test_other_kinds_of_node() -> None:
    """Of pools, winners as an assignment are what the option asks for."""
    exhibit = EXHIBITS["max-pool"]
    winner = methods.LrpEpsilon(pooling="winner").rule(Site("max_pool", "", 0, 0, _unknown))
    asked = Composite([Assign(winner, kind="max_pool")], pooling="proportional")
    np.testing.assert_array_equal(
        exhibit.compiled(asked)(exhibit.inputs).relevance,
        exhibit.compiled("lrp_epsilon")(exhibit.inputs).relevance,
    )


def _unknown() -> methods.Domain:
    raise AssertionError("nobody asks what is known of a pool")


# Refusals


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AlphaBeta(2.0, 0.5), "alpha, beta: wanted alpha - beta = 1"),
        (lambda: AlphaBeta(1.0, 1.0), "alpha, beta: wanted alpha - beta = 1"),
        (lambda: AlphaBeta(0.5, -0.5), "beta: wanted a number of 0 or more"),
        (lambda: AlphaBeta(float("nan"), 1.0), "alpha, beta: wanted alpha - beta = 1"),
        (lambda: methods.LrpAlphaBeta(3.0, 1.0), "alpha, beta: wanted alpha - beta = 1"),
        (lambda: Gamma(-0.1), "gamma: wanted a number of 0 or more"),
        (lambda: Gamma(float("nan")), "gamma: wanted a number of 0 or more"),
        (lambda: methods.LrpGamma(-1.0), "gamma: wanted a number of 0 or more"),
        (lambda: methods.EpsilonGammaBox(gamma=-1.0), "gamma: wanted a number of 0 or more"),
        (lambda: Epsilon(0.0), "epsilon: wanted a number above 0"),
        (lambda: Gamma(0.25, -1e-6), "epsilon: wanted a number above 0"),
        (lambda: methods.LrpGamma(epsilon=0.0), "epsilon: wanted a number above 0"),
        (lambda: methods.EpsilonPlus(epsilon=0.0), "epsilon: wanted a number above 0"),
        (lambda: methods.LrpEpsilon(bias="given"), 'bias: wanted "absorb" or "share"'),
        (lambda: Assign(FLAT, kind="conv"), "kind: no 'conv'; there are dense, convolution"),
        (lambda: Assign(FLAT, from_input=-1), "from_input: wanted a whole number"),
        (lambda: Assign(FLAT, from_output=0.5), "from_output: wanted a whole number"),  # type: ignore[arg-type]
    ],
)
def test_options_that_are_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_what_is_no_rule() -> None:
    with pytest.raises(TypeError, match="rule: wanted a rule such as Epsilon"):
        Assign("flat")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="assignments: wanted objects of Assign"):
        Composite([FLAT])  # type: ignore[list-item]
    with pytest.raises(TypeError, match="textbook: wanted True or False"):
        AlphaBeta(textbook="yes")  # type: ignore[arg-type]


@pytest.mark.parametrize("module", ["fronts.*", "LSTM", "head.1.x"])
def test_patterns_without_a_module(module: str) -> None:
    method = Composite([Assign(FLAT, kind="dense"), Assign(GAMMA, module=module)])
    with pytest.raises(ValueError, match=f"module='{module.replace('*', '.*')}'.*matches none"):
        pyrel.Explainer(captured(), X, method=method)


def test_a_box_without_bounds() -> None:
    with pytest.raises(ValueError, match="epsilon_gamma_box needs low= and high="):
        pyrel.Explainer(captured(), X, method="epsilon_gamma_box")


def test_a_method_without_a_linear_rule() -> None:
    class Wrong(RelevancePropagation):
        name = "wrong"

        def rule(self, site: Site) -> methods.Rule:
            dense = site.is_linear and site.module == "core"
            return (
                super().rule(Site("sum", "", 0, 0, lambda: site.domain))
                if dense
                else (super().rule(site))
            )

    wanted = "wrong: wanted a rule of the class LinearRule for the dense node in module 'core', got"
    with pytest.raises(TypeError, match=wanted):
        pyrel.Explainer(captured(), X, method=Wrong())


# A rule of a user's own, by what the package makes public alone


class OwnGamma(LinearRule):
    """γ for inputs ≥ 0 and outputs of both signs: weights of the output's sign count 1 + γ times.

    Inputs of both signs are split into max(0, a) and min(0, a), as the built-in rule does.
    """

    def __init__(self, gamma: float, epsilon: float = 1e-6) -> None:
        self.gamma, self.epsilon = gamma, epsilon

    def propagation(self, node: LinearNode) -> Propagation:
        """Make one part for outputs above zero, one for those below."""
        return Propagation((self.part(node, 1.0), self.part(node, -1.0)))

    def part(self, node: LinearNode, sign: float) -> Part:
        """Favour products of one sign."""
        inputs, constants = ~node.constant, node.weight[:, node.constant]
        products = constants * node.value[node.constant]
        terms = tuple(
            Term(inputs, self.more(node.weight[:, inputs], sign * side), factor)
            for factor, side in ((Factor.positive, 1.0), (Factor.negative, -1.0))
        )
        kept = self.more(node.bias, sign) + self.more(products, sign).sum(axis=1)
        return Part(
            terms,
            Denominator(kept, terms, epsilon=self.epsilon),
            absorbed=kept,
            sign=Sign.positive if sign > 0 else Sign.negative,
        )

    def more(self, values: Any, sign: float) -> Any:
        """Add γ times what has the sign."""
        return values + self.gamma * np.where(values * sign > 0, values, 0.0)


class Owned(RelevancePropagation):
    """`OwnGamma` at every linear node."""

    name = "owned"

    def linear_rule(self, site: Site) -> LinearRule:
        """Return the rule, of which equal nodes share one."""
        return OWN


OWN = OwnGamma(0.25)


@pytest.mark.parametrize("name", ["conv2d-padded", "GRUCellLoop", "LSTM-plain-last", "TokenBag"])
def test_a_rule_of_ones_own_is_as_good_as_the_built_in_one(name: str) -> None:
    exhibit = EXHIBITS[name]
    ours = exhibit.compiled("lrp_gamma", gamma=0.25)(exhibit.inputs)
    theirs = exhibit.compiled(Owned())(exhibit.inputs)
    start = np.abs(np.take_along_axis(ours.output, ours.target[:, None], axis=1)[:, 0])
    error = np.abs(theirs.relevance - ours.relevance).reshape(len(start), -1).max(axis=1)
    assert (error <= 1e-5 * ours.amplification * start).all()
    np.testing.assert_allclose(
        theirs.absorbed, ours.absorbed, rtol=0, atol=1e-4 * (ours.amplification * start).max()
    )


class Doubled(LinearRule):
    """The ε rule with all contributions twice as large, formed of its terms."""

    def __init__(self, epsilon: float) -> None:
        self.epsilon = epsilon

    def propagation(self, node: LinearNode) -> Propagation:
        inputs = ~node.constant
        term = Term(inputs, 2.0 * node.weight[:, inputs], Factor.value)
        constants = 2.0 * (node.bias + node.from_constants.sum(axis=1))
        denominator = Denominator(constants, (term,), epsilon=2 * self.epsilon)
        return Propagation.of(term, denominator=denominator, absorbed=constants)


class WithoutDenominator(LinearRule):
    """What no sum with gates can be divided by."""

    reaches_zeros = True

    def propagation(self, node: LinearNode) -> Propagation:
        inputs = ~node.constant
        return Propagation.of(Term(inputs, node.weight[:, inputs]))


class Gated(nn.Module):
    """A GRU, whose candidate is a sum with a gated pre-activation."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.GRU(3, 5, batch_first=True), nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.core(x)[0][:, -1])
        return scores


def test_a_rule_of_ones_own_divides_gated_sums_by_its_own_denominators() -> None:
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(9, 4, 3)
    own = unchecked(model, x, method=Composite([Assign(Doubled(1e-3))], epsilon=1e-3))(x)
    known = unchecked(model, x, method="lrp_epsilon", epsilon=1e-3)(x)
    # As good as the promise of every method: 1e-5 of the largest sum of |R|.
    allowed = 1e-5 * float(known.amplification.max() * known.output.abs().max())
    assert float((own.relevance - known.relevance).abs().max()) <= allowed
    assert float((own.absorbed - known.absorbed).abs().max()) <= allowed


def test_a_rule_without_denominator_is_refused_at_gated_sums() -> None:
    method = Composite([Assign(WithoutDenominator())])
    with pytest.raises(pyrel.UnsupportedModelError, match="has no denominator"):
        unchecked(Gated(), torch.randn(2, 4, 3), method=method)
