# SPDX-License-Identifier: Apache-2.0
"""The package's recurrent cells, unrolled for the reference from their weights alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import reference_graph as ref
import torch
from torch import nn

import pyrel.nn

State = dict[str, ref.Array]


def _layer(state: State, name: str, node: ref.Node) -> ref.Node:
    """h = W a − softplus(b)."""
    return ref.linear(node, state[f"{name}.weight"], -np.logaddexp(0.0, state[f"{name}.bias"]))


def _relu_layer(state: State, name: str, node: ref.Node) -> ref.Node:
    return ref.relu(_layer(state, name, node))


def cell_graph(module: nn.Module, x: ref.Node) -> ref.Node:
    """Unroll a cell: r₀ = 0, [encoded x_t; r_t] → a(4) → r_{t+1}, then the read-out."""
    state = {name: p.double().numpy() for name, p in module.state_dict().items()}
    encoders = [name for name in ("encoder", "encoder_2") if f"{name}.weight" in state]
    steps = x.shape[0]
    recurrent: ref.Node | None = None
    if steps > 1:
        recurrent = ref.zeros(state["feedback.weight"].shape[0])
    for t in range(steps):
        step = ref.take(x, t)
        encoded = ref.reshape(step, step.size)
        for name in encoders:
            encoded = _relu_layer(state, name, encoded)
        joined = encoded if recurrent is None else ref.concat([encoded, recurrent])
        a4 = _relu_layer(state, "cell", joined)
        if t < steps - 1:
            recurrent = _relu_layer(state, "feedback", a4)
    if encoders:
        a4 = _relu_layer(state, "decision", a4)
    return _layer(state, "output", a4)


@dataclass(frozen=True, eq=False)
class CellCase:
    """One cell at awkward sizes and the domain of its input."""

    cell: str
    steps: int
    step_shape: tuple[int, ...]
    sizes: tuple[int, ...]
    recurrent: int
    classes: int
    low: float = 0.0
    high: float = 1.0

    @property
    def name(self) -> str:
        widths = "-".join(map(str, self.sizes))
        return f"{self.cell}-T{self.steps}-{widths}"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.steps, *self.step_shape)

    def module(self) -> nn.Module:
        """Return the cell in eval mode, with weights under which narrow layers stay alive."""
        cell: Any = getattr(pyrel.nn, self.cell)
        module: nn.Module = cell(
            self.steps, self.step_shape, self.classes, self.sizes, self.recurrent
        )
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.dim() == 1:
                    parameter.normal_(-4.0, 0.5, generator=generator)
                    continue
                fan = parameter.shape[1]
                parameter.normal_(0.3 / fan, (1.8 / fan) ** 0.5, generator=generator)
        return module.eval()

    def graph(self, module: nn.Module, *, bounded: bool = True) -> ref.Node:
        """Return the output node of the reference."""
        domain = (self.low, self.high) if bounded else ()
        return cell_graph(module, ref.input_node(self.shape, *domain))


# Widths one under, at and over the vector and tile widths 8, 16, 32 and 64, and 1.
CELL_CASES = (
    CellCase("Shallow", 1, (3, 5), (33,), 8, 10),
    CellCase("Shallow", 2, (15,), (17,), 9, 3, -1.0, 1.0),
    CellCase("Shallow", 4, (4, 8), (31,), 33, 1),
    CellCase("Shallow", 7, (1, 3), (65,), 15, 7, -0.5, 1.5),
    CellCase("Shallow", 12, (7,), (32,), 16, 10),
    CellCase("Deep", 1, (33,), (15, 17, 8), 3, 4, -1.0, 1.0),
    CellCase("Deep", 2, (3, 3), (31, 33, 16), 65, 10),
    CellCase("Deep", 4, (1,), (16, 15, 17), 31, 2),
    CellCase("Deep", 7, (5, 5), (3, 32, 9), 17, 10, -1.0, 0.5),
    CellCase("Deep", 12, (28, 7), (64, 33, 15), 63, 10),
    CellCase("DeepV2", 1, (17,), (9, 16, 15, 33), 8, 3),
    CellCase("DeepV2", 2, (31,), (33, 17, 8, 15), 16, 10, -2.0, 2.0),
    CellCase("DeepV2", 4, (2, 4), (15, 7, 31, 32), 17, 5),
    CellCase("DeepV2", 7, (16,), (65, 31, 33, 17), 32, 10),
    CellCase("DeepV2", 12, (3,), (8, 9, 17, 7), 15, 4, -1.0, 1.0),
)
