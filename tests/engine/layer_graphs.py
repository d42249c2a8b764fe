# SPDX-License-Identifier: Apache-2.0
"""The reference's graph of torch's layers, for models that are a chain of them."""

from __future__ import annotations

from typing import Any

import reference_graph as ref
from reference_functions import activation
from reference_layers import (
    adaptive_average_pool,
    average_pool,
    batch_norm,
    convolution,
    layer_norm,
    max_pool,
    pad,
)
from torch import Tensor, nn


def array(tensor: Tensor | None) -> ref.Array | None:
    """Return a parameter in float64."""
    return None if tensor is None else tensor.detach().double().numpy()


def _convolution(m: Any, x: ref.Node) -> ref.Node:
    padding = m.padding
    if padding == "same":
        padding = [d * (k - 1) // 2 for d, k in zip(m.dilation, m.kernel_size, strict=True)]
    options = {"stride": m.stride, "padding": padding, "dilation": m.dilation, "groups": m.groups}
    return convolution(x, array(m.weight), array(m.bias), **options)


def _softplus(m: nn.Softplus, x: ref.Node) -> ref.Node:
    return ref.scale(activation("softplus", ref.scale(x, m.beta)), 1 / m.beta)


def layer_graph(layer: nn.Module, x: ref.Node) -> ref.Node:
    """Return the node of one layer over `x`."""
    m: Any = layer
    match layer:
        case nn.Sequential():
            for inner in layer:
                x = layer_graph(inner, x)
            return x
        case nn.Flatten():
            return ref.reshape(x, x.size)
        case nn.Dropout() | nn.Identity():
            return x
        case nn.Linear():
            return ref.linear(x, array(m.weight), array(m.bias))
        case nn.Conv1d() | nn.Conv2d():
            return _convolution(m, x)
        case nn.MaxPool1d() | nn.MaxPool2d():
            return max_pool(x, m.kernel_size, m.stride, m.padding, m.dilation, m.ceil_mode)
        case nn.AvgPool1d() | nn.AvgPool2d():
            return average_pool(
                x, m.kernel_size, m.stride, m.padding, m.ceil_mode, m.count_include_pad
            )
        case nn.AdaptiveAvgPool1d() | nn.AdaptiveAvgPool2d():
            return adaptive_average_pool(x, m.output_size)
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            moments = array(m.running_mean), array(m.running_var)
            return batch_norm(x, *moments, array(m.weight), array(m.bias), m.eps)
        case nn.LayerNorm():
            axes = len(m.normalized_shape)
            return layer_norm(x, array(m.weight), array(m.bias), m.eps, axes)
        case nn.ConstantPad1d() | nn.ZeroPad2d():
            left, right, *rest = m.padding
            widths = [(left, right)] if not rest else [tuple(rest), (left, right)]
            return pad(x, *widths)
        case nn.ReLU():
            return ref.relu(x)
        case nn.Sigmoid() | nn.Tanh() | nn.SiLU():
            return activation(type(layer).__name__.lower(), x)
        case nn.LeakyReLU():
            return activation("leaky_relu", x, m.negative_slope)
        case nn.ELU():
            return activation("elu", x, m.alpha)
        case nn.GELU():
            return activation("gelu" if m.approximate == "none" else "gelu_tanh", x)
        case nn.Softplus():
            return _softplus(m, x)
    raise TypeError(type(layer).__name__)
