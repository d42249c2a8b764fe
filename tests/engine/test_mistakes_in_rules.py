# SPDX-License-Identifier: Apache-2.0
"""Mistakes in rules and methods of a user's own are named when they are compiled."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyrel
from pyrel.methods import (
    Assign,
    Composite,
    Denominator,
    Epsilon,
    Factor,
    LinearNode,
    LinearRule,
    Method,
    Propagation,
    RelevancePropagation,
    Site,
    Term,
)

torch.manual_seed(0)
MODEL = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
X = torch.rand(4, 6)


class Made(LinearRule):
    """Whatever a function makes of the ε rule's term and a node."""

    def __init__(self, make: Callable[[Term, LinearNode], Any]) -> None:
        self.make = make

    def __repr__(self) -> str:
        return "Made()"

    def propagation(self, node: LinearNode) -> Propagation:
        inputs = ~node.constant
        term = Term(inputs, node.weight[:, inputs].astype(np.float64), Factor.value)
        return self.make(term, node)  # type: ignore[no-any-return]


def _divided(term: Term, bias: Any, absorbed: Any = None) -> Propagation:
    return Propagation.of(
        term, denominator=Denominator(bias, (term,), epsilon=1e-6), absorbed=absorbed
    )


def _doubled(term: Term, node: LinearNode) -> Propagation:
    twice = Term(term.features, 2 * term.matrix, term.factor)
    divisor = Denominator(node.bias, (term,), epsilon=1e-6)
    return Propagation.of(twice, denominator=divisor, absorbed=node.bias)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda t, n: t, TypeError, "Made(): propagation has to return Propagation.of(...), got"),
        (lambda t, n: None, TypeError, "Made(): propagation has to return a Propagation, got None"),
        (
            lambda t, n: Propagation.of(Term(t.features, t.matrix.T, t.factor)),
            ValueError,
            "Made(): matrix of a term (outputs, marked inputs) has the shape (5, 2), and has to "
            "have (2, 5)",
        ),
        (
            lambda t, n: Propagation.of(Term(t.features[:3], t.matrix, t.factor)),
            ValueError,
            "Made(): features of a term (one for each input) has the shape (3,)",
        ),
        (
            lambda t, n: _divided(t, n.bias[:1], n.bias),
            ValueError,
            "Made(): constant of the denominator has the shape (1,), and has to have (2,) or (1,",
        ),
        (
            lambda t, n: _divided(t, n.bias, n.bias.sum()),
            ValueError,
            "Made(): absorbed has the shape (), and has to have (2,)",
        ),
    ],
)
def test_what_is_no_propagation_of_the_node(make: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=re.escape(message)):
        pyrel.Explainer(MODEL, X, method=Composite([Assign(Made(make), module="2")]))


class Doubling(RelevancePropagation):
    """Has a rule that hands on twice of what it gets."""

    name = "doubling"

    def linear_rule(self, site: Site) -> LinearRule:
        return Made(_doubled)


class Leaking(Doubling):
    """The same, and says that it does not conserve."""

    conserves = False


@pytest.mark.parametrize(
    ("method", "named"),
    [
        (Composite([Assign(Made(_doubled), module="2")]), "see Made()."),
        (Doubling(), "see Doubling(epsilon=1e-06, gates='signal')."),
    ],
)
def test_a_rule_that_does_not_conserve_is_named(method: Method, named: str) -> None:
    with pytest.raises(pyrel.SelfCheckError, match=re.escape(named)) as e:
        pyrel.Explainer(MODEL, X, method=method)
    assert "report it" not in str(e.value)
    explainer = pyrel.Explainer(MODEL, X, method=method, check=None)
    with pytest.raises(ValueError, match="A rule of your own"):
        explainer(X)


def test_a_method_may_say_that_it_does_not_conserve() -> None:
    checked = pyrel.Explainer(MODEL, X, method=Leaking()).checked
    assert checked == "outputs on 2 inputs × 2 samples"


def test_conservation_is_compared_for_what_is_a_users() -> None:
    own = Made(lambda term, node: _divided(term, node.bias, node.bias))
    for rule, what in ((own, "outputs and conservation"), (Epsilon(), "outputs")):
        explainer = pyrel.Explainer(MODEL, X, method=Composite([Assign(rule)]))
        assert explainer.checked == f"{what} on 2 inputs × 2 samples"


class Nameless(RelevancePropagation):
    """Has no name."""


class Forgetful(RelevancePropagation):
    """Does not make its base class."""

    name = "forgetful"

    def __init__(self) -> None:
        pass


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (Nameless(), 'Nameless: a method needs a name: name = "..." in the class'),
        (Forgetful(), "Forgetful: its __init__ has to call super().__init__()"),
    ],
)
def test_methods_that_lack_something(method: Method, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        pyrel.Explainer(MODEL, X, method=method)
