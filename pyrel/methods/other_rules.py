# SPDX-License-Identifier: Apache-2.0
"""The rules of nodes that are not linear: each names one of the ways that the compiler knows."""

from __future__ import annotations

from abc import ABC
from collections.abc import Hashable

from pyrel.methods.options import number

# Of an epsilon: float32 holds it, and what it is added to, with room to spare.
SMALLEST_EPSILON, LARGEST_EPSILON = 1e-30, 1e30


class Rule(ABC):  # noqa: B024
    """What a node does with the relevance of its outputs.

    Rules of one class with equal attributes are equal: what the compiler makes of weights by one of
    them serves the others.
    """

    def __eq__(self, other: object) -> bool:
        """Compare class and attributes."""
        return isinstance(other, Rule) and self._key() == other._key()

    def __hash__(self) -> int:
        """Hash class and attributes."""
        return hash(self._key())

    def _key(self) -> tuple[Hashable, ...]:
        key = type(self), tuple(sorted(vars(self).items()))
        try:
            hash(key)
        except TypeError:  # such as an array among the attributes: each rule is its own
            return type(self), id(self)
        return key

    def __repr__(self) -> str:
        """Show the name, and the options that it was made with."""
        options = ", ".join(f"{name}={value!r}" for name, value in vars(self).items())
        return f"{type(self).__name__}({options})"


class ElementwiseRule(Rule):
    """A rule for elementwise functions, and for a sum of one addend."""


class Pass(ElementwiseRule):
    """Hand relevance through as it is."""


class Slope(ElementwiseRule):
    """Multiply by the function's derivative, as gradients do."""


class Open(ElementwiseRule):
    """Hand on where a clamp is open; at its ends, which are constants, relevance is absorbed."""


class Centred(ElementwiseRule):
    """Hand on the share that a sigmoid's value has beyond ½, its value at zero; ½ absorbs the rest.

    Where linear nodes divide by their outputs, a share that does not vanish at zero is without
    bound there.
    """


class ProductRule(Rule):
    """A rule for products of a gate and a signal, and for gated sums."""


class BothFactors(ProductRule):
    """Give each factor the relevance times the other, as gradients do."""


class Signal(ProductRule):
    """The signal gets all, the gate nothing (Arras et al. 2017)."""


class SignalTimesGate(ProductRule):
    """The signal gets the relevance times the gate, as gradients do; the gate gets nothing."""


class Half(ProductRule):
    """Gate and signal get half each, but the signal all where it is a state carried on."""


class SumRule(Rule):
    """A rule for sums of activations."""


class PassToAll(SumRule):
    """Every addend gets the relevance, as gradients do."""


class Proportional(SumRule):
    """R_i = a_i R / Σ a, stabilised by ε where addends may be negative; constants absorb theirs."""

    def __init__(self, epsilon: float = 1e-6) -> None:
        self.epsilon = stabiliser(epsilon)


class ByValues(SumRule):
    """R_i = x_i R / Σ x at the L^q norm of values x ≥ 0 (Montavon et al. 2017, section 5.2).

    It stands at the sum of the powers x^q: `Proportional` shares in proportion to these.
    """


class PoolingRule(Rule):
    """A rule for maxima."""


class Winner(PoolingRule):
    """The first of the largest values gets all."""


class InProportion(PoolingRule):
    """R_i = a_i R / Σ a (Montavon et al. 2017, section 5.2), of layers without a negative value.

    ``strict`` says that a layer which may have one is refused; else the winner gets all there.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict


class SoftmaxRule(Rule):
    """A rule for softmaxes."""


class TaylorOfSoftmax(SoftmaxRule):
    """R of a logit x_i is x_i (R_i − s_i Σ R) (Achtibat et al. 2024, proposition 3.1).

    The expansion at x itself: its constant, what the x_i get no part of, is absorbed.
    """


class NormalisationRule(Rule):
    """A rule for layer normalisation."""


class NormalisationSlope(NormalisationRule):
    """The derivative, as gradients have it."""


class ConstantDeviation(NormalisationRule):
    """Take the standard deviation for a constant (Ali et al. 2022), with the ε rule."""

    def __init__(self, epsilon: float = 1e-6) -> None:
        self.epsilon = stabiliser(epsilon)


class Absorbing(Rule):
    """What is no input of the model, such as a mask, absorbs the relevance that it gets."""


class Nothing(Rule):
    """Relevance goes nowhere, and is not counted: through what is detached no gradient goes."""


def stabiliser(epsilon: float) -> float:
    """Return an ε as a number that float32 holds.

    Raises
    ------
    ValueError
        It is not above 0, or too small or large.
    TypeError
        It is no number.
    """
    value = number("epsilon", epsilon, "a number above 0")
    if not SMALLEST_EPSILON <= value <= LARGEST_EPSILON:
        raise ValueError(
            f"epsilon: wanted a number above 0, got {epsilon!r}; the engine computes in "
            f"float32, which allows {SMALLEST_EPSILON:.0e} to {LARGEST_EPSILON:.0e}"
        )
    return value
