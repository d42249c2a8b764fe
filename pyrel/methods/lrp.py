# SPDX-License-Identifier: Apache-2.0
"""Layer-wise relevance propagation with one rule at all linear nodes."""

from __future__ import annotations

from typing import Any

from pyrel.methods import rules
from pyrel.methods.base import RelevancePropagation
from pyrel.methods.rules import LinearRule
from pyrel.methods.site import Site


class LrpEpsilon(RelevancePropagation):
    """LRP with the ε rule at every linear node (Bach et al. 2015, equation 58).

    Starts from f_target. Relevance of a product of a gate and a signal goes to the signal, as in
    Arras et al. (2017); elementwise activations hand it through.

    Parameters
    ----------
    epsilon : float, default 1e-6
        Added to each denominator, with its sign; what it takes is counted as absorbed.
    gates : {"signal", "half"}
        "half" gives the gate half of the relevance of its product, but none where the product
        carries a state on to the next step; and a sigmoid σ hands on (σ − ½)/σ of its relevance.
    detach : {"pass", "stop"}
        Whether relevance passes through ``detach`` and ``no_grad`` in the model as if they were not
        there, or is absorbed. With "stop" a detached factor counts as a constant: the other factor
        of its product gets all.
    pooling : {"winner", "proportional"}
        Who gets the relevance of a maximum: the first of the largest values, as in zennit and
        captum; or all values in proportion, where none of a layer may be below zero (else
        ValueError).
    bias : {"absorb", "share"}
        Whether the share of a bias, of a constant and of the stabiliser is absorbed, or given in
        equal parts to the inputs of the node, so that relevance sums to what was put in.
    attention : {"values", "attnlrp"}
        "values" takes the weights of attention, which a softmax gives, for gates: the values get
        all (Ali et al. 2022). "attnlrp" gives each factor of the products of attention half, and
        a softmax has a rule of its own, `TaylorOfSoftmax` (Achtibat et al. 2024): so queries and
        keys get relevance, too. What the rule does not sum to is absorbed.
    """

    name = "lrp_epsilon"


class LrpAlphaBeta(RelevancePropagation):
    """LRP with the αβ rule at every linear node (Bach et al. 2015, equation 60).

    Average pools and sums of activations stay in proportion to their values. Starts from f_target.

    Parameters
    ----------
    alpha, beta : float, default 2 and 1
        α − β = 1, β ≥ 0.
    textbook : bool, default False
        See `pyrel.methods.AlphaBeta`.
    epsilon, gates, detach, pooling, bias, attention
        As for `LrpEpsilon`; ε stabilises sums of activations.

    Raises
    ------
    ValueError
        α − β is not 1, or β is below 0.
    """

    name = "lrp_alpha_beta"

    def __init__(
        self,
        alpha: float = 2.0,
        beta: float = 1.0,
        textbook: bool = False,
        epsilon: float = 1e-6,
        gates: str = "signal",
        detach: str = "pass",
        pooling: str | None = None,
        bias: str = "absorb",
        attention: str = "values",
    ) -> None:
        super().__init__(epsilon, gates, detach, pooling, bias, attention)
        self._rule = rules.AlphaBeta(alpha, beta, textbook)

    @property
    def options(self) -> dict[str, Any]:
        """``alpha``, ``beta`` and ``textbook``, and those of `LrpEpsilon`."""
        return {**vars(self._rule), **super().options}

    def linear_rule(self, site: Site) -> LinearRule:
        """Return the αβ rule."""
        return self._rule


class LrpGamma(RelevancePropagation):
    """LRP with the γ rule at every linear node (Montavon et al. 2019), for either sign as `Gamma`.

    Average pools and sums of activations stay in proportion to their values. Starts from f_target.

    Parameters
    ----------
    gamma : float, default 0.25
        How much contributions of the output's sign are favoured; 0 or more.
    epsilon : float, default 1e-6
        Added to each denominator, with its sign.
    gates, detach, pooling, bias, attention
        As for `LrpEpsilon`.

    Raises
    ------
    ValueError
        γ is below 0.
    """

    name = "lrp_gamma"

    def __init__(
        self,
        gamma: float = 0.25,
        epsilon: float = 1e-6,
        gates: str = "signal",
        detach: str = "pass",
        pooling: str | None = None,
        bias: str = "absorb",
        attention: str = "values",
    ) -> None:
        super().__init__(epsilon, gates, detach, pooling, bias, attention)
        self._rule = rules.Gamma(gamma, epsilon)

    @property
    def options(self) -> dict[str, Any]:
        """``gamma``, and those of `LrpEpsilon`."""
        return {"gamma": self._rule.gamma, **super().options}

    def linear_rule(self, site: Site) -> LinearRule:
        """Return the γ rule."""
        return self._rule
