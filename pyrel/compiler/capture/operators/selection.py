# SPDX-License-Identifier: Apache-2.0
"""Operators that choose: the largest value, by a constant mask, by an index, from a table."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pyrel.compiler.capture.id_numbers import Kind
from pyrel.compiler.capture.operators import by_position, comparisons, of_counts
from pyrel.compiler.capture.operators.activations import at_least, at_most
from pyrel.compiler.capture.operators.arithmetic import kept, multiply, over
from pyrel.compiler.capture.operators.operands import (
    NoValue,
    UnsupportedOperandsError,
    array,
    constant,
    either,
    refuse_ids,
    traced,
)
from pyrel.compiler.capture.samples import addresses_of
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer


def largest(tracer: Tracer, value: Traced, dim: Any = None, keepdim: bool = False) -> Traced:
    """``aten.amax``, whose gradient all of the largest share."""
    parts, dims = over(value, dim)
    return kept(tracer.maximum(*parts, even=True), dims, keepdim)


def maximum(tracer: Tracer, value: Any, other: Any = None, keepdim: bool = False) -> Any:
    """``aten.max`` and ``aten.maximum``: of two values, over a dimension, or over all."""
    if isinstance(other, int):
        parts, dims = over(value, other)
        first = kept(tracer.maximum(*parts, even=False), dims, keepdim)
        return first, NoValue("the position of the largest value")
    if other is None:
        return largest(tracer, value)
    if isinstance(value, Traced) and isinstance(other, Traced):
        return tracer.maximum(value, other, even=True)
    value, other = (value, other) if isinstance(value, Traced) else (other, value)
    low = constant(other, "operand")
    if (low != 0).any() and tracer.numbers.is_of_ids_alone(value):
        return at_least(tracer, value, low)
    shape = np.broadcast_shapes(value.ids.shape, low.shape)
    if (low != 0).any():
        return tracer.maximum(Traced(value.ids.expand(shape)), Traced(tracer.ids(low)), even=True)
    return tracer.relu(Traced(value.ids.expand(shape)), at_zero=0.5)


def minimum(tracer: Tracer, value: Any, other: Any = None, keepdim: bool = False) -> Any:
    """``aten.min`` and ``aten.minimum``, as `maximum`: −max(−a, −b)."""
    known, rest = (value, other) if isinstance(value, Traced) else (other, value)
    by_axis = other is None or isinstance(other, int)
    if not by_axis and not isinstance(rest, Traced) and tracer.numbers.is_of_ids_alone(known):
        return at_most(tracer, known, constant(rest, "operand"))
    minus = multiply(tracer, value, -1.0)
    if by_axis:
        found = maximum(tracer, minus, other, keepdim)
        if isinstance(found, tuple):
            return multiply(tracer, found[0], -1.0), NoValue("the position of the smallest value")
        return multiply(tracer, found, -1.0)
    return multiply(tracer, maximum(tracer, minus, multiply(tracer, other, -1.0)), -1.0)


def smallest(tracer: Tracer, value: Traced, dim: Any = None, keepdim: bool = False) -> Any:
    """``aten.amin``, whose gradient all of the smallest share."""
    found = largest(tracer, multiply(tracer, value, -1.0), dim, keepdim)
    return multiply(tracer, found, -1.0)


def where(tracer: Tracer, condition: Any, value: Any, other: Any) -> Any:
    """``aten.where`` by a condition that is constant, made of token ids, or compares values."""
    if isinstance(condition, Traced) and tracer.numbers.is_of_ids_alone(condition):
        return _chosen(tracer, condition, value, other)
    if isinstance(condition, Traced):
        return comparisons.chosen(tracer, condition, value, other)
    mask = constant(condition, "condition")
    return Traced(torch.where(mask, tracer.ids(either(value)), tracer.ids(either(other))))


def _chosen(tracer: Tracer, mask: Traced, value: Any, other: Any) -> Traced:
    """Choose by a mask made of token ids: the sum of both, each times 1 or 0."""
    opposite = _opposite(tracer, mask)
    parts = []
    for part, weight in ((value, mask), (other, opposite)):
        if isinstance(part, Traced):
            if bool(infinite(tracer, part.ids).any()):
                raise UnsupportedOperandsError(
                    "a mask made of token ids chooses between numbers and infinity"
                )
            parts.append(tracer.product(weight, part))
            continue
        numbers = constant(part, "operand").to(torch.float64)
        if not bool(torch.isfinite(numbers).all()):
            rest = (other, opposite) if weight is mask else (value, mask)
            return _or_infinite(tracer, weight, numbers, *rest)
        if bool((numbers != 0).any()):
            parts.append(_constants_where(tracer, weight, numbers))
    shape = np.broadcast_shapes(*(tracer.ids(either(v)).shape for v in (mask, value, other)))
    return Traced(tracer.add(*parts).ids.expand(shape))


def _opposite(tracer: Tracer, mask: Traced) -> Traced:
    if tracer.numbers.is_of_ids(mask):
        return tracer.look_up([mask], lambda given: given[0] == 0, "not")
    return of_counts.opposite(tracer, mask)


def _or_infinite(
    tracer: Tracer, mask: Traced, filler: torch.Tensor, value: Any, opposite: Traced
) -> Traced:
    """Return infinity where a mask made of token ids is true, and a value elsewhere."""
    sign = float(filler.flatten()[0])
    if math.isnan(sign) or bool((filler != sign).any()):
        raise UnsupportedOperandsError(
            f"a mask made of token ids chooses {sign}; take one number, which may be infinite"
        )
    beside = of_counts.infinite_where(tracer, mask, math.copysign(1.0, sign))
    ids, zero = tracer.ids(either(value)), torch.zeros((), dtype=torch.float64)
    alike = infinite(tracer, ids) == sign  # of a mask before, whatever this one chooses
    rest = Traced(torch.where(alike, tracer.ids(zero), ids))
    chosen = tracer.choose([rest, zero], [opposite, mask], beside)
    return Traced(torch.where(alike, tracer.ids(zero + sign), chosen.ids))


def infinite(tracer: Tracer, ids: torch.Tensor) -> torch.Tensor:
    """Return constants that are infinite, and 0 for all others."""
    values = torch.from_numpy(tracer.builder.values(ids.numpy()))
    return torch.where(torch.isinf(values), values, 0.0)


def _constants_where(tracer: Tracer, mask: Traced, numbers: torch.Tensor) -> Traced:
    """Return constants where a mask made of token ids is true, and 0 elsewhere."""
    if not tracer.numbers.is_of_ids(mask):
        found = multiply(tracer, mask, numbers)
        assert isinstance(found, Traced)
        return found
    return tracer.look_up([mask, numbers], lambda given: given[0] * given[1], "constants")


def masked_fill(tracer: Tracer, value: Any, mask: Any, filler: Any) -> Any:
    """``aten.masked_fill`` by a mask that is constant, or made of token ids."""
    return where(tracer, mask, filler, value)


def pad(
    tracer: Tracer, value: Traced, widths: Any, mode: str = "constant", filler: Any = None
) -> Traced:
    """``aten.pad`` with a constant, or with elements of the value itself."""
    if mode == "constant":
        number = tracer.ids(torch.as_tensor(0.0 if filler is None else constant(filler, "value")))
        return Traced(functional.pad(value.ids, list(widths), value=number.item()))
    # torch pads numbers only in these modes; ids are exact in float64.
    return Traced(functional.pad(value.ids.double(), list(widths), mode=mode).long())


def embedding(tracer: Tracer, table: Any, ids: Any, *_: Any) -> Traced:
    """``aten.embedding``: rows of a table that token ids name."""
    return _looked_up(tracer, constant(table, "table of an embedding"), traced(ids))


def index(tracer: Tracer, value: Any, indices: Any) -> Traced:
    """``aten.index``: elements at a constant index, or the rows of a table that token ids name."""
    first = indices[0] if len(indices) == 1 else None
    counted = any(of_counts.is_counted(tracer, i) for i in indices)
    if isinstance(first, Traced) and isinstance(value, torch.Tensor) and not counted:
        return _looked_up(tracer, value, first)
    if counted:
        return by_position.index(tracer, value, indices)
    places = [None if i is None else constant(i, "index") for i in indices]
    return Traced(tracer.ids(value)[tuple(slice(None) if p is None else p for p in places)])


def index_select(tracer: Tracer, value: Any, dim: int, places: Any) -> Traced:
    """``aten.index_select`` at a constant index."""
    return Traced(tracer.ids(value).index_select(dim, constant(places, "index")))


def gather(tracer: Tracer, value: Any, dim: int, places: Any, **_: Any) -> Traced:
    """``aten.gather`` at a constant index, or at steps that are counted from token ids."""
    if of_counts.is_counted(tracer, places):
        return by_position.gather(tracer, value, dim, places)
    return Traced(tracer.ids(value).gather(dim, constant(places, "index")))


def take_along_dim(tracer: Tracer, value: Any, places: Any, dim: int | None = None) -> Traced:
    """``aten.take_along_dim``: `gather`, the other dimensions of both broadcast."""
    ids, given = tracer.ids(value), tracer.ids(places)
    if dim is None or ids.dim() != given.dim():
        raise UnsupportedOperandsError("a dimension is wanted, and as many of values as of places")
    dim = dim % ids.dim()
    shapes = [[n for d, n in enumerate(each.shape) if d != dim] for each in (ids, given)]
    shape = list(np.broadcast_shapes(*shapes))
    whole = [*shape[:dim], ids.shape[dim], *shape[dim:]]
    wanted = [*shape[:dim], given.shape[dim], *shape[dim:]]
    index = Traced(given.expand(wanted)) if isinstance(places, Traced) else places.expand(wanted)
    return gather(tracer, Traced(ids.expand(whole)), dim, index)


def _by_mask(tracer: Tracer, value: Any, indices: Any, values: Any) -> Traced | None:
    """Return values of which one number replaces those where a mask is true."""
    mask = indices[0] if len(indices) == 1 else None
    if not isinstance(mask, Traced):
        return None
    if tracer.numbers.kind(mask) != Kind.mask and not tracer.masks.are(mask):
        return None
    refuse_ids(tracer, value)
    ids = tracer.ids(either(values))
    if ids.numel() != 1:
        return None
    rest = tracer.ids(value).dim() - mask.ids.dim()
    over = Traced(mask.ids.reshape(*mask.ids.shape, *[1] * rest))
    single = either(values)
    filler = Traced(ids.reshape(())) if isinstance(single, Traced) else single.reshape(())
    found: Traced = where(tracer, over, filler, value)
    return found


def index_put(
    tracer: Tracer, value: Any, indices: Any, values: Any, accumulate: bool = False
) -> Traced:
    """``aten.index_put``: replace elements at a constant index, or where a mask is true."""
    if accumulate:
        raise UnsupportedOperandsError("values are added at an index; only replacing is supported")
    masked = _by_mask(tracer, value, indices, values)
    if masked is not None:
        return masked
    places = [None if i is None else constant(i, "index") for i in indices]
    return _replaced(tracer, torch.ops.aten.index_put.default, value, (places, either(values)))


def index_copy(tracer: Tracer, value: Any, dim: int, places: Any, values: Any) -> Traced:
    """``aten.index_copy`` at a constant index."""
    args = dim, constant(places, "index"), either(values)
    return _replaced(tracer, torch.ops.aten.index_copy.default, value, args)


def index_fill(tracer: Tracer, value: Any, dim: int, places: Any, filler: Any) -> Traced:
    """``aten.index_fill`` at a constant index."""
    ids = tracer.ids(either(filler)).reshape(())
    return Traced(tracer.ids(value).index_fill(dim, constant(places, "index"), ids))


def scatter(tracer: Tracer, value: Any, dim: int, places: Any, values: Any, **rest: Any) -> Traced:
    """``aten.scatter`` at a constant index, of a tensor or of one number."""
    if rest.get("reduce") is not None:
        raise UnsupportedOperandsError("values are combined at an index; only replacing works")
    index = constant(places, "index")
    values = either(values)
    if not isinstance(values, Traced) and values.dim() == 0:
        values = values.expand(index.shape)
    return _replaced(tracer, torch.ops.aten.scatter.src, value, (dim, index, values))


def _replaced(tracer: Tracer, operator: Any, value: Any, args: tuple[Any, ...]) -> Traced:
    """Run an operator that writes its last argument into elements of ``value``."""
    *places, values = args
    ids, new = tracer.ids(value), tracer.ids(values)
    # Numbered, so that it shows where a place is written twice: which value lasts is undefined.
    shape = torch.ops.aten.index.Tensor(ids, places[0]).shape if len(places) == 1 else new.shape
    numbers = torch.arange(max(1, math.prod(shape))).reshape(shape)
    written = operator(torch.full_like(ids, -1), *places, numbers)
    if int((written >= 0).sum()) != numbers.numel():
        raise UnsupportedOperandsError("one place is written twice: which value lasts is undefined")
    return Traced(operator(ids, *places, new))


def refuse_bits(*_: Any) -> Traced:
    """Refuse ``aten.view`` as another type."""
    raise UnsupportedOperandsError("the bits of numbers are taken for those of another type")


def _looked_up(tracer: Tracer, table: torch.Tensor, ids: Traced) -> Traced:
    read = addresses_of(ids.ids.numpy())
    if not (tracer.builder.lookups.are_ids(read) | (read < 0)).all():
        raise UnsupportedOperandsError(
            "a table is read at computed positions; they must be token ids, the model's input"
        )
    values = array(tracer, table)
    if values.ndim != 2:
        raise UnsupportedOperandsError(f"the table has shape {values.shape}, wanted two dimensions")
    tracer.empty.check(ids)
    known = tracer.builder.values(ids.ids.numpy())
    if (known < 0).any() or (known >= len(values)).any():
        raise UnsupportedOperandsError(f"a constant token id is none of the table's {len(values)}")
    return tracer.embed(ids, values)
