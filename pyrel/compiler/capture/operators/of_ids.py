# SPDX-License-Identifier: Apache-2.0
"""Elementwise operators on token ids and on what was made of one id: each becomes a table.

Masks are such, ``(x != 0).float()``, ``1 - m``, ``5 * m``. torch itself computes the tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from pyrel.compiler.capture.operators.nested import leaves, mapped
from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError, type_of
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.lookups import SeveralIdsError

_CASTS = frozenset("_to_copy to type_as".split())
_COMPARISONS = frozenset("eq ne gt lt ge le".split())
_LOGIC = frozenset(
    """logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_not
    bitwise_xor __and__ __or__ __xor__""".split()
)
# Of values that are not functions of one token id, these have other rules.
_ARITHMETIC = frozenset(
    """abs add clamp clamp_max clamp_min div masked_fill maximum minimum mul neg relu rsub sign sub
    where""".split()
)

NAMES = _CASTS | _COMPARISONS | _LOGIC | _ARITHMETIC


def apply(
    tracer: Tracer, target: Any, name: str, args: Any, kwargs: Any, dtype: torch.dtype
) -> Traced | None:
    """Return what an operator makes of token ids; None if it is not of one id in each element.

    Parameters
    ----------
    tracer : Tracer
    target : OpOverload
    name : str
        One of `NAMES`.
    args, kwargs
        Its arguments.
    dtype : torch.dtype
        Of the result.
    """
    if name in _CASTS:
        args, kwargs = args[:1], {}
    operands = [v for v in leaves((args, kwargs)) if isinstance(v, Traced | torch.Tensor)]
    traced = [v for v in operands if isinstance(v, Traced)]
    if not traced or not all(map(tracer.numbers.is_of_ids, traced)):
        return None
    raw = [v for v in traced if tracer.holds_ids(v)]
    if name in _CASTS and raw and dtype in {torch.int32, torch.int64}:
        return None  # they stay token ids
    types = [type_of(v) for v in operands]
    shape, key = _without_operands(args, kwargs)

    def function(given: Sequence[torch.Tensor]) -> torch.Tensor:
        if name in _CASTS:
            return given[0].to(dtype)
        each = iter(
            value if kind is None else value.to(kind)
            for value, kind in zip(given, types, strict=True)
        )
        called = mapped(lambda v: next(each) if isinstance(v, Traced | torch.Tensor) else v, shape)
        if name == "masked_fill":
            value, mask, filler = called[0]
            result = torch.where(mask, filler, value)
        else:
            result = target(*called[0], **called[1])
        return result.to(dtype)

    try:
        return tracer.look_up(operands, function, (str(target), str(dtype), str(types), key))
    except SeveralIdsError:
        if not raw:
            return None
        raise UnsupportedOperandsError(
            "it combines several token ids of a sample; a mask may be made of one id for each of "
            "its elements, as x != 0 is. Multiply masks to combine them"
        ) from None


def typed(tracer: Tracer, value: Traced, dtype: torch.dtype | None) -> Traced:
    """Return functions of one token id in a type, and whatever else as it is."""
    if dtype is None or not tracer.builder.lookups or not tracer.numbers.is_of_ids(value):
        return value
    return tracer.look_up([value], lambda given: given[0].to(dtype), ("type", str(dtype)))


def _without_operands(args: Any, kwargs: Any) -> tuple[Any, str]:
    kept = tuple(args), {k: v for k, v in kwargs.items() if k not in {"dtype", "device"}}
    names = mapped(lambda v: "operand" if isinstance(v, Traced | torch.Tensor) else repr(v), kept)
    return kept, repr(names)
