# SPDX-License-Identifier: Apache-2.0
"""Rules of a user's own: all that a part says counts, and what cannot be done is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.test_composites import Gated
from torch import Tensor, nn

import pyrel
from pyrel import methods
from pyrel.methods import (
    AlphaBeta,
    Assign,
    Composite,
    Denominator,
    Factor,
    Flat,
    Gamma,
    LinearNode,
    LinearRule,
    Part,
    Propagation,
    Sign,
    Term,
)
from pyrel.methods.fitting import RULES_OF_KIND
from pyrel.methods.site import KINDS

torch.manual_seed(0)
DENSE = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(), nn.Linear(7, 3))
X = torch.rand(32, 6)


def explained(rule: LinearRule, module: str = "2", **options: Any) -> Any:
    method = Composite([Assign(rule, module=module)])
    return unchecked(DENSE, X, method=method, **options)(X, target=0)


def value_of(node: LinearNode) -> Term:
    inputs = ~node.constant
    return Term(inputs, node.weight[:, inputs].astype(np.float64), Factor.value)


class Parts(LinearRule):
    """The ε rule in parts of some weights and signs."""

    def __init__(self, *parts: tuple[float, Sign]) -> None:
        self.parts = parts

    def propagation(self, node: LinearNode) -> Propagation:
        term, constants = value_of(node), node.bias + node.from_constants.sum(axis=1)
        divisor = Denominator(constants, (term,), epsilon=1e-6)
        return Propagation(
            tuple(Part((term,), divisor, constants, weight, sign) for weight, sign in self.parts)
        )


WHOLE = Parts((1.0, Sign.any))


def test_parts_add_up() -> None:
    wanted = explained(WHOLE)
    for parts in (
        [(0.25, Sign.any), (0.75, Sign.any)],
        [(1.0, Sign.positive), (1.0, Sign.negative)],
        [(0.5, Sign.any), (0.5, Sign.positive), (0.5, Sign.negative)],
    ):
        e = explained(Parts(*parts))
        torch.testing.assert_close(e.relevance, wanted.relevance, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(e.absorbed, wanted.absorbed, rtol=1e-4, atol=1e-5)


def test_the_weight_and_the_sign_of_a_single_part_count() -> None:
    """Also where it is the only one: half of the relevance, or that of outputs of one sign."""
    halved, whole = explained(Parts((0.5, Sign.any)), check_finite=False), explained(WHOLE)
    torch.testing.assert_close(halved.relevance, whole.relevance / 2, rtol=1e-4, atol=1e-6)
    none = explained(Parts((1.0, Sign.negative)), check_finite=False)
    assert not none.relevance.any()  # behind a ReLU
    with pytest.raises(ValueError, match="is not conserved"):
        explained(Parts((0.5, Sign.any)))


class WithoutBias(LinearRule):
    """The ε rule less all constants: what is divided by is the sum of inputs times weights."""

    def __init__(self, from_output: bool) -> None:
        self.from_output = from_output

    def propagation(self, node: LinearNode) -> Propagation:
        term, constants = value_of(node), node.bias + node.from_constants.sum(axis=1)
        if self.from_output:
            divisor = Denominator(-constants, output=True, epsilon=1e-3)
        else:
            divisor = Denominator(np.zeros_like(node.bias), (term,), epsilon=1e-3)
        return Propagation.of(term, denominator=divisor)


def test_denominators_made_of_the_output_and_constants() -> None:
    """As good as those made of terms, at dense nodes and at sums with gates."""
    torch.manual_seed(0)
    model, x = Gated().eval(), torch.randn(9, 4, 3)
    both = [
        unchecked(model, x, method=Composite([Assign(WithoutBias(way))], epsilon=1e-3))(x)
        for way in (True, False)
    ]
    # As good as the promise of every method: 1e-5 of the largest sum of |R|.
    allowed = 1e-5 * float(both[1].amplification.max() * both[1].output.abs().max())
    assert float((both[0].relevance - both[1].relevance).abs().max()) <= allowed
    assert float((both[0].absorbed - both[1].absorbed).abs().max()) <= allowed


class ByDomain(LinearRule):
    """One part for inputs ≥ 0, two for others."""

    def propagation(self, node: LinearNode) -> Propagation:
        rule: LinearRule = Gamma() if (node.domain.low < 0).any() else AlphaBeta(1.0, 0.0)
        return rule.propagation(node)


def test_members_of_a_gated_sum_with_different_parts_are_refused() -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="has other parts for some members"):
        unchecked(
            Gated(), torch.rand(2, 4, 3), method=Composite([Assign(ByDomain())]), low=0.0, high=1.0
        )


class OnlyNegative(LinearRule):
    """In proportion to contributions < 0, of which an active unit may have none."""

    def propagation(self, node: LinearNode) -> Propagation:
        inputs = ~node.constant
        negative = np.minimum(node.weight[:, inputs].astype(np.float64), 0.0)
        term = Term(inputs, negative, Factor.value)
        divisor = Denominator(np.zeros(len(negative)), (term,))
        return Propagation.of(term, denominator=divisor)


def test_zero_denominators_at_active_units_are_counted() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, 2.0], [3.0, -1.0]]))
        model[0].bias.fill_(0.0)
        model[2].weight.copy_(torch.tensor([[4.0, 5.0]]))
        model[2].bias.fill_(0.0)
    x = torch.tensor([[1.0, 1.0]])
    e = unchecked(model, x, method=Composite([Assign(OnlyNegative(), module="0")]))(x)
    # The first unit, of 3, hands on nothing of 4 · 3; the second, of 2, gives all to its w < 0.
    torch.testing.assert_close(e.relevance, torch.tensor([[0.0, 10.0]]))
    torch.testing.assert_close(e.absorbed, torch.tensor([12.0]))


class Even(LinearRule):
    """Equal parts, whatever the values, without saying so."""

    def propagation(self, node: LinearNode) -> Propagation:
        inputs = node.receiving
        shares = np.ones((len(node.weight), inputs.sum())) / max(1, inputs.sum())
        return Propagation.of(Term(inputs, shares))


class SaysSo(Even):
    """Equal parts, also to zeros."""

    reaches_zeros = True


def test_rules_that_give_relevance_to_zeros_have_to_say_so() -> None:
    with pytest.raises(TypeError, match="Even.* reaches_zeros = True"):
        explained(Even())
    said, flat = explained(SaysSo()), explained(Flat())
    torch.testing.assert_close(said.relevance, flat.relevance)


# Rules of another kind than the node


def test_each_kind_of_node_has_rules() -> None:
    assert set(RULES_OF_KIND) == set(KINDS)


class Pooled(nn.Module):
    """A max pool, a mean and a tanh."""

    def __init__(self) -> None:
        super().__init__()
        self.front, self.out = nn.Conv1d(2, 3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        pooled = nn.functional.max_pool1d(self.front(x), 2)
        return self.out(torch.tanh(pooled).mean(2))


@pytest.mark.parametrize(
    ("kind", "rule", "wanted"),
    [
        ("activation", Flat(), "ElementwiseRule"),
        ("activation", methods.Half(), "ElementwiseRule"),
        ("sum", methods.Pass(), "SumRule"),
        ("sum", Flat(), "SumRule"),
        ("max_pool", methods.Proportional(), "PoolingRule"),
        ("convolution", methods.Winner(), "LinearRule"),
    ],
)
def test_rules_of_another_kind_are_refused(kind: str, rule: methods.Rule, wanted: str) -> None:
    class Mine(methods.RelevancePropagation):
        name = "mine"

        def rule(self, site: methods.Site) -> methods.Rule:
            return rule if site.kind == kind else super().rule(site)

    message = f"wanted a rule of the class {wanted} for the {kind} node"
    with pytest.raises(TypeError, match=f"Assign.*{message}"):
        Assign(rule, kind=kind)
    with pytest.raises(TypeError, match=f"mine: {message}"):
        unchecked(Pooled(), torch.rand(2, 2, 9), method=Mine())


def test_only_sigmoids_have_a_half() -> None:
    method = Composite([Assign(methods.Centred(), kind="activation")])
    with pytest.raises(TypeError, match="is for a sigmoid, not scale"):
        unchecked(Pooled(), torch.rand(2, 2, 9), method=method)


# Methods that fold, or do not conserve

TWO = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 2))
nn.init.ones_(TWO[2].bias)


class EvenAbove(methods.DeepTaylor):
    """Deep Taylor decomposition, but equal parts at the last layer and ε below."""

    def linear_rule(self, site: methods.Site) -> LinearRule:
        return SaysSo() if site.from_output == 0 else methods.Epsilon(self.epsilon)


class Leaking(EvenAbove):
    """The same, and does not claim to conserve."""

    conserves = False


@pytest.mark.parametrize("method", [EvenAbove(), Leaking()])
def test_values_below_zero_are_kept_for_all_methods_of_users(method: methods.Method) -> None:
    """Against the same by hand, in float64: units that are zero have relevance, and divide by z."""
    w, b = (part.detach().double() for part in TWO[0].parameters())
    x = X.double()
    z, score = x @ w.T + b, (TWO.double()(x)[:, 0]).clamp(min=0.0)
    TWO.float()
    assert (z < 0).any()
    assert (score > 0).any()
    shares = score[:, None] / 9 / (z + torch.where(z >= 0, 1e-6, -1e-6))
    found = unchecked(TWO, X, method=method)(X, target=0).relevance
    torch.testing.assert_close(found.double(), x * (shares @ w), rtol=1e-4, atol=1e-6)
