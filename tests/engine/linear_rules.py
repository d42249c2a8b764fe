# SPDX-License-Identifier: Apache-2.0
"""The rules of linear nodes, as methods and for the reference, and models to try them on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from engine.zoo import ZOO, Exhibit
from reference import Reference, explain
from reference_rules import ReferenceRule

from pyrel.methods import (
    Assign,
    Composite,
    Flat,
    LrpAlphaBeta,
    LrpEpsilon,
    LrpGamma,
    RelevancePropagation,
    WSquared,
    ZPlus,
)

Make = Callable[..., RelevancePropagation]

# Name: (how to make the method with some options, the reference's rule).
RULES: dict[str, tuple[Make, ReferenceRule]] = {
    "alpha-beta": (LrpAlphaBeta, ReferenceRule("alpha_beta")),
    "alpha-beta-3": (
        functools.partial(LrpAlphaBeta, 3.0, 2.0),
        ReferenceRule("alpha_beta", alpha=3.0, beta=2.0),
    ),
    "alpha-beta-textbook": (
        functools.partial(LrpAlphaBeta, textbook=True),
        ReferenceRule("alpha_beta", textbook=True),
    ),
    "z-plus": (
        functools.partial(Composite, [Assign(ZPlus())]),
        ReferenceRule("alpha_beta", alpha=1.0, beta=0.0),
    ),
    "gamma": (LrpGamma, ReferenceRule("gamma")),
    "flat": (functools.partial(Composite, [Assign(Flat())]), ReferenceRule("flat")),
    "w-squared": (functools.partial(Composite, [Assign(WSquared())]), ReferenceRule("w_squared")),
    "epsilon": (LrpEpsilon, ReferenceRule("epsilon")),
}

EXHIBITS = {exhibit.name: exhibit for exhibit in ZOO}


@functools.cache
def compiled(name: str, rule: str, **options: Any) -> Any:
    """Return the explainer of an exhibit by a rule."""
    return EXHIBITS[name].compiled(made(rule, **options))


@functools.cache
def made(rule: str, **options: Any) -> RelevancePropagation:
    """Return the method of a rule."""
    return RULES[rule][0](**options)


@functools.cache
def expected(name: str, rule: str, **options: Any) -> Reference:
    """What the reference says about an exhibit's inputs."""
    exhibit: Exhibit = EXHIBITS[name]
    return explain(exhibit.graph, exhibit.inputs, "lrp_epsilon", rule=RULES[rule][1], **options)
