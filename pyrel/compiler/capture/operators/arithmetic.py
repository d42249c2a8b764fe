# SPDX-License-Identifier: Apache-2.0
"""Products with matrices, sums, multiples and products of values."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from pyrel.compiler.capture.operators.matrices import of_values
from pyrel.compiler.capture.operators.operands import (
    UnsupportedOperandsError,
    array,
    constant,
    either,
    matrix,
    number,
    traced,
)
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import Floats


def linear(tracer: Tracer, value: Any, weight: Any, bias: Any = None) -> Traced:
    """``aten.linear``: ``value @ weight.T + bias``."""
    weights = matrix(tracer, constant(weight, "weight"))
    if weights.ndim != 2:
        raise UnsupportedOperandsError(
            f"the weight has shape {weights.shape}, two dimensions are wanted"
        )
    return tracer.linear(traced(value), weights, offsets(tracer, bias, weights.shape[0]))


def offsets(tracer: Tracer, bias: Any, size: int) -> Floats:
    """Return a bias of ``size`` numbers, zeros if there is none."""
    if bias is None:
        return tracer.weights.made(("zeros", size), lambda: np.zeros(size))
    values = array(tracer, constant(bias, "bias"))
    return values if values.shape == (size,) else np.broadcast_to(values, (size,))


def matmul(tracer: Tracer, left: Any, right: Any) -> Traced:
    """``aten.matmul`` and its like."""
    if isinstance(left, Traced) and isinstance(right, Traced):
        return of_values(tracer, left, right)
    if isinstance(right, Traced):  # constant @ value: the value's columns are the rows
        columns = Traced(right.ids.transpose(-1, -2))
        if left.dim() == 1:
            return matmul(tracer, columns, left)
        return Traced(matmul(tracer, columns, left.mT).ids.transpose(-1, -2))
    if right.dim() == 1:
        return Traced(linear(tracer, left, right[None]).ids.squeeze(-1))
    if right.dim() == 2:
        return linear(tracer, left, right.mT)
    return _by_batch(tracer, traced(left), right)


def _by_batch(tracer: Tracer, value: Traced, matrices: torch.Tensor) -> Traced:
    """Multiply by a matrix of its own for each index of the leading dimensions that has one."""
    if value.ids.dim() < 2:
        raise UnsupportedOperandsError("a vector is multiplied by several matrices")
    lead = np.broadcast_shapes(value.ids.shape[:-2], matrices.shape[:-2])
    ids = value.ids.expand(*lead, *value.ids.shape[-2:])
    matrices = matrices.expand(*lead, *matrices.shape[-2:])
    for dim, size in enumerate(lead):
        if not bool((matrices == matrices.narrow(dim, 0, 1)).all()):
            parts = [
                _by_batch(tracer, Traced(ids.select(dim, i)), matrices.select(dim, i)).ids
                for i in range(size)
            ]
            return Traced(torch.stack(parts, dim))
    first = matrices.reshape(-1, *matrices.shape[-2:])[0]
    return linear(tracer, Traced(ids), first.mT)


def addmm(
    tracer: Tracer, bias: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1
) -> Traced:
    """``aten.addmm``: ``beta * bias + alpha * left @ right``."""
    return add(tracer, multiply(tracer, matmul(tracer, left, right), alpha), bias, alpha=beta)


def add(tracer: Tracer, left: Any, right: Any, *, alpha: float = 1) -> Traced:
    """``aten.add``: ``left + alpha * right``."""
    scaled = right if alpha == 1 else multiply(tracer, right, alpha)
    return tracer.add(either(left), either(scaled))


def subtract(tracer: Tracer, left: Any, right: Any, *, alpha: float = 1) -> Traced:
    """``aten.sub``: ``left - alpha * right``."""
    return add(tracer, left, multiply(tracer, right, -alpha))


def reverse_subtract(tracer: Tracer, left: Any, right: Any, *, alpha: float = 1) -> Traced:
    """``aten.rsub``: ``right - alpha * left``."""
    return add(tracer, right, multiply(tracer, left, -alpha))


def multiply(tracer: Tracer, left: Any, right: Any) -> Any:
    """``aten.mul``: a multiple where one factor is constant, else a product.

    What a gate multiplies is its signal, constant or not, as a first state or the bias that GRU's
    reset gate meets at the first step are: values for each sample of the batch, not parameters.
    """
    left, right = (tracer.constant(v) if isinstance(v, Traced) else v for v in (left, right))
    if isinstance(left, Traced) and isinstance(right, Traced):
        return tracer.product(left, right)
    if not isinstance(left, Traced):
        left, right = right, left
    if not isinstance(left, Traced):
        return number(left) * number(right)
    factor = number(right)
    array(tracer, factor)
    shape = np.broadcast_shapes(left.ids.shape, factor.shape)
    if factor.shape == left.ids.shape and tracer.is_gate(left):
        return tracer.product(left, Traced(tracer.ids(factor)))
    if (factor == 0).all():
        return torch.zeros(shape)
    if (factor == 1).all() and shape == left.ids.shape:
        return left
    return tracer.scale(left, factor)


def times(tracer: Tracer, value: Traced, factor: float) -> Traced:
    """Multiply by a number that is not zero."""
    return value if factor == 1 else tracer.scale(value, number(float(factor)))


def divide(tracer: Tracer, left: Any, right: Any, *, rounding_mode: str | None = None) -> Any:
    """``aten.div``."""
    if rounding_mode is not None:
        raise UnsupportedOperandsError("the quotient is rounded")
    if isinstance(right, Traced):
        return multiply(tracer, left, reciprocal(tracer, right))
    divisor = constant(right, "divisor").to(torch.float64)
    return multiply(tracer, traced(left, "dividend"), 1.0 / divisor)


def reciprocal(tracer: Tracer, value: Traced) -> Traced:
    """``aten.reciprocal``."""
    return tracer.activation(value, Function.reciprocal)


def negate(tracer: Tracer, value: Traced) -> Any:
    """``aten.neg``."""
    return multiply(tracer, value, -1.0)


def total(
    tracer: Tracer, value: Traced, dim: Any = None, keepdim: bool = False, **_: Any
) -> Traced:
    """``aten.sum``, over some dimensions or all."""
    addends, dims = over(value, dim)
    return kept(tracer.add(*addends), dims, keepdim)


def mean(tracer: Tracer, value: Traced, dim: Any = None, keepdim: bool = False, **_: Any) -> Traced:
    """``aten.mean``, over some dimensions or all."""
    summed = total(tracer, value, dim, keepdim)
    return times(tracer, summed, summed.ids.numel() / value.ids.numel())


def over(value: Traced, dim: Any) -> tuple[list[Traced], list[int]]:
    """Take a tensor apart along some dimensions, or all; return the parts and the dimensions."""
    count = value.ids.dim()
    dims = list(range(count)) if dim is None or dim == [] else np.atleast_1d(dim).tolist()
    dims = sorted(d % count for d in dims)
    others = [d for d in range(count) if d not in dims]
    shape = [value.ids.shape[d] for d in others]
    parts = value.ids.permute(*dims, *others).reshape(-1, *shape)
    return [Traced(part) for part in parts], dims


def accumulated(
    parts: Sequence[Traced], dim: int, combine: Callable[[Traced, Traced], Traced]
) -> Traced:
    """Combine each part with what those before it gave; stacked along a dimension."""
    found = itertools.accumulate(parts, combine)
    return Traced(torch.stack([each.ids for each in found], dim))


def kept(value: Traced, dims: list[int], keepdim: bool) -> Traced:
    """Put back dimensions that a reduction took away, as ones."""
    ids = value.ids
    for d in dims if keepdim else []:
        ids = ids.unsqueeze(d)
    return Traced(ids)


def fill(tracer: Tracer, value: Any, filler: Any) -> Traced | torch.Tensor:
    """``aten.fill``: one number in the shape of ``value``."""
    shape = tracer.ids(value).shape
    if isinstance(filler, Traced):
        return Traced(filler.ids.expand(shape))
    return torch.full(shape, float(number(filler)))


def dropout(tracer: Tracer, value: Traced, _probability: float, train: bool) -> Traced:
    """``aten.dropout``, which does nothing in eval mode."""
    if train:
        raise UnsupportedOperandsError(
            "dropout is active: export the model in eval mode, and use nn.Dropout or "
            "functional.dropout(..., training=self.training), which obey it"
        )
    return value


def identity(tracer: Tracer, value: Traced, *_args: Any, **_kwargs: Any) -> Traced:
    """Return a value whose type may change; the interpreter checks types."""
    return value
