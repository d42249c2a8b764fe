# SPDX-License-Identifier: Apache-2.0
"""Transposed convolutions, and interpolation to another size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from pyrel.compiler.capture.operators.operands import constant
from pyrel.compiler.capture.operators.windows import convolution, require_batch
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.nodes import Floats


def transposed_convolution(spatial: int) -> Callable[..., Traced]:
    """Make the handler of ``aten.conv_transpose1d`` or ``aten.conv_transpose2d``.

    It is a convolution with the kernel turned round, of the input with zeros between its elements.
    """

    def handler(
        tracer: Tracer,
        value: Traced,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Traced:
        tensor = constant(weight, "weight")
        require_batch(value, spatial)
        strides, paddings, more, dilations = (
            np.broadcast_to(setting, spatial).tolist()
            for setting in (stride, padding, output_padding, dilation)
        )
        zero = int(tracer.ids(torch.zeros((), dtype=torch.float64)))
        sizes = [(n - 1) * step + 1 for n, step in zip(value.ids.shape[2:], strides, strict=True)]
        ids = value.ids.new_full((*value.ids.shape[:2], *sizes), zero)
        spread: tuple[Any, ...] = (..., *(slice(None, None, step) for step in strides))
        ids[spread] = value.ids
        around: list[int] = []
        for axis in reversed(range(spatial)):
            reach = dilations[axis] * (tensor.shape[2 + axis] - 1) - paddings[axis]
            around += [reach, reach + more[axis]]
        ids = functional.pad(ids, around, value=zero)

        def turned() -> torch.Tensor:
            inputs, outputs, *kernel = tensor.shape
            parts = tensor.detach().reshape(groups, inputs // groups, outputs, *kernel)
            whole = parts.transpose(1, 2).reshape(groups * outputs, inputs // groups, *kernel)
            return whole.flip(*range(2, 2 + spatial)).contiguous()

        kernel = tracer.weights.made(("turned", id(weight), groups), turned, weight)
        return convolution(spatial)(tracer, Traced(ids), kernel, bias, 1, 0, dilations, groups)

    return handler


def nearest(name: str) -> Callable[..., Traced]:
    """Make the handler of an operator that repeats the nearest elements."""
    operator = getattr(torch.ops.aten, name)

    def handler(tracer: Tracer, value: Traced, *settings: Any) -> Traced:
        sizes = value.ids.shape[2:]
        places = torch.arange(sizes.numel(), dtype=torch.float64).reshape(1, 1, *sizes)
        index = operator(places, *settings)[0, 0].long()
        return Traced(value.ids.flatten(2)[:, :, index])

    return handler


def linear(name: str) -> Callable[..., Traced]:
    """Make the handler of an operator that interpolates linearly, along each axis by a matrix."""
    operator = getattr(torch.ops.aten, name)

    def handler(tracer: Tracer, value: Traced, *settings: Any) -> Traced:
        ids = value.ids
        sizes = list(ids.shape[2:])
        for axis, size in enumerate(sizes):

            def weights(axis: int = axis, size: int = size) -> tuple[Floats, Floats]:
                # What an impulse becomes, which is constant along the other axes.
                shape = [size if a == axis else 1 for a in range(len(sizes))]
                impulses = torch.eye(size, dtype=torch.float64).reshape(size, 1, *shape)
                found = operator(impulses.expand(size, 1, *sizes).contiguous(), *settings)
                rows = found.movedim(2 + axis, -1).reshape(size, -1, found.shape[2 + axis])[:, 0]
                return rows.T.contiguous().numpy(), np.zeros(rows.shape[1])

            key = (name, axis, *map(str, settings), *sizes)
            matrix, bias = tracer.weights.made(key, weights)
            moved = tracer.linear(Traced(ids.movedim(2 + axis, -1)), matrix, bias)
            ids = moved.ids.movedim(-1, 2 + axis)
        return Traced(ids)

    return handler
