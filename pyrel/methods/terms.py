# SPDX-License-Identifier: Apache-2.0
"""What a rule of a linear node is made of: data that the compiler turns into instructions.

A rule hands relevance on in one part or several. With ``s = weight · R / denominator`` (or
``s = weight · R`` without one),

    R_j = Σ_parts Σ_terms factor_j · Σ_k s_k M_kj,        absorbed = Σ_parts Σ_k s_k (u_k + ε sign),

where u is what the bias and constant inputs add to the denominator.

Notation: z_k = Σ_j a_j w_kj + b_k; w⁺ = max(0, w), w⁻ = min(0, w); inputs a lie in [l, h].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]
Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Domain:
    """What is known of a node's inputs before any sample is seen; all arrays are (rows, in).

    A convolution has one row for each position of its kernel, a dense layer has one.

    Attributes
    ----------
    low, high : ndarray of float64
        Bounds of each input; −∞ and ∞ where nothing is known. A constant c has [min(0, c),
        max(0, c)].
    raw : ndarray of bool
        Which inputs are elements of the model's input.
    constant : ndarray of bool, shape (in,)
        Which inputs are constants in all rows, such as a first state of zeros.
    """

    low: Floats
    high: Floats
    raw: Mask
    constant: Mask

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


@dataclass(frozen=True, eq=False)
class LinearNode:
    """A linear node as its rules see it.

    Attributes
    ----------
    weight : ndarray, shape (out, in)
    bias : ndarray, shape (out,)
    domain : Domain
    value : ndarray, shape (in,)
        Values of the inputs that are constants, 0 for others.
    positive : bool
        Relevance arrives only at outputs with z > 0, such as those of a ReLU.
    gated : bool
        The node is one of several in a sum in which gates multiply pre-activations, as a GRU has:
        weights and denominators must not be divided by each other beforehand.
    connected : ndarray of bool, shape (out, in), or None
        Which inputs an output reads at all, where a node joins several; None is all.
    padding : ndarray of bool, shape (rows, in), or None
        Which inputs are zeros that are no values, such as those around an image; None is none.
    original : ndarray or None
        The weights as the model has them, where ``weight`` is laid out otherwise for speed, with
        other columns or several positions of a kernel, or is a part of a layer's; see `laid_out`.
        None is the same.
    layout : callable or None
        What makes ``weight`` of ``original``, or the like of any matrix of that shape.
    """

    weight: Floats
    bias: Floats
    domain: Domain
    value: Floats
    positive: bool = False
    gated: bool = False
    connected: Mask | None = None
    padding: Mask | None = None
    original: Floats | None = None
    layout: Callable[[Floats], Floats] | None = None

    def laid_out(self, make: Callable[[Floats], Floats]) -> Floats:
        """Return a matrix of the shape of ``weight`` that is made of the model's own weights."""
        matrix = make(self.weight if self.original is None else self.original)
        return matrix if self.layout is None else self.layout(matrix)

    @property
    def constant(self) -> Mask:
        """Which inputs are constants; (in,)."""
        return self.domain.constant

    @property
    def receiving(self) -> Mask:
        """Which inputs may get relevance that does not depend on values; (in,).

        All but constants and what is zero in all rows.
        """
        return ~self.constant & ~self.domain.zero.all(axis=0)

    @property
    def present(self) -> Floats:
        """0 where one of the `receiving` inputs is padding, else 1; (rows, receiving)."""
        there = np.ones(self.domain.low.shape)
        return (there if self.padding is None else there - self.padding)[:, self.receiving]

    @property
    def read(self) -> Floats:
        """1 where an output reads an input, else 0; (out, in)."""
        known = np.ones(self.weight.shape) if self.connected is None else self.connected
        return np.asarray(known, np.float64)

    @property
    def from_constants(self) -> Floats:
        """Products w · c for each constant input c; (out, constants)."""
        products: Floats = self.weight[:, self.constant] * self.value[self.constant]
        return products


def columns(weight: Floats, features: Mask) -> Floats:
    """Return some columns of weights; a view where they lie side by side."""
    places = np.flatnonzero(features)
    if places.size and places[-1] - places[0] + 1 == places.size:
        return weight[:, places[0] : places[-1] + 1]
    return weight[:, places]


class Factor(Enum):
    """What a term multiplies by, for an input a in [l, h]."""

    one = 0
    value = 1  # a
    above_low = 2  # a − l
    below_high = 3  # a − h
    positive = 4  # max(0, a)
    negative = 5  # min(0, a)

    @property
    def is_of_zeros(self) -> bool:
        """Whether it may be other than 0 where a is."""
        return self in (Factor.one, Factor.above_low, Factor.below_high)

    @property
    def is_clipped(self) -> bool:
        """Whether it is the part of a of one sign."""
        return self in (Factor.positive, Factor.negative)


class Sign(Enum):
    """The outputs z whose relevance a part hands on."""

    any = 0
    positive = 1  # z > 0
    negative = 2  # z < 0


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

    ``constant`` is (out,), or (rows, out). ``epsilon`` is added with the denominator's sign. Where
    a denominator is 0, nothing is handed on: the relevance is absorbed.
    """

    constant: Floats
    terms: tuple[Term, ...] = ()
    output: bool = False
    epsilon: float = 0.0


@dataclass(frozen=True, eq=False)
class Part:
    """One of the parts in which a rule hands relevance on.

    Attributes
    ----------
    terms : tuple of Term
    denominator : Denominator or None
    absorbed : ndarray, shape (out,), or None
        What bias and constant inputs add to the denominator: their share is absorbed.
    weight : float
        The share of R that this part hands on, such as α and −β. For each sign of the output the
        weights add up to 1: else relevance is not conserved, and the explanation is refused.
    sign : Sign
        Of the outputs that this part is for.
    power : int
        Where a gate g multiplies the node's output in a sum, the terms and the denominator grow
        with g to this power: 1 for products of a weight and an input, 2 for squared weights, 0
        where weights do not count.
    """

    terms: tuple[Term, ...]
    denominator: Denominator | None = None
    absorbed: Floats | None = None
    weight: float = 1.0
    sign: Sign = Sign.any
    power: int = 1


@dataclass(frozen=True, eq=False)
class Propagation:
    """How relevance goes through a linear node; see the module's text.

    Attributes
    ----------
    parts : tuple of Part
    exchanges : bool
        Of two parts: where the denominator of one is 0, the other hands on all relevance.
    """

    parts: tuple[Part, ...]
    exchanges: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether one part hands on all relevance, whatever the sign of the output."""
        first = self.parts[0]
        return len(self.parts) == 1 and first.weight == 1.0 and first.sign == Sign.any

    @property
    def reaches_zeros(self) -> bool:
        """Whether an input that is zero may get relevance."""
        return any(term.factor.is_of_zeros for part in self.parts for term in part.terms)

    @classmethod
    def of(
        cls,
        *terms: Term,
        denominator: Denominator | None = None,
        absorbed: Floats | None = None,
        power: int = 1,
    ) -> Propagation:
        """Make one of a single part."""
        return cls((Part(terms, denominator, absorbed, power=power),))
