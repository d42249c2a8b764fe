# SPDX-License-Identifier: Apache-2.0
"""The net that the outside oracles explain, in float64 so that only rules can differ."""

from __future__ import annotations

from typing import Any

import numpy as np
import reference_graph as ref
import torch
from reference_graph import Array
from torch import nn

WIDTHS = (21, 33, 17, 5)


def net(*, first_bias: bool, sign: float | None = None, seed: int = 0) -> nn.Sequential:
    """Return Linear-ReLU-Linear-ReLU-Linear; biases of one `sign`, or of both."""
    torch.manual_seed(seed)
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate(zip(WIDTHS, WIDTHS[1:], strict=False)):
        layers += [nn.Linear(before, after, bias=first_bias or number > 0), nn.ReLU()]
    model = nn.Sequential(*layers[:-1]).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("weight"):
                parameter.normal_(0.05, (2 / parameter.shape[1]) ** 0.5)
            else:
                parameter.normal_(0.0, 0.3)
                if sign is not None:
                    parameter.abs_().mul_(sign)
            # The engine holds float32: both sides get weights that float32 can hold.
            parameter.copy_(parameter.float())
    return model.eval()


def graph(model: nn.Sequential, low: Any, high: Any) -> ref.Node:
    """Return the reference's output node."""
    node: ref.Node = ref.input_node(WIDTHS[:1], low, high)
    linears = [layer for layer in model if isinstance(layer, nn.Linear)]
    for number, layer in enumerate(linears):
        bias = None if layer.bias is None else layer.bias.detach().numpy()
        node = ref.linear(node, layer.weight.detach().numpy(), bias)
        if number < len(linears) - 1:
            node = ref.relu(node)
    return node


def inputs(low: float, high: float, count: int = 40) -> Array:
    """Return samples whose values float32 can hold."""
    rng = np.random.default_rng(1)
    return rng.uniform(low, high, (count, WIDTHS[0])).astype(np.float32).astype(np.float64)
