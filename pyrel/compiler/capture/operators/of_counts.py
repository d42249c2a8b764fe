# SPDX-License-Identifier: Apache-2.0
"""Comparisons of whole numbers that are made of token ids, as ``arange(T) < (x != 0).sum(1)``.

A number of ids is no table by id. But it is whole, so max(0, 1 - max(0, d)) is 1 where d <= 0 and 0
elsewhere, without rounding: masks of it are made of sums and ReLUs.
"""

from __future__ import annotations

from typing import Any

import torch

from pyrel.compiler.capture.id_numbers import Kind
from pyrel.compiler.capture.operators import arithmetic
from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError, number, traced
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function

_COMPARISONS = frozenset("eq ne gt lt ge le".split())
_BOTH = frozenset("logical_and bitwise_and __and__".split())
_EITHER = frozenset("logical_or bitwise_or __or__".split())
_ONE = frozenset("logical_xor bitwise_xor __xor__".split())
_NOT = frozenset("logical_not bitwise_not".split())
_CASTS = frozenset("_to_copy to type_as".split())

# The sum of two booleans is one of them, or the other, or both.
NAMES = _COMPARISONS | _BOTH | _EITHER | _ONE | _NOT | _CASTS | {"add"}
_MASKS = NAMES | {"any", "all"}

# Of masks these make masks, and of whole numbers whole numbers, in whatever type.
_KEEPING = frozenset("mul where masked_fill maximum max amax".split()) | _CASTS
# These make whole numbers of whole numbers and of masks.
_CLOSED = frozenset(
    "add sub rsub neg sum clamp clamp_min clamp_max abs relu bitwise_not one_hot minimum".split()
)
_WHOLE = {torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8}


def note(
    tracer: Tracer, name: str, operands: list[Any], result: Traced, dtype: torch.dtype | None
) -> None:
    """Note whether the result of an operator is whole numbers that are made of token ids."""
    if dtype is None or not tracer.numbers.is_of_ids_alone(result):
        return
    kind = Kind.other
    if tracer.numbers.is_of_ids(result) and (dtype in _WHOLE or dtype == torch.bool):
        kind = Kind.mask if dtype == torch.bool else Kind.whole  # torch computed it
    elif dtype == torch.bool and name in _MASKS:
        kind = Kind.mask
    elif name in _KEEPING | _CLOSED:
        kind = min(map(tracer.numbers.kind, operands), default=Kind.other)
        kind = kind if name in _KEEPING else min(kind, Kind.whole)
    tracer.numbers.note_kind(result, kind)


def apply(tracer: Tracer, name: str, args: Any, dtype: torch.dtype) -> Traced | torch.Tensor | None:
    """Return what a comparison makes of whole numbers made of token ids; None if they are not.

    Parameters
    ----------
    tracer : Tracer
    name : str
        One of `NAMES`.
    args
        Its arguments.
    dtype : torch.dtype
        Of the result.
    """
    if dtype != torch.bool:
        return None
    operands = list(args[:1] if name in _CASTS | _NOT else args[:2])
    if not all(tracer.numbers.is_of_ids_alone(v) for v in operands if isinstance(v, Traced)):
        return None
    if any(isinstance(v, Traced) and tracer.numbers.kind(v) == Kind.other for v in operands):
        return None
    if name in _COMPARISONS:
        return _compared(tracer, name, *operands)
    masks = [_as_mask(tracer, v) for v in operands]
    if name in _CASTS:
        found: Traced | torch.Tensor = masks[0]
        return found
    if name in _NOT:
        return opposite(tracer, masks[0])
    total = arithmetic.add(tracer, masks[0], masks[1])
    if name in _BOTH:
        return tracer.relu(arithmetic.subtract(tracer, total, 1))
    if name in _EITHER or name == "add":
        return opposite(tracer, at_most_zero(tracer, total))
    return at_most_zero(tracer, _size(tracer, arithmetic.subtract(tracer, total, 1)))


def is_counted(tracer: Tracer, value: Any) -> bool:
    """Whether something is whole numbers made of token ids alone."""
    return (
        isinstance(value, Traced)
        and tracer.numbers.is_of_ids_alone(value)
        and tracer.numbers.kind(value) != Kind.other
    )


def at_most_zero(tracer: Tracer, value: Traced) -> Traced:
    """1 where whole numbers are not above 0, else 0."""
    tracer.numbers.compare(value)
    return opposite(tracer, tracer.relu(value))


def not_zero(tracer: Tracer, value: Traced) -> Traced:
    """0 where a number that is not below 0 is 0, else 1."""
    return opposite(tracer, opposite(tracer, value))


def opposite(tracer: Tracer, mask: Traced) -> Traced:
    """1 where a number that is not below 0 is 0, else 0: of a mask, that of the others."""
    return tracer.relu(tracer.add(traced(arithmetic.negate(tracer, mask)), number(1)))


def infinite_where(tracer: Tracer, mask: Traced, sign: float) -> Traced:
    """Infinity of a sign where a mask is 1, and 0 elsewhere."""
    one_or_infinite = tracer.activation(opposite(tracer, mask), Function.reciprocal)
    infinite = arithmetic.subtract(tracer, one_or_infinite, 1)
    return traced(arithmetic.multiply(tracer, infinite, sign))


def require(tracer: Tracer, fault: Traced) -> None:
    """Let the model's outputs be infinite for samples in which a mask, or a number, is not 0."""
    tracer.require(tracer.relu(infinite_where(tracer, not_zero(tracer, fault), 1.0)))


def require_below(tracer: Tracer, value: Traced, size: int) -> None:
    """Let the model's outputs be infinite for samples with a number outside of 0 to size - 1."""
    high = tracer.relu(arithmetic.subtract(tracer, value, size - 1))
    low = tracer.relu(arithmetic.negate(tracer, value))
    require(tracer, tracer.add(high, low))


def _compared(tracer: Tracer, name: str, left: Any, right: Any) -> Traced | torch.Tensor:
    if not isinstance(left, Traced):
        left, right, name = right, left, _SWAPPED.get(name, name)
    if not isinstance(right, Traced):
        right = _threshold(name, right)
    difference = arithmetic.subtract(tracer, left, right)
    match name:
        case "le":
            return at_most_zero(tracer, difference)
        case "gt":
            return opposite(tracer, at_most_zero(tracer, difference))
        case "ge":
            return at_most_zero(tracer, arithmetic.negate(tracer, difference))
        case "lt":
            return opposite(tracer, at_most_zero(tracer, arithmetic.negate(tracer, difference)))
    same = opposite(tracer, _size(tracer, difference))
    return same if name == "eq" else opposite(tracer, same)


def equal(tracer: Tracer, value: Traced, number: int) -> Traced:
    """1 where whole numbers are ``number``, else 0."""
    return opposite(tracer, _size(tracer, arithmetic.subtract(tracer, value, number)))


_SWAPPED = {"lt": "gt", "gt": "lt", "le": "ge", "ge": "le"}


def _threshold(name: str, value: Any) -> torch.Tensor:
    """Return constants as the whole numbers by which they part whole numbers."""
    numbers = number(value).to(torch.float64)
    if not bool(torch.isfinite(numbers).all()):
        raise UnsupportedOperandsError("whole numbers are compared with NaN or infinity")
    if name in ("le", "gt"):
        return numbers.floor()
    if name in ("lt", "ge"):
        return numbers.ceil()
    if bool((numbers != numbers.round()).any()):
        raise UnsupportedOperandsError("whole numbers never equal the fraction they are held to")
    return numbers


def _size(tracer: Tracer, value: Traced) -> Traced:
    """|value|."""
    tracer.numbers.compare(value)
    negative = arithmetic.negate(tracer, value)
    return arithmetic.add(tracer, tracer.relu(value), tracer.relu(negative))


def _as_mask(tracer: Tracer, value: Any) -> Any:
    """1 where a number is not 0."""
    if not isinstance(value, Traced):
        return number(value).to(torch.bool).to(torch.float64)
    if tracer.numbers.kind(value) == Kind.mask:
        return value
    return not_zero(tracer, _size(tracer, value))
