# SPDX-License-Identifier: Apache-2.0
"""Propagation rules of a linear node, as data that lowering turns into instructions.

Every rule has the same form. With ``s = R / denominator`` (or ``s = R`` without one),

    R_j = Σ_terms factor_j · Σ_k s_k M_jk,        absorbed = Σ_k s_k u_k.

To add a rule, write a function that returns a `LinearRule` and a method (`pyrel.methods`) that
chooses it.

Notation: z_k = Σ_j a_j w_jk + b_k; w⁺ = max(0, w), w⁻ = min(0, w); inputs lie in [l, h].
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyrel.graph import Floats

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class LinearInputs:
    """A linear node as its rules see it: weights, bias, and what is known of each input.

    ``weight`` is (out, in), ``bias`` (out,), the others (in,). ``constant`` marks inputs that are
    constants, of the given ``value``; ``raw`` marks elements of the graph's input.
    """

    weight: Floats
    bias: Floats
    low: Floats
    high: Floats
    constant: Mask
    value: Floats
    raw: Mask


@dataclass(frozen=True, eq=False)
class Term:
    """Part of R_j for the inputs that ``features`` marks: factor_j · Σ_k s_k matrix_kj.

    The factor is ``a_j - minus_j`` where ``minus`` is given, else 1. ``matrix`` is (out, marked
    inputs), ``minus`` has one value per marked input.
    """

    features: Mask
    matrix: Floats
    minus: Floats | None = None


@dataclass(frozen=True, eq=False)
class Denominator:
    """``constant`` + Σ a @ matrix.T over the products, + the node's own output if ``output``."""

    constant: Floats
    products: tuple[tuple[Mask, Floats], ...] = ()
    output: bool = False


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

    The denominators are known beforehand, so the matrix is normalised and none is left. A unit
    without weights keeps its relevance: it is absorbed.
    """
    features = ~node.constant
    squared = node.weight[:, features] ** 2
    total = squared.sum(axis=1, keepdims=True)
    normalised = np.divide(squared, total, out=np.zeros_like(squared), where=total > 0)
    return LinearRule((Term(features, normalised),), absorbed=(total[:, 0] == 0).astype(float))


def z_plus_and_box(node: LinearInputs) -> LinearRule:
    """Mix the z⁺ rule for inputs ≥ 0 with the z^β rule for inputs in [l, h].

    Montavon et al. 2017, section 4.2, input by input over one denominator: an input's
    contribution is a_j w⁺_jk, or a_j w_jk − l_j w⁺_jk − h_j w⁻_jk. Constants c count as inputs in
    [min(0, c), max(0, c)], so they contribute max(0, c w), and like max(0, b) absorb their share.

    a w − l w⁺ − h w⁻ = (a − l) w⁺ + (a − h) w⁻ is two products of terms ≥ 0, so nothing cancels.
    Where there is a box, the denominator is formed from the pre-activation z, which costs only the
    products of w⁻ with the inputs ≥ 0. The engine keeps max(0, z) instead of z; that is the same
    wherever relevance arrives, since no unit at or below zero receives any.
    """
    positive_part, negative_part = np.maximum(node.weight, 0.0), np.minimum(node.weight, 0.0)
    from_constants = node.weight[:, node.constant] * node.value[node.constant]
    absorbed = np.maximum(node.bias, 0.0) + np.maximum(from_constants, 0.0).sum(axis=1)
    nonneg = ~node.constant & (node.low >= 0) & np.isposinf(node.high)
    box = ~node.constant & ~nonneg
    terms = []
    if nonneg.any():
        terms.append(Term(nonneg, positive_part[:, nonneg], minus=np.zeros(nonneg.sum())))
    if not box.any():
        products = ((nonneg, positive_part[:, nonneg]),)
        return LinearRule(tuple(terms), Denominator(absorbed, products), absorbed)
    low, high = node.low[box], node.high[box]
    terms.append(Term(box, positive_part[:, box], minus=low))
    terms.append(Term(box, negative_part[:, box], minus=high))
    offset = positive_part[:, box] @ low + negative_part[:, box] @ high
    constant = absorbed - node.bias - from_constants.sum(axis=1) - offset
    if not nonneg.any():
        return LinearRule(tuple(terms), Denominator(constant, output=True), absorbed)
    mixed = ((nonneg, -negative_part[:, nonneg]),)
    return LinearRule(tuple(terms), Denominator(constant, mixed, output=True), absorbed)
