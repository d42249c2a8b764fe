# SPDX-License-Identifier: Apache-2.0
"""Softmax, logarithms of sums, variances, norms, and normalisation by them."""

from __future__ import annotations

import math
from typing import Any

import torch

from pyrel.compiler.capture.operators.arithmetic import (
    accumulated,
    add,
    kept,
    matmul,
    mean,
    multiply,
    over,
    times,
    total,
)
from pyrel.compiler.capture.operators.elementwise import absolute, inverse_root
from pyrel.compiler.capture.operators.normalisation import layer_norm
from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError, constant, type_of
from pyrel.compiler.capture.operators.selection import infinite, where
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function

_SMOOTH = 1.0  # the parameter of a square root whose derivative at 0 is 0, as that of a norm


def softmax(tracer: Tracer, value: Traced, dim: int, *_: Any, **__: Any) -> Any:
    """``aten.softmax``: e^(x − m) / Σ e^(x − m), m being the largest x, which has no gradient."""
    exponentials, summed, _largest = _exponentials(tracer, value, dim)
    return multiply(tracer, exponentials, tracer.activation(summed, Function.reciprocal))


def log_softmax(tracer: Tracer, value: Traced, dim: int, *_: Any, **__: Any) -> Any:
    """``aten.log_softmax``: x − m − log Σ e^(x − m)."""
    _, summed, largest = _exponentials(tracer, value, dim)
    rest = add(tracer, tracer.activation(summed, Function.log), largest)
    return add(tracer, value, times(tracer, rest, -1.0))


def log_sum_exp(tracer: Tracer, value: Traced, dim: Any, keepdim: bool = False) -> Any:
    """``aten.logsumexp``: m + log Σ e^(x − m)."""
    _, summed, largest = _exponentials(tracer, value, dim)
    found = add(tracer, tracer.activation(summed, Function.log), largest)
    dims = over(value, dim)[1]
    ids = found.ids
    return found if keepdim else Traced(ids.squeeze(tuple(dims)))


def log_add_exp(tracer: Tracer, left: Any, right: Any) -> Any:
    """``aten.logaddexp``: b + log(1 + e^(a − b))."""
    difference = add(tracer, left, multiply(tracer, right, -1.0))
    return add(tracer, tracer.activation(difference, Function.softplus), right)


def log_cumulative_sum_exp(tracer: Tracer, value: Traced, dim: int) -> Traced:
    """``aten.logcumsumexp`` along a dimension."""
    parts = [Traced(part) for part in value.ids.unbind(dim)]
    return accumulated(parts, dim, lambda so_far, part: log_add_exp(tracer, part, so_far))


def _exponentials(tracer: Tracer, value: Traced, dim: Any) -> tuple[Any, Any, Traced]:
    """Return e^(x − m), its sum and m over some dimensions, which stay as ones.

    What a constant mask sets to −∞ is 0 without being computed.
    """
    parts, dims = over(value, dim)
    largest = tracer.stop(kept(tracer.maximum(*parts, even=True), dims, True))
    masked = infinite(tracer, value.ids) == -math.inf
    rest = Traced(torch.where(masked, largest.ids.expand(value.ids.shape), value.ids))
    below = tracer.add(rest, times(tracer, largest, -1.0))
    ids = tracer.activation(below, Function.exp).ids
    zero = tracer.ids(torch.zeros((), dtype=torch.float64))
    exponentials = Traced(torch.where(masked, zero, ids))
    return exponentials, total(tracer, exponentials, dims, True), largest


def attention(
    tracer: Tracer,
    query: Any,
    key: Any,
    value: Any,
    mask: Any = None,
    dropout: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """``aten.scaled_dot_product_attention``: softmax(scale · Q Kᵀ + mask) V."""
    if dropout:
        raise UnsupportedOperandsError("dropout is active: give the model in eval mode")
    if enable_gqa:  # a head of keys and values is that of several queries
        key, value = (_repeated(each, tracer.ids(query).shape[-3]) for each in (key, value))
    keys = tracer.ids(key)
    by = 1 / math.sqrt(keys.shape[-1]) if scale is None else scale
    turned = Traced(keys.mT) if isinstance(key, Traced) else constant(key, "key").mT
    scores = times(tracer, matmul(tracer, query, turned), by)
    if is_causal:
        allowed = torch.ones(scores.ids.shape[-2:], dtype=torch.bool).tril()
        mask = allowed if mask is None else mask
    if mask is not None and type_of(mask) == torch.bool:
        scores = where(tracer, mask, scores, -math.inf)
    elif mask is not None:
        scores = add(tracer, scores, mask)
    return matmul(tracer, softmax(tracer, scores, -1), value)


def _repeated(heads: Any, count: int) -> Any:
    """Repeat heads, so that there are so many."""
    found = heads.ids if isinstance(heads, Traced) else constant(heads, "operand")
    found = found.repeat_interleave(count // found.shape[-3], -3)
    return Traced(found) if isinstance(heads, Traced) else found


def variance(
    tracer: Tracer,
    value: Traced,
    dim: Any = None,
    unbiased: Any = None,
    keepdim: bool = False,
    *,
    correction: Any = None,
) -> Traced:
    """``aten.var``, over some dimensions or all; by n − ``correction``."""
    if isinstance(dim, bool):  # var(x, unbiased)
        dim, unbiased = None, dim
    less = (1 if unbiased in (None, True) else 0) if correction is None else float(correction)
    centred = add(tracer, value, times(tracer, mean(tracer, value, dim, True), -1.0))
    squares = total(tracer, tracer.activation(centred, Function.square), dim, keepdim)
    count = value.ids.numel() // max(1, squares.ids.numel())
    if count <= less:
        raise UnsupportedOperandsError(f"the variance of {count} values less {less:g} is none")
    return times(tracer, squares, 1.0 / (count - less))


def deviation(tracer: Tracer, value: Traced, *args: Any, **options: Any) -> Traced:
    """``aten.std``."""
    return tracer.activation(variance(tracer, value, *args, **options), Function.sqrt)


def variance_and_mean(tracer: Tracer, value: Traced, *args: Any, **options: Any) -> Any:
    """``aten.var_mean``."""
    spread = variance(tracer, value, *args, **options)
    dim = args[0] if args and not isinstance(args[0], bool) else options.get("dim")
    keepdim = bool(args[2]) if len(args) > 2 else bool(options.get("keepdim", False))
    return spread, mean(tracer, value, dim, keepdim)


def norm(
    tracer: Tracer, value: Traced, order: Any = 2, dim: Any = None, keepdim: bool = False, **_: Any
) -> Any:
    """``aten.linalg_vector_norm`` and ``aten.norm``: of order 1, 2 or ∞."""
    p = 2.0 if order is None or order == "fro" else float(order)
    if p == 1.0:
        return total(tracer, absolute(tracer, value), dim, keepdim)
    if p == math.inf:
        parts, dims = over(absolute(tracer, value), dim)
        return kept(tracer.maximum(*parts, even=True), dims, keepdim)
    if p == 2.0:
        squares = total(tracer, tracer.activation(value, Function.square), dim, keepdim)
        return tracer.activation(squares, Function.sqrt, _SMOOTH)
    raise UnsupportedOperandsError(f"order {order}: 1, 2 and infinity are supported")


def cosine(tracer: Tracer, left: Any, right: Any, dim: int = 1, epsilon: float = 1e-8) -> Any:
    """``aten.cosine_similarity``: Σ a b, a and b being divided by their norms."""
    parts = []
    for each in (left, right):
        if isinstance(each, Traced):
            size = tracer.activation(
                norm(tracer, each, 2, dim, True), Function.at_least, float(epsilon)
            )
            parts.append(multiply(tracer, each, tracer.activation(size, Function.reciprocal)))
        else:
            given = constant(each, "operand").double()
            size = torch.linalg.vector_norm(given, dim=dim, keepdim=True).clamp_min(epsilon)
            parts.append(given / size)
    return total(tracer, multiply(tracer, *parts), dim)


def group_norm(
    tracer: Tracer,
    value: Traced,
    groups: int,
    weight: Any = None,
    bias: Any = None,
    epsilon: float = 1e-5,
    *_: Any,
) -> Any:
    """``aten.group_norm``: each group of channels less its mean, by its deviation."""
    ids = value.ids
    grouped = Traced(ids.reshape(len(ids), groups, -1))
    normal = layer_norm(tracer, grouped, [grouped.ids.shape[-1]], None, None, epsilon)
    return _by_channel(tracer, Traced(normal.ids.reshape(ids.shape)), weight, bias)


def instance_norm(
    tracer: Tracer,
    value: Traced,
    weight: Any,
    bias: Any,
    _mean: Any,
    _variance: Any,
    use_input_statistics: bool,
    _momentum: float,
    epsilon: float,
    *_: Any,
) -> Any:
    """``aten.instance_norm`` by the statistics of each sample and channel."""
    if not use_input_statistics:
        raise UnsupportedOperandsError("it normalises by running statistics; use batch_norm")
    return group_norm(tracer, value, value.ids.shape[1], weight, bias, epsilon)


def rms_norm(
    tracer: Tracer, value: Traced, shape: Any, weight: Any = None, epsilon: float | None = None
) -> Any:
    """``aten.rms_norm``: x / √(mean x² + ε) over the last dimensions, those of ``shape``."""
    small = float(torch.finfo(torch.float32).eps) if epsilon is None else float(epsilon)
    dims = list(range(-len(shape), 0))
    squares = mean(tracer, tracer.activation(value, Function.square), dims, True)
    found = multiply(tracer, value, inverse_root(tracer, add(tracer, squares, small)))
    return found if weight is None else multiply(tracer, found, constant(weight, "weight"))


def _by_channel(tracer: Tracer, value: Any, weight: Any, bias: Any) -> Any:
    channels = (-1, *[1] * (value.ids.dim() - 2))
    if weight is not None:
        value = multiply(tracer, value, constant(weight, "weight").reshape(channels))
    return value if bias is None else add(tracer, value, constant(bias, "bias").reshape(channels))
