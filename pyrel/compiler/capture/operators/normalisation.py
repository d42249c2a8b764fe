# SPDX-License-Identifier: Apache-2.0
"""Batch normalisation, linear in eval mode, layer and local response normalisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from pyrel.compiler.capture.operators.arithmetic import add, multiply, times
from pyrel.compiler.capture.operators.operands import NoValue, UnsupportedOperandsError, constant
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import Floats


def batch_norm(
    tracer: Tracer,
    value: Traced,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    training: bool,
    _momentum: float,
    epsilon: float,
    *_: Any,
) -> Any:
    """``aten.batch_norm`` in eval mode: a factor and a shift for each channel."""
    if training or mean is None:
        raise UnsupportedOperandsError(
            "it normalises by the batch, which mixes the samples: the model is in training mode, "
            "or has track_running_stats=False; give one in eval mode, with running statistics"
        )
    channels = (-1, *[1] * (value.ids.dim() - 2))

    def make() -> tuple[torch.Tensor, torch.Tensor]:
        deviation = torch.sqrt(constant(variance, "variance").double() + epsilon)
        factor = (1.0 if weight is None else constant(weight, "weight").double()) / deviation
        shift = 0.0 if bias is None else constant(bias, "bias").double()
        return factor, shift - constant(mean, "mean").double() * factor

    key = ("batch norm", epsilon, *(id(v) for v in (weight, bias, mean, variance)))
    factor, shift = tracer.weights.made(key, make, weight, bias, mean, variance)
    scaled = multiply(tracer, value, factor.reshape(channels))
    return add(tracer, scaled, shift.reshape(channels))


def batch_norm_in_eval_mode(
    tracer: Tracer,
    value: Traced,
    weight: Any,
    bias: Any,
    mean: Any,
    variance: Any,
    momentum: float,
    epsilon: float,
) -> tuple[Any, ...]:
    """``aten._native_batch_norm_legit_no_training``, as a decomposed program has it."""
    out = batch_norm(tracer, value, weight, bias, mean, variance, False, momentum, epsilon)
    return out, NoValue("the mean"), NoValue("the deviation")


def layer_norm(
    tracer: Tracer,
    value: Traced,
    shape: Any,
    weight: Any = None,
    bias: Any = None,
    epsilon: float = 1e-5,
    *_: Any,
) -> Any:
    """``aten.layer_norm`` over the last dimensions, those of ``shape``."""
    rows = Traced(value.ids.flatten(-len(shape)))
    out = tracer.rows(rows, lambda addresses: tracer.builder.normalise(addresses, epsilon))
    out = Traced(out.ids.reshape(value.ids.shape))
    scaled = out if weight is None else multiply(tracer, out, constant(weight, "weight"))
    return scaled if bias is None else add(tracer, scaled, constant(bias, "bias"))


def layer_norm_with_statistics(tracer: Tracer, *args: Any) -> tuple[Any, ...]:
    """``aten.native_layer_norm``, as a decomposed program has it."""
    return layer_norm(tracer, *args), NoValue("the mean"), NoValue("the deviation")


def local_response_norm(
    tracer: Tracer,
    value: Traced,
    size: int,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Any:
    """``functional.local_response_norm``: x · (k + alpha · mean of the squares around it)^−beta.

    With u = alpha/k · the mean, that is k^−beta · (1 + u)^−beta · x, and (1 + u)^−beta is a gate.
    """
    if k <= 0 or alpha < 0:
        raise UnsupportedOperandsError(f"k = {k}, alpha = {alpha}: above 0, at least 0 is wanted")
    channels = value.ids.shape[1]

    def make() -> tuple[Floats, Floats]:
        apart = np.arange(channels)[None, :] - np.arange(channels)[:, None]
        around = (apart >= -(size // 2)) & (apart <= (size - 1) // 2)
        weight: Floats = np.where(around, alpha / (k * size), 0.0)
        return weight, np.zeros(channels)

    weight, bias = tracer.weights.made(("local response", channels, size, alpha, k), make)
    squares = tracer.product(value, value)
    means = tracer.linear(Traced(squares.ids.movedim(1, -1)), weight, bias)
    gate = tracer.activation(Traced(means.ids.movedim(-1, 1)), Function.power, -beta)
    return times(tracer, tracer.product(gate, value), k**-beta)
