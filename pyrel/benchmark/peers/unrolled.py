# SPDX-License-Identifier: Apache-2.0
"""A cell as packages for feed-forward networks want it: every step has modules of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pyrel.benchmark.layers import Layer, Layers


class Unrolled(nn.Module):
    """A cell without weight sharing, its ReLUs modules: (n, steps, pixels) to (n, classes).

    Parameters
    ----------
    layers
        Of the cell.
    relu
        Makes a module for each ReLU.
    """

    def __init__(self, layers: Layers, relu: Callable[[], nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.steps = layers.steps
        first = Layer(layers.cell.weight[: layers.encoded], layers.cell.bias)
        steps = range(layers.steps)
        self.encoders: nn.ModuleList | None = None  # captum knows no rule for an empty one
        if layers.encoders:
            self.encoders = nn.ModuleList(
                nn.Sequential(*(m for e in layers.encoders for m in (_linear(e), relu())))
                for _ in steps
            )
        self.cells = nn.ModuleList(
            nn.Sequential(_linear(layers.cell if t else first), relu()) for t in steps
        )
        if layers.feedback is not None:
            fed = layers.feedback
            self.feedbacks = nn.ModuleList(nn.Sequential(_linear(fed), relu()) for _ in steps[1:])
        modules: list[nn.Module] = [_linear(layers.readers[0])]
        for reader in layers.readers[1:]:
            modules += [relu(), _linear(reader)]
        self.reader = nn.Sequential(*modules)
        self.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the class scores."""
        state: Tensor = self.cells[0](self._encoded(x, 0))
        for t in range(1, self.steps):
            joined = [self._encoded(x, t), self.feedbacks[t - 1](state)]
            state = self.cells[t](torch.cat(joined, 1))
        scores: Tensor = self.reader(state)
        return scores

    def input_layers(self) -> list[nn.Module]:
        """Return the linear layers that read pixels."""
        return [next(chain.children()) for chain in self.encoders or self.cells]

    def _encoded(self, x: Tensor, step: int) -> Tensor:
        if self.encoders is None:
            return x[:, step]
        encoded: Tensor = self.encoders[step](x[:, step])
        return encoded


def _linear(layer: Layer) -> nn.Linear:
    linear = nn.Linear(*layer.weight.shape)
    with torch.no_grad():
        linear.weight.copy_(torch.from_numpy(layer.weight.T))
        linear.bias.copy_(torch.from_numpy(layer.bias))
    return linear
