# SPDX-License-Identifier: Apache-2.0
"""Operators that reduce or add up what is made of token ids, and have no rule for other values."""

from __future__ import annotations

from typing import Any

import torch

from pyrel.compiler.capture.id_numbers import Kind
from pyrel.compiler.capture.operators import arithmetic, of_counts
from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer


def _checked(tracer: Tracer, value: Traced) -> None:
    if not tracer.numbers.is_of_ids_alone(value):
        raise UnsupportedOperandsError(
            "no rule for this operator, but for what is made of token ids alone"
        )


def cumulative(tracer: Tracer, value: Traced, dim: int, **_: Any) -> Traced:
    """``aten.cumsum``; what is made of token ids stays such."""
    first, *rest = (Traced(part) for part in value.ids.unbind(dim))
    parts = [tracer.add(first, torch.zeros(())), *rest]
    sums = arithmetic.accumulated(parts, dim, tracer.add)
    if tracer.numbers.is_of_ids_alone(value):
        tracer.numbers.note_kind(sums, min(tracer.numbers.kind(value), Kind.whole))
    return sums


def any_of(tracer: Tracer, value: Traced, dim: Any = None, keepdim: bool = False) -> Any:
    """``aten.any`` of masks made of token ids."""
    _checked(tracer, value)
    count = arithmetic.total(tracer, _mask(tracer, value), dim, keepdim)
    return of_counts.not_zero(tracer, count)


def all_of(tracer: Tracer, value: Traced, dim: Any = None, keepdim: bool = False) -> Any:
    """``aten.all`` of masks made of token ids."""
    _checked(tracer, value)
    faults = of_counts.opposite(tracer, _mask(tracer, value))
    return of_counts.opposite(tracer, arithmetic.total(tracer, faults, dim, keepdim))


def _mask(tracer: Tracer, value: Traced) -> Traced:
    if tracer.numbers.kind(value) != Kind.mask:
        raise UnsupportedOperandsError("there is a rule for masks, such as x != 0")
    return value


def one_hot(tracer: Tracer, value: Traced, classes: int = -1) -> Traced:
    """``aten.one_hot`` of a count of token ids."""
    if not of_counts.is_counted(tracer, value) or classes < 1:
        raise UnsupportedOperandsError(
            "there is a rule for counts of token ids, with a number of classes"
        )
    of_counts.require_below(tracer, value, classes)  # torch refuses others
    hot = [of_counts.equal(tracer, value, number).ids for number in range(classes)]
    return Traced(torch.stack(hot, -1))
