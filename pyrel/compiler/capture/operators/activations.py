# SPDX-License-Identifier: Apache-2.0
"""Elementwise activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from pyrel.compiler.capture.operators.arithmetic import times
from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function

# Constants of Klambauer et al. 2017, as torch has them.
_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946


def relu(tracer: Tracer, value: Traced) -> Traced:
    """``aten.relu``."""
    return tracer.relu(value)


def clamp(tracer: Tracer, value: Traced, low: Any = None, high: Any = None) -> Traced:
    """``aten.clamp`` to numbers, of which one may be missing."""
    numbers = not any(isinstance(bound, Traced | torch.Tensor) for bound in (low, high))
    if numbers and (low or high is not None) and tracer.numbers.is_of_ids_alone(value):
        if low is not None:
            value = at_least(tracer, value, torch.as_tensor(float(low)))
        return value if high is None else at_most(tracer, value, torch.as_tensor(float(high)))
    if not numbers:
        raise UnsupportedOperandsError("an end is a tensor; it must be a number")
    low, high = -math.inf if low is None else low, math.inf if high is None else high
    return _between(tracer, value, float(low), float(high), at_ends=1.0)


def hardtanh(tracer: Tracer, value: Traced, low: float = -1.0, high: float = 1.0) -> Traced:
    """``aten.hardtanh``."""
    return _between(tracer, value, float(low), float(high), at_ends=0.0)


def relu6(tracer: Tracer, value: Traced) -> Traced:
    """``aten.relu6``."""
    return hardtanh(tracer, value, 0.0, 6.0)


def _between(tracer: Tracer, value: Traced, low: float, high: float, at_ends: float) -> Traced:
    """Keep values between two ends, which may be infinite; ``at_ends`` is the derivative there."""
    if low > high:
        raise UnsupportedOperandsError(f"the lower end {low:g} is above the upper end {high:g}")
    below, above = (
        (Function.at_least, Function.at_most) if at_ends else (Function.above, Function.below)
    )
    if low == 0:
        value = tracer.relu(value, at_zero=at_ends)
    elif low > -math.inf:
        value = tracer.activation(value, below, low)
    return value if high == math.inf else tracer.activation(value, above, high)


def clamp_max(tracer: Tracer, value: Traced, high: Any) -> Traced:
    """``aten.clamp_max``."""
    return clamp(tracer, value, None, high)


def at_least(tracer: Tracer, value: Traced, low: torch.Tensor) -> Traced:
    """Return the larger of each element and a constant, of what has no gradient."""
    return tracer.add(tracer.relu(tracer.add(value, -low.double())), low.double())


def at_most(tracer: Tracer, value: Traced, high: torch.Tensor) -> Traced:
    """Return the smaller of each element and a constant, of what has no gradient."""
    minus = torch.tensor(-1.0)
    return tracer.scale(at_least(tracer, tracer.scale(value, minus), -high), minus)


def simple(function: Function) -> Callable[[Tracer, Traced], Traced]:
    """Make a handler of an activation that takes no argument."""
    return lambda tracer, value: tracer.activation(value, function)


def leaky_relu(tracer: Tracer, value: Traced, negative_slope: float = 0.01) -> Traced:
    """``aten.leaky_relu``."""
    return tracer.activation(value, Function.leaky_relu, float(negative_slope))


def gelu(tracer: Tracer, value: Traced, approximate: str = "none") -> Traced:
    """``aten.gelu``, by the error function or by tanh."""
    return tracer.activation(value, Function.gelu_tanh if approximate == "tanh" else Function.gelu)


def softplus(tracer: Tracer, value: Traced, beta: float = 1, threshold: float = 20) -> Traced:
    """``aten.softplus``: ``log(1 + exp(beta * value)) / beta``."""
    # Above the threshold torch returns the value; beyond 20 the difference is below rounding.
    if threshold < 20:
        raise UnsupportedOperandsError(f"threshold {threshold}: 20 or more is wanted")
    inner = tracer.activation(times(tracer, value, beta), Function.softplus)
    return times(tracer, inner, 1.0 / beta)


def elu(
    tracer: Tracer, value: Traced, alpha: float = 1, scale: float = 1, input_scale: float = 1
) -> Traced:
    """``aten.elu``: scale · x above 0, scale · alpha · (exp(input_scale · x) − 1) below."""
    inner = times(tracer, value, input_scale)
    outer = tracer.activation(inner, Function.elu, float(alpha * input_scale))
    return times(tracer, outer, scale / input_scale)


def selu(tracer: Tracer, value: Traced) -> Traced:
    """``aten.selu``."""
    return elu(tracer, value, _SELU_ALPHA, _SELU_SCALE)


def celu(tracer: Tracer, value: Traced, alpha: float = 1.0) -> Traced:
    """``aten.celu``: x above 0, alpha · (exp(x / alpha) − 1) below."""
    return elu(tracer, value, alpha, 1.0, 1.0 / alpha)
