# SPDX-License-Identifier: Apache-2.0
"""The explanation methods, their rules, and what a method of one's own is made of."""

from pyrel.methods.base import GradientMethod, Method, RelevancePropagation
from pyrel.methods.composite import (
    Assign,
    Composite,
    EpsilonAlpha2Beta1,
    EpsilonGammaBox,
    EpsilonPlus,
)
from pyrel.methods.custom import Custom
from pyrel.methods.deep_taylor import DeepTaylor
from pyrel.methods.enums import AtInput, AtRelu, Start
from pyrel.methods.gradient import Gradient, GradientXInput, GuidedBackprop, Sensitivity
from pyrel.methods.lrp import LrpAlphaBeta, LrpEpsilon, LrpGamma
from pyrel.methods.other_rules import Rule
from pyrel.methods.registry import get, named, names
from pyrel.methods.rules import (
    AlphaBeta,
    Epsilon,
    Flat,
    Gamma,
    LinearRule,
    UnsuitableDomainError,
    WSquared,
    ZBeta,
    ZPlus,
)
from pyrel.methods.site import Site
from pyrel.methods.terms import (
    Denominator,
    Domain,
    Factor,
    LinearNode,
    Part,
    Propagation,
    Sign,
    Term,
)

__all__ = [
    "AlphaBeta",
    "Assign",
    "AtInput",
    "AtRelu",
    "Composite",
    "Custom",
    "DeepTaylor",
    "Denominator",
    "Domain",
    "Epsilon",
    "EpsilonAlpha2Beta1",
    "EpsilonGammaBox",
    "EpsilonPlus",
    "Factor",
    "Flat",
    "Gamma",
    "Gradient",
    "GradientMethod",
    "GradientXInput",
    "GuidedBackprop",
    "LinearNode",
    "LinearRule",
    "LrpAlphaBeta",
    "LrpEpsilon",
    "LrpGamma",
    "Method",
    "Part",
    "Propagation",
    "RelevancePropagation",
    "Rule",
    "Sensitivity",
    "Sign",
    "Site",
    "Start",
    "Term",
    "UnsuitableDomainError",
    "WSquared",
    "ZBeta",
    "ZPlus",
    "get",
    "named",
    "names",
]
