# SPDX-License-Identifier: Apache-2.0
"""Masks that compare values of the input, and what is chosen by them; no gradient goes into masks.

A mask is 1 where a step function of a difference is, so that torch's gradient results: that of the
branch which is chosen. Methods that conserve relevance refuse the step function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pyrel.compiler.capture.operators.arithmetic import add, multiply, subtract
from pyrel.compiler.capture.operators.elementwise import absolute
from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError, constant
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function

Compare = Callable[[Tracer, Any, Any], Any]


def greater(tracer: Tracer, left: Any, right: Any) -> Any:
    """``aten.gt``."""
    return _above_zero(tracer, _difference(tracer, left, right))


def less(tracer: Tracer, left: Any, right: Any) -> Any:
    """``aten.lt``."""
    return _above_zero(tracer, _difference(tracer, right, left))


def differs(tracer: Tracer, left: Any, right: Any) -> Any:
    """``aten.ne``."""
    return _above_zero(tracer, absolute(tracer, _difference(tracer, left, right)))


def negated(compare: Compare) -> Compare:
    """Make the handler of the opposite: ``aten.le`` of that of ``aten.gt``."""
    return lambda tracer, left, right: opposite(tracer, compare(tracer, left, right))


def sign(tracer: Tracer, value: Any) -> Any:
    """``aten.sign``: 1 above zero, −1 below."""
    return subtract(tracer, greater(tracer, value, 0.0), less(tracer, value, 0.0))


def opposite(tracer: Tracer, mask: Any) -> Any:
    """``aten.logical_not`` of a mask: 1 − mask."""
    _refuse_ids(tracer, mask)
    return _noted(tracer, add(tracer, multiply(tracer, mask, -1.0), 1.0))


def both(tracer: Tracer, left: Any, right: Any) -> Any:
    """``aten.logical_and`` of masks: their product."""
    _refuse_ids(tracer, left, right)
    return _noted(tracer, multiply(tracer, *(_numbers(each) for each in (left, right))))


def one_or_both(tracer: Tracer, left: Any, right: Any) -> Any:
    """``aten.logical_or`` of masks: 1 − (1 − a) (1 − b)."""
    neither = [
        opposite(tracer, each) if isinstance(each, Traced) else 1.0 - _numbers(each)
        for each in (left, right)
    ]
    return opposite(tracer, multiply(tracer, *neither))


def chosen(tracer: Tracer, mask: Traced, value: Any, other: Any) -> Any:
    """``aten.where`` by a mask that compares values: mask · value + (1 − mask) · other."""
    for each in (value, other):
        if not isinstance(each, Traced) and not bool(torch.isfinite(constant(each, "value")).all()):
            raise UnsupportedOperandsError(
                "a comparison of values chooses NaN or infinity; take a large number"
            )
    rest = opposite(tracer, mask)
    ids = [tracer.ids(_numbers(each)) for each in (value, other)]
    shape = np.broadcast_shapes(mask.ids.shape, *(each.shape for each in ids))
    parts = [
        multiply(tracer, Traced(weight.ids.expand(shape)), part)
        for weight, part in ((mask, value), (rest, other))
    ]
    return add(tracer, *parts)


def _above_zero(tracer: Tracer, value: Any) -> Any:
    return _noted(tracer, tracer.activation(value, Function.step))


def _noted(tracer: Tracer, mask: Any) -> Any:
    return tracer.masks.note(mask) if isinstance(mask, Traced) else mask


def _difference(tracer: Tracer, left: Any, right: Any) -> Any:
    _refuse_ids(tracer, left, right)
    return subtract(tracer, left, right)


def _refuse_ids(tracer: Tracer, *operands: Any) -> None:
    """Refuse what is made of token ids, for which there are exact rules or none."""
    if not tracer.builder.lookups:
        return
    if any(isinstance(v, Traced) and tracer.numbers.is_of_ids_alone(v) for v in operands):
        raise UnsupportedOperandsError("it compares values of the input with what token ids make")


def _numbers(mask: Any) -> Any:
    return mask if isinstance(mask, Traced) else constant(mask, "mask").double()
