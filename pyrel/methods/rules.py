# SPDX-License-Identifier: Apache-2.0
"""Propagation rules of a linear node, as data that lowering turns into instructions.

Every rule has the same form. With ``s = R / denominator`` (or ``s = R`` without one),

    R_j = Σ_terms factor_j · Σ_k s_k M_jk,        absorbed = Σ_k s_k (u_k + ε sign z_k).

To add a rule, write a function that returns a `LinearRule` and a method (`pyrel.methods`) that
chooses it.

Notation: z_k = Σ_j a_j w_jk + b_k; w⁺ = max(0, w), w⁻ = min(0, w); inputs lie in [l, h].
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import Floats

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LinearInputs:
    """A linear node as its rules see it: weights, bias, and what is known of each input.

    ``weight`` is (out, in), ``bias`` (out,), ``constant`` and ``value`` (in,): inputs that are
    constants, of that value. ``low``, ``high`` and ``raw`` are (rows, in), as the same weights meet
    other inputs in every row; ``raw`` marks elements of the graph's input. ``positive`` tells that
    relevance arrives only at outputs with z > 0.
    """

    weight: Floats
    bias: Floats
    low: Floats
    high: Floats
    constant: Mask
    value: Floats
    raw: Mask
    positive: bool = False

    @property
    def zero(self) -> Mask:
        """Which inputs are always zero, such as padding; (rows, in)."""
        return np.asarray((self.low == 0) & (self.high == 0))

    @property
    def nonneg(self) -> Mask:
        """Which inputs lie in [0, ∞); (rows, in)."""
        return np.asarray(~self.constant & (self.low >= 0) & np.isposinf(self.high))

    @property
    def unbounded(self) -> Mask:
        """Which inputs have no lower bound, or a negative one and no upper; (rows, in)."""
        half_open = (self.low < 0) & np.isposinf(self.high)
        return np.asarray(~self.constant & (np.isneginf(self.low) | half_open))

    @property
    def uniform(self) -> bool:
        """Whether each input is of the same kind in all rows, where it is not zero."""
        kinds = np.where(self.unbounded, 2, np.where(self.nonneg, 1, 0))
        least = np.where(self.zero, 2, kinds).min(axis=0)
        most = np.where(self.zero, 0, kinds).max(axis=0)
        return bool((least >= most).all())


class Factor(Enum):
    """What a term multiplies by, for an input a in [l, h]."""

    one = 0
    value = 1  # a
    above_low = 2  # a − l
    below_high = 3  # a − h


@dataclass(frozen=True, eq=False)
class Term:
    """Part of R_j for the inputs that ``features`` marks: factor_j · Σ_k s_k matrix_kj.

    ``matrix`` is (out, marked inputs).
    """

    features: Mask
    matrix: Floats
    factor: Factor = Factor.one


@dataclass(frozen=True, eq=False)
class Denominator:
    """``constant`` + Σ factor @ matrix.T over ``terms``, + the node's own output if ``output``.

    ``constant`` is (out,), or (rows, out). ``epsilon`` is added with the denominator's sign.
    """

    constant: Floats
    terms: tuple[Term, ...] = ()
    output: bool = False
    epsilon: float = 0.0


@dataclass(frozen=True, eq=False)
class LinearRule:
    """How relevance goes through a linear node; see the module's text."""

    terms: tuple[Term, ...]
    denominator: Denominator | None = None
    absorbed: Floats | None = None


def gradient(node: LinearInputs) -> LinearRule:
    """R_j = Σ_k w_jk R_k, R being the gradient."""
    features = ~node.constant
    return LinearRule((Term(features, node.weight[:, features]),))


def w_squared(node: LinearInputs) -> LinearRule:
    """R_j = Σ_k w²_jk R_k / Σ_j' w²_j'k, for inputs in all of ℝ (Montavon et al. 2017, eq. 13).

    The denominators are known beforehand. A unit without weights keeps its relevance: it is
    absorbed. Inputs that are always zero, such as padding, get nothing.
    """
    features = ~node.constant
    squared = node.weight[:, features] ** 2
    total = (~node.zero[:, features]).astype(float) @ squared.T
    if (total == total[0]).all():
        total = total[0]
        normalised = np.divide(
            squared, total[:, None], out=np.zeros_like(squared), where=total[:, None] > 0
        )
        return LinearRule((Term(features, normalised),), absorbed=(total == 0).astype(float))
    return LinearRule((Term(features, squared),), Denominator(total))


def epsilon(node: LinearInputs, stabiliser: float) -> LinearRule:
    """R_j = a_j Σ_k w_jk R_k / (z_k + ε sign z_k), with sign 0 = 1 (Bach et al. 2015, eq. 58).

    Bias, constant inputs and ε absorb their shares.
    """
    features = ~node.constant
    constants = node.weight[:, node.constant] @ node.value[node.constant]
    term = Term(features, node.weight[:, features], Factor.value)
    denominator = Denominator(np.zeros_like(node.bias), output=True, epsilon=stabiliser)
    return LinearRule((term,), denominator, node.bias + constants)


def z_plus_and_box(node: LinearInputs) -> LinearRule:
    """Mix the z⁺ rule for inputs ≥ 0 with the z^β rule for inputs in [l, h].

    Montavon et al. 2017, section 4.2, input by input over one denominator: an input's
    contribution is a_j w⁺_jk, or a_j w_jk − l_j w⁺_jk − h_j w⁻_jk. Constants c count as inputs in
    [min(0, c), max(0, c)], so they contribute max(0, c w), and like max(0, b) absorb their share.

    a w − l w⁺ − h w⁻ = (a − l) w⁺ + (a − h) w⁻ is two products of terms ≥ 0, so nothing cancels,
    neither in the relevance nor in the denominator. But where relevance arrives at z > 0 only, the
    denominator of a box comes off the pre-activation: it is z and more terms ≥ 0, which costs only
    the products of w⁻ with the inputs ≥ 0. (There Σ |a w| ≤ 2 · denominator, which so is as exact
    as a sum of terms of one sign.) At z ≤ 0 it would be a difference, of which rounding leaves
    something where all inputs lie at those bounds where it is 0.
    """
    positive_part, negative_part = np.maximum(node.weight, 0.0), np.minimum(node.weight, 0.0)
    from_constants = node.weight[:, node.constant] * node.value[node.constant]
    absorbed = np.maximum(node.bias, 0.0) + np.maximum(from_constants, 0.0).sum(axis=1)
    nonneg = ~node.constant & (node.nonneg | node.zero).all(axis=0)
    box = ~node.constant & ~nonneg
    terms = []
    if nonneg.any():
        terms.append(Term(nonneg, positive_part[:, nonneg], Factor.value))
    if box.any():
        terms.append(Term(box, positive_part[:, box], Factor.above_low))
        terms.append(Term(box, negative_part[:, box], Factor.below_high))
    if not (box.any() and node.positive):
        return LinearRule(tuple(terms), Denominator(absorbed, tuple(terms)), absorbed)
    low, high = node.low[:, box], node.high[:, box]
    offset = low @ positive_part[:, box].T + high @ negative_part[:, box].T
    constant = absorbed - node.bias - from_constants.sum(axis=1) - offset
    if (constant == constant[0]).all():
        constant = constant[0]
    mixed = (Term(nonneg, -negative_part[:, nonneg], Factor.value),) if nonneg.any() else ()
    return LinearRule(tuple(terms), Denominator(constant, mixed, output=True), absorbed)
