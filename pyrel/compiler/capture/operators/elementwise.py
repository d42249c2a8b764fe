# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions that are no activations of their own, and activations made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from pyrel.compiler.capture.operators.activations import relu6
from pyrel.compiler.capture.operators.arithmetic import (
    accumulated,
    add,
    mean,
    multiply,
    subtract,
    times,
    total,
)
from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError, constant, number
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function

_LARGEST_POWER = 100.0  # |x|^100 of x = 2.4 is beyond float32


def absolute(tracer: Tracer, value: Traced) -> Traced:
    """``aten.abs``, whose derivative at 0 is 0."""
    return tracer.activation(value, Function.absolute)


def logarithm(base: float) -> Any:
    """Make the handler of a logarithm to a base."""

    def handler(tracer: Tracer, value: Traced) -> Traced:
        return times(tracer, tracer.activation(value, Function.log), 1.0 / math.log(base))

    return handler


def inverse_root(tracer: Tracer, value: Traced) -> Traced:
    """``aten.rsqrt``."""
    return tracer.activation(tracer.activation(value, Function.sqrt), Function.reciprocal)


def power(tracer: Tracer, value: Any, exponent: Any) -> Any:
    """``aten.pow`` with a constant exponent, or of a constant above 0."""
    if isinstance(exponent, Traced):
        base = constant(value, "base").double()
        if bool((base <= 0).any()):
            raise UnsupportedOperandsError("a base of 0 or below has a power that is computed")
        return tracer.activation(multiply(tracer, exponent, base.log()), Function.exp)
    powers = constant(exponent, "exponent").double().flatten()
    p = float(powers[0])
    if bool((powers != p).any()):
        raise UnsupportedOperandsError("the exponent differs from element to element")
    if abs(p) > _LARGEST_POWER:
        raise UnsupportedOperandsError(f"exponent {p:g}: at most ±{_LARGEST_POWER:g} is supported")
    match p:
        case 0.0:
            return torch.ones(value.ids.shape)
        case 1.0:
            return value
        case 2.0:
            return tracer.activation(value, Function.square)
        case 0.5:
            return tracer.activation(value, Function.sqrt)
        case -0.5:
            return inverse_root(tracer, value)
        case -1.0:
            return tracer.activation(value, Function.reciprocal)
        case _:
            return tracer.activation(value, Function.pow, p)


def hardsigmoid(tracer: Tracer, value: Traced) -> Any:
    """``aten.hardsigmoid``: from 0 at −3 to 1 at 3."""
    return times(tracer, relu6(tracer, add(tracer, value, 3.0)), 1 / 6)


def hardswish(tracer: Tracer, value: Traced) -> Any:
    """``aten.hardswish``: x · hardsigmoid(x)."""
    return multiply(tracer, value, hardsigmoid(tracer, value))


def prelu(tracer: Tracer, value: Traced, weight: Any) -> Traced:
    """``aten.prelu``: one slope below 0, or one for each channel."""
    slopes = constant(weight, "weight").double()
    if slopes.numel() == 1:
        return tracer.activation(value, Function.leaky_relu, float(slopes))
    channels = slopes.reshape(-1, *[1] * (value.ids.dim() - 2))
    parts = [
        tracer.activation(Traced(part), Function.leaky_relu, float(slope)).ids
        for part, slope in zip(value.ids.unbind(1), channels.flatten().tolist(), strict=True)
    ]
    return Traced(torch.stack(parts, 1))


def glu(tracer: Tracer, value: Traced, dim: int = -1) -> Any:
    """``aten.glu``: the first half times the sigmoid of the second."""
    signal, gate = value.ids.chunk(2, dim)
    return multiply(tracer, Traced(signal), tracer.activation(Traced(gate), Function.sigmoid))


def log_sigmoid(tracer: Tracer, value: Traced) -> Traced:
    """``aten.log_sigmoid``: −log(1 + e^−x)."""
    return times(tracer, tracer.activation(times(tracer, value, -1.0), Function.softplus), -1.0)


def mish(tracer: Tracer, value: Traced) -> Any:
    """``aten.mish``: x · tanh(softplus(x))."""
    inner = tracer.activation(value, Function.softplus)
    return multiply(tracer, value, tracer.activation(inner, Function.tanh))


def softshrink(tracer: Tracer, value: Traced, threshold: float = 0.5) -> Any:
    """``aten.softshrink``: x less the nearest value between −threshold and threshold."""
    by = number(float(threshold))
    above = tracer.relu(tracer.add(value, -by))
    below = tracer.relu(tracer.add(times(tracer, value, -1.0), -by))
    return tracer.add(above, times(tracer, below, -1.0))


def exp2(tracer: Tracer, value: Traced) -> Traced:
    """``aten.exp2``."""
    return tracer.activation(times(tracer, value, math.log(2.0)), Function.exp)


def cumulative_product(tracer: Tracer, value: Traced, dim: int, **_: Any) -> Traced:
    """``aten.cumprod`` along a dimension."""
    return accumulated([Traced(part) for part in value.ids.unbind(dim)], dim, tracer.product)


def loss(function: Callable[[Tracer, Traced], Traced]) -> Callable[..., Traced]:
    """Make the handler of a function of differences, added up as ``reduction`` says."""

    def handler(tracer: Tracer, value: Any, wanted: Any, reduction: int = 1) -> Traced:
        found = function(tracer, subtract(tracer, value, wanted))
        if reduction == 0:
            return found
        return mean(tracer, found) if reduction == 1 else total(tracer, found)

    return handler
