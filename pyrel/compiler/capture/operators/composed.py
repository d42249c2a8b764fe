# SPDX-License-Identifier: Apache-2.0
"""Operators that are other operators in a row, and other names of operators."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from pyrel.compiler.capture.operators import comparisons, selection
from pyrel.compiler.capture.operators.arithmetic import (
    accumulated,
    add,
    divide,
    kept,
    matmul,
    mean,
    multiply,
    over,
    subtract,
)
from pyrel.compiler.capture.operators.elementwise import absolute
from pyrel.compiler.capture.operators.operands import NoValue, UnsupportedOperandsError
from pyrel.compiler.capture.operators.statistics import deviation
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function

# torch's other names of operators.
ALIASES = {
    "absolute": "abs",
    "clip": "clamp",
    "divide": "div",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "subtract": "sub",
    "true_divide": "div",
}


def add_scaled(combine: Callable[[Tracer, Any, Any], Any]) -> Callable[..., Any]:
    """Make the handler of ``aten.addcmul`` or ``aten.addcdiv``: a + c · (left ⊙ right)."""

    def handler(tracer: Tracer, start: Any, left: Any, right: Any, *, value: float = 1) -> Any:
        return add(tracer, start, combine(tracer, left, right), alpha=value)

    return handler


def between(tracer: Tracer, start: Any, end: Any, weight: Any) -> Any:
    """``aten.lerp``: start + weight · (end − start)."""
    return add(tracer, start, multiply(tracer, subtract(tracer, end, start), weight))


def add_matrix_product(
    tracer: Tracer, value: Any, left: Any, right: Any, *, beta: float = 1, alpha: float = 1
) -> Any:
    """``aten.baddbmm``."""
    product = multiply(tracer, matmul(tracer, left, right), float(alpha))
    return add(tracer, product, value, alpha=beta)


def outer(tracer: Tracer, left: Any, right: Any) -> Any:
    """``aten.outer`` of two vectors."""
    ids = tracer.ids(left)[:, None], tracer.ids(right)[None]
    return multiply(tracer, *(Traced(each) for each in ids))


def product(tracer: Tracer, value: Traced, dim: Any = None, keepdim: bool = False, **_: Any) -> Any:
    """``aten.prod`` along a dimension, or of all."""
    parts, dims = over(value, dim)
    return kept(functools.reduce(tracer.product, parts), dims, keepdim)


def deviation_and_mean(tracer: Tracer, value: Traced, *args: Any, **options: Any) -> Any:
    """``aten.std_mean``."""
    dim = args[0] if args and not isinstance(args[0], bool) else options.get("dim")
    keepdim = bool(args[2]) if len(args) > 2 else bool(options.get("keepdim", False))
    return deviation(tracer, value, *args, **options), mean(tracer, value, dim, keepdim)


def running(choose: Callable[..., Any]) -> Callable[..., Any]:
    """Make the handler of ``aten.cummax`` or ``aten.cummin``."""

    def handler(tracer: Tracer, value: Traced, dim: int) -> tuple[Traced, NoValue]:
        def next_of(so_far: Traced, part: Traced) -> Traced:
            pair = Traced(torch.stack([part.ids, so_far.ids]))  # of equal values the later one
            found: Traced = choose(tracer, pair, 0)[0]
            return found

        parts = [Traced(part) for part in value.ids.unbind(dim)]
        return accumulated(parts, dim, next_of), NoValue("the position of an extreme value")

    return handler


def differences(
    tracer: Tracer,
    value: Traced,
    times: int = 1,
    dim: int = -1,
    before: Any = None,
    after: Any = None,
) -> Any:
    """``aten.diff``: each value less the one before it."""
    if before is not None or after is not None:
        raise UnsupportedOperandsError("values are put before or after; use torch.cat")
    for _ in range(times):
        count = value.ids.shape[dim] - 1
        later, sooner = (Traced(value.ids.narrow(dim, first, count)) for first in (1, 0))
        value = subtract(tracer, later, sooner)
    return value


def triangle(name: str) -> Callable[..., Any]:
    """Make the handler of ``aten.tril`` or ``aten.triu``."""

    def handler(tracer: Tracer, value: Traced, diagonal: int = 0) -> Any:
        ones = torch.ones(value.ids.shape[-2:], dtype=torch.bool)
        zero = tracer.ids(torch.zeros((), dtype=torch.float64))
        return Traced(torch.where(getattr(ones, name)(diagonal), value.ids, zero))

    return handler


def tangent(tracer: Tracer, value: Traced) -> Any:
    """``aten.tan``: sin / cos."""
    sine, cosine = (tracer.activation(value, f) for f in (Function.sin, Function.cos))
    return divide(tracer, sine, cosine)


def threshold(tracer: Tracer, value: Traced, end: float, filler: float) -> Any:
    """``aten.threshold``: another number at and below an end."""
    return comparisons.chosen(tracer, comparisons.greater(tracer, value, end), value, filler)


def hard_shrink(tracer: Tracer, value: Traced, end: float = 0.5) -> Any:
    """``aten.hardshrink``: 0 where the magnitude is at most an end."""
    mask = comparisons.greater(tracer, absolute(tracer, value), end)
    return comparisons.chosen(tracer, mask, value, 0.0)


PRODUCTS: dict[str, Callable[..., Any]] = {
    "addcdiv": add_scaled(divide),
    "addcmul": add_scaled(multiply),
    "lerp": between,
    "outer": outer,
    "prod": product,
    "tan": tangent,
}
EXTREMES: dict[str, Callable[..., Any]] = {
    "cummax": running(selection.maximum),
    "cummin": running(selection.minimum),
}
CHOICES: dict[str, Callable[..., Any]] = {"hardshrink": hard_shrink, "threshold": threshold}
TRIANGLES: dict[str, Callable[..., Any]] = {name: triangle(name) for name in ("tril", "triu")}
