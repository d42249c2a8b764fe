# SPDX-License-Identifier: Apache-2.0
"""The propagation rules, as objects that a method or a composite puts at the nodes of a model.

A rule for linear nodes (dense layers, convolutions, sums of pre-activations) is a
`LinearRule`: it makes a `Propagation` of the node's weights. Rules for other kinds of node name one
of the ways that the compiler knows.

To write a rule of one's own, derive from `LinearRule` and return a `Propagation`; a method
(`pyrel.methods.RelevancePropagation`) or a `Composite` then says where it stands. The terms are
those of `pyrel.methods.terms`.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import numpy as np

from pyrel.methods.options import flag, number
from pyrel.methods.other_rules import LARGEST_EPSILON, Rule, stabiliser
from pyrel.methods.terms import (
    Denominator,
    Factor,
    Floats,
    LinearNode,
    Mask,
    Part,
    Propagation,
    Sign,
    Term,
    columns,
)


class LinearRule(Rule):
    """A rule for linear nodes.

    Attributes
    ----------
    reaches_zeros : bool
        Whether an input that is zero may get relevance, as with any `Factor` but ``value`` and its
        parts ``positive`` and ``negative``.
    needs_box : bool
        Whether the rule is for inputs whose smallest and largest values are known.
    """

    reaches_zeros: ClassVar[bool] = False
    needs_box: ClassVar[bool] = False

    @abstractmethod
    def propagation(self, node: LinearNode) -> Propagation:
        """Make the terms for one node; `UnsuitableDomainError` where the rule does not fit it."""


class UnsuitableDomainError(Exception):
    """No rule of the method fits what is known of a node's inputs."""


class PlainGradient(LinearRule):
    """R_j = Σ_k w_kj R_k, R being the gradient."""

    def propagation(self, node: LinearNode) -> Propagation:
        """Multiply by the weights."""
        features = ~node.constant
        return Propagation.of(Term(features, columns(node.weight, features)))


class Epsilon(LinearRule):
    """R_j = a_j Σ_k w_kj R_k / (z_k + ε sign z_k), with sign 0 = 1 (Bach et al. 2015, eq. 58).

    Bias, constant inputs and ε absorb their shares.

    Parameters
    ----------
    epsilon : float, default 1e-6

    Raises
    ------
    ValueError
        ``epsilon`` is not above 0, or float32 does not hold it.
    """

    def __init__(self, epsilon: float = 1e-6) -> None:
        self.epsilon = stabiliser(epsilon)

    def propagation(self, node: LinearNode) -> Propagation:
        """Divide by the outputs, stabilised."""
        features = ~node.constant
        constants = node.weight[:, node.constant] @ node.value[node.constant]
        term = Term(features, columns(node.weight, features), Factor.value)
        denominator = Denominator(np.zeros_like(node.bias), output=True, epsilon=self.epsilon)
        return Propagation.of(term, denominator=denominator, absorbed=node.bias + constants)


class AlphaBeta(LinearRule):
    """R_j = Σ_k (α p_kj / Σp − β n_kj / Σn) R_k, with α − β = 1 (Bach et al. 2015, eq. 60).

    p and n are the positive and the negative part of a_j w_kj; the bias joins the sums with its
    own. A unit that has no negative, or no positive, contributions leaves all to the other part, so
    that relevance is conserved.

    Parameters
    ----------
    alpha, beta : float, default 2 and 1
        ``beta`` ≥ 0. With α = 1 and β = 0 it is the z⁺ rule for inputs of any sign.
    textbook : bool, default False
        Keep the published formula at such units, too: they hand on α (or −β) times their relevance.
        What is then lost or invented counts as absorbed.

    Raises
    ------
    ValueError
        α − β is not 1, or β is below 0.

    Examples
    --------
    >>> pyrel.methods.AlphaBeta(alpha=2.0, beta=1.0)
    AlphaBeta(alpha=2.0, beta=1.0, textbook=False)
    """

    def __init__(self, alpha: float = 2.0, beta: float = 1.0, textbook: bool = False) -> None:
        self.alpha, self.beta = number("alpha", alpha), number("beta", beta)
        if not self.beta >= 0:
            raise ValueError(f"beta: wanted a number of 0 or more, got {beta!r}")
        if not abs(self.alpha - self.beta - 1) <= 1e-6 * self.alpha:
            raise ValueError(f"alpha, beta: wanted alpha - beta = 1, got {alpha!r} and {beta!r}")
        if self.alpha > LARGEST_EPSILON:
            raise ValueError(f"alpha: wanted a number that float32 holds, got {alpha!r}")
        self.textbook = flag("textbook", textbook)

    def propagation(self, node: LinearNode) -> Propagation:
        """Divide positive and negative contributions by sums of their own."""
        positive = _signed_part(node, np.maximum, self.alpha)
        if self.beta == 0:
            return Propagation((positive,))
        negative = _signed_part(node, np.minimum, -self.beta)
        return Propagation((positive, negative), exchanges=not self.textbook)


class ZPlus(AlphaBeta):
    """R_j = Σ_k p_kj / Σ_j' p_kj' R_k, p the positive part of a_j w_kj (Montavon et al. 2017).

    For inputs ≥ 0 this is the z⁺ rule of deep Taylor decomposition (section 4.2), for others the αβ
    rule with α = 1 and β = 0. A unit that has no positive contributions absorbs its relevance.
    """

    def __init__(self) -> None:
        super().__init__(1.0, 0.0)

    def __repr__(self) -> str:
        """Show the name."""
        return "ZPlus()"


class Gamma(LinearRule):
    """Favour contributions of the output's sign by γ, for inputs and outputs of either sign.

    Montavon et al. 2019, section 10.2.1, have a(w + γw⁺) for a ≥ 0 and z > 0. This is the
    generalisation of zennit's ``Gamma``, which is the same there.

    With a⁺ = max(0, a), a⁻ = min(0, a): where z_k > 0, R_j is in proportion to
    a⁺(w + γw⁺) + a⁻(w + γw⁻), the bias having b + γb⁺; where z_k < 0, to a⁺(w + γw⁻) + a⁻(w + γw⁺),
    the bias having b + γb⁻. The sums are stabilised by ε. z_k = 0 hands on nothing: it is absorbed.

    Parameters
    ----------
    gamma : float, default 0.25
        0 or more; 0 is the ε rule but at z = 0.
    epsilon : float, default 1e-6

    Raises
    ------
    ValueError
        ``gamma`` is below 0, or ``epsilon`` is not above 0.
    """

    def __init__(self, gamma: float = 0.25, epsilon: float = 1e-6) -> None:
        self.gamma = number("gamma", gamma)
        if not 0 <= self.gamma <= LARGEST_EPSILON:
            raise ValueError(f"gamma: wanted a number of 0 or more, got {gamma!r}")
        self.epsilon = stabiliser(epsilon)

    def propagation(self, node: LinearNode) -> Propagation:
        """Divide by one sum where z > 0, by another where z < 0."""
        return Propagation(
            (
                self._part(node, np.maximum, Sign.positive),
                self._part(node, np.minimum, Sign.negative),
            )
        )

    def _part(self, node: LinearNode, favoured: np.ufunc, sign: Sign) -> Part:
        other = np.minimum if favoured is np.maximum else np.maximum
        terms = []
        for features, factor, side in _by_sign(node):
            weight = columns(node.weight, features).astype(np.float64)
            kept = favoured if side is np.maximum else other
            terms.append(Term(features, weight + self.gamma * kept(weight, 0.0), factor))
        constants = node.from_constants
        absorbed = node.bias + constants.sum(axis=1)
        absorbed = absorbed + self.gamma * (
            favoured(node.bias, 0.0) + favoured(constants, 0.0).sum(axis=1)
        )
        denominator = Denominator(absorbed, tuple(terms), epsilon=self.epsilon)
        return Part(tuple(terms), denominator, absorbed, sign=sign)


class Flat(LinearRule):
    """R_j = Σ_k R_k / (number of inputs of k), whatever weights and values are.

    Inputs are counted that are neither padding nor constant zeros; other constants absorb their
    share. A unit that has none absorbs its relevance.
    """

    reaches_zeros = True

    def propagation(self, node: LinearNode) -> Propagation:
        """Divide by the number of inputs."""
        return _by_constant_sums(node, node.read, power=0)


class WSquared(LinearRule):
    """R_j = Σ_k w²_kj R_k / Σ_j' w²_kj', for inputs in all of ℝ (Montavon et al. 2017, eq. 13).

    The denominators are known beforehand. A unit without weights keeps its relevance: it is
    absorbed. Inputs that are always zero, such as padding, get nothing.
    """

    reaches_zeros = True

    def propagation(self, node: LinearNode) -> Propagation:
        """Multiply by squared weights."""
        return _by_constant_sums(node, np.square(node.weight, dtype=np.float64), power=2)


class ZBeta(LinearRule):
    """The z^β rule for inputs in a box [l, h], and the z⁺ rule for inputs ≥ 0, in one sum.

    Montavon et al. 2017, section 4.2, input by input over one denominator: an input's contribution
    is a_j w⁺_kj for inputs in [0, ∞), or a_j w_kj − l_j w⁺_kj − h_j w⁻_kj. Constants c count as
    inputs in [min(0, c), max(0, c)], so they contribute max(0, c w), and like max(0, b) absorb
    their share.

    Raises
    ------
    UnsuitableDomainError
        An input has no bounds.

    Notes
    -----
    a w − l w⁺ − h w⁻ = (a − l) w⁺ + (a − h) w⁻ is two products of terms ≥ 0, so nothing cancels,
    neither in the relevance nor in the denominator. But where relevance arrives at z > 0 only, the
    denominator of a box comes off the pre-activation: it is z and more terms ≥ 0, which costs only
    the products of w⁻ with the inputs ≥ 0. (There Σ |a w| ≤ 2 · denominator, which so is as exact
    as a sum of terms of one sign.) At z ≤ 0 it would be a difference, of which rounding leaves
    something where all inputs lie at those bounds where it is 0.
    """

    reaches_zeros = True
    needs_box = True

    def propagation(self, node: LinearNode) -> Propagation:
        """Mix both rules by the domain of each input."""
        if node.domain.unbounded.any():
            raise UnsuitableDomainError(
                "the z^β rule needs to know the range of the inputs here: give low= and high=, the "
                "smallest and largest input values, or put another rule there"
            )
        positive_part, negative_part = np.maximum(node.weight, 0.0), np.minimum(node.weight, 0.0)
        from_constants = node.from_constants
        absorbed = np.maximum(node.bias, 0.0) + np.maximum(from_constants, 0.0).sum(axis=1)
        nonneg = ~node.constant & (node.domain.nonneg | node.domain.zero).all(axis=0)
        box = ~node.constant & ~nonneg
        terms = []
        if nonneg.any():
            terms.append(Term(nonneg, positive_part[:, nonneg], Factor.value))
        if box.any():
            terms.append(Term(box, positive_part[:, box], Factor.above_low))
            terms.append(Term(box, negative_part[:, box], Factor.below_high))
        if not (box.any() and node.positive):
            denominator = Denominator(absorbed, tuple(terms))
            return Propagation.of(*terms, denominator=denominator, absorbed=absorbed)
        low, high = node.domain.low[:, box], node.domain.high[:, box]
        offset = low @ positive_part[:, box].T + high @ negative_part[:, box].T
        constant = absorbed - node.bias - from_constants.sum(axis=1) - offset
        if (constant == constant[0]).all():
            constant = constant[0]
        mixed = (Term(nonneg, -negative_part[:, nonneg], Factor.value),) if nonneg.any() else ()
        denominator = Denominator(constant, mixed, output=True)
        return Propagation.of(*terms, denominator=denominator, absorbed=absorbed)


def _by_sign(node: LinearNode) -> list[tuple[Mask, Factor, np.ufunc]]:
    """Split the inputs into max(0, a) and min(0, a), with what keeps positive products of each."""
    variable = ~node.constant
    nonneg = variable & (node.domain.low >= 0).all(axis=0)
    signed = variable & ~nonneg
    parts: list[tuple[Mask, Factor, np.ufunc]] = []
    if nonneg.any():
        parts.append((nonneg, Factor.value, np.maximum))
    if signed.any():
        parts.append((signed, Factor.positive, np.maximum))
        parts.append((signed, Factor.negative, np.minimum))
    return parts


def _signed_part(node: LinearNode, side: np.ufunc, weight: float) -> Part:
    """Make the part of the αβ rule for contributions of one sign."""
    other = np.minimum if side is np.maximum else np.maximum
    terms = tuple(
        Term(
            features, (side if kept is np.maximum else other)(node.weight[:, features], 0.0), factor
        )
        for features, factor, kept in _by_sign(node)
    )
    absorbed = side(node.bias, 0.0) + side(node.from_constants, 0.0).sum(axis=1)
    return Part(terms, Denominator(absorbed, terms), absorbed, weight)


def _by_constant_sums(node: LinearNode, shares: Floats, power: int) -> Propagation:
    """Hand relevance on in proportion to numbers, (out, in), that do not depend on the inputs."""
    features = node.receiving
    kept = shares[:, node.constant & (node.value != 0)].sum(axis=1)
    shares = shares[:, features]
    total = node.present @ shares.T + kept
    if (total == total[0]).all():
        total = total[0]
        if not node.gated:
            normalised = np.divide(
                shares, total[:, None], out=np.zeros_like(shares), where=total[:, None] > 0
            )
            absorbed = np.divide(kept, total, out=np.ones_like(total), where=total > 0)
            return Propagation.of(Term(features, normalised), absorbed=absorbed, power=power)
    term = Term(features, shares)
    return Propagation.of(term, denominator=Denominator(total), absorbed=kept, power=power)
