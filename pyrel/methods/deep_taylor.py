# SPDX-License-Identifier: Apache-2.0
"""Deep Taylor decomposition: the rule follows the domain of the inputs."""

from __future__ import annotations

from pyrel.methods import other_rules, rules
from pyrel.methods.base import RelevancePropagation
from pyrel.methods.enums import Start
from pyrel.methods.other_rules import Rule
from pyrel.methods.rules import LinearRule, UnsuitableDomainError
from pyrel.methods.site import Site


class DeepTaylor(RelevancePropagation):
    """Deep Taylor decomposition (Montavon et al. 2017): z⁺, z^β or w² by each input's domain.

    Inputs known to be ≥ 0 (after a ReLU) get the z⁺ rule, inputs in a box [l, h] the z^β rule, both
    in one sum with one denominator; a node whose inputs all are unbounded elements of the graph's
    input gets the w² rule. An L^q norm of values ≥ 0 shares in proportion to these (section 5.2).
    Starts from max(0, f_target).

    Parameters
    ----------
    epsilon : float, default 1e-6
        Stabilises only sums of activations of both signs, such as the cell state of an LSTM.
    gates : {"signal", "half"}
        As for `LrpEpsilon`, but a sigmoid hands all through.
    detach : {"pass", "stop"}
        As for `LrpEpsilon`.
    pooling : {"winner", "proportional"}, optional
        As for `LrpEpsilon`. By default in proportion (section 5.2 of the paper) in every layer of
        which no value may be below zero, and to the winner in others.
    bias : {"absorb", "share"}
        As for `LrpEpsilon`.
    attention : {"values", "attnlrp"}
        As for `LrpEpsilon`.
    """

    name = "deep_taylor"
    start = Start.positive_output
    folds = True

    default_pooling = None

    @property
    def centres_sigmoids(self) -> bool:
        """Never."""
        return False

    def rule(self, site: Site) -> Rule:
        """Refuse layer normalisation, share norms by values; else see `RelevancePropagation`."""
        if site.kind == "normalisation":
            raise UnsuitableDomainError(
                "deep_taylor has no rule for layer normalisation, whose values may be negative; "
                "try lrp_epsilon"
            )
        if site.norm:
            return other_rules.ByValues()
        return super().rule(site)

    def linear_rule(self, site: Site) -> LinearRule:
        """Choose the rule that the inputs' domains ask for."""
        domain = site.domain
        unbounded = domain.unbounded
        if not unbounded.any():
            return rules.ZBeta()
        others = ~unbounded & ~domain.zero
        if site.gated and domain.raw[unbounded].all():
            raise UnsuitableDomainError(
                "deep_taylor has no rule for a sum in which pre-activations are gated and read "
                "unbounded inputs: give low= and high=, the smallest and largest input values; "
                "lrp_epsilon needs neither"
            )
        if domain.raw[unbounded].all() and not others.any():
            return rules.WSquared()
        raise UnsuitableDomainError(
            "deep_taylor needs to know the range of the inputs here, because they are mixed with "
            "other values: give low= and high=, the smallest and largest input values; lrp_epsilon "
            "needs neither"
            if domain.raw[unbounded].any()
            else "deep_taylor has no rule for inner values that may be negative; try lrp_epsilon"
        )
