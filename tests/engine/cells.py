# SPDX-License-Identifier: Apache-2.0
"""The package's recurrent cells, unrolled for the reference from their weights alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import reference_graph as ref
import torch
from reference_functions import sigmoid
from reference_layers import convolution, max_pool, sum_pool
from torch import nn

import pyrel.nn

State = dict[str, ref.Array]


def _layer(state: State, name: str, node: ref.Node) -> ref.Node:
    """h = W a − softplus(b)."""
    return ref.linear(node, state[f"{name}.weight"], -np.logaddexp(0.0, state[f"{name}.bias"]))


def _relu_layer(state: State, name: str, node: ref.Node) -> ref.Node:
    return ref.relu(_layer(state, name, node))


def cell_graph(module: nn.Module, x: ref.Node) -> ref.Node:
    """Unroll a cell of one of the kinds: with feedback through r, or R-LSTM."""
    state = {name: p.double().numpy() for name, p in module.state_dict().items()}
    if isinstance(module, pyrel.nn.RLSTM):
        return _rlstm(module, state, x)
    if isinstance(module, pyrel.nn.ConvDeep):
        encoded = _convolved_steps(module, state, "encoder", x)
    else:
        encoded = _encoded_steps(state, x)
    return _with_feedback(state, encoded)


def _encoded_steps(state: State, x: ref.Node) -> list[ref.Node]:
    steps = [ref.take(x, t) for t in range(x.shape[0])]
    encoded = [ref.reshape(step, step.size) for step in steps]
    for name in ("encoder", "encoder_2"):
        if f"{name}.weight" in state:
            encoded = [_relu_layer(state, name, step) for step in encoded]
    return encoded


def _convolved_steps(module: Any, state: State, name: str, x: ref.Node) -> list[ref.Node]:
    """Conv 5×5, pool, conv 3×3, pool; ConvDeep⁺ appends each convolution's maps of the step before.

    Pools of 2×2 round up, and sum or take the largest.
    """
    encoder = getattr(module, name)
    pool = max_pool if encoder.pooling == "max" else sum_pool
    encoded: list[ref.Node] = []
    before: list[ref.Node | None] = [None, None]
    for t in range(x.shape[0]):
        a = ref.take(x, slice(t, t + 1))
        for number, conv in enumerate(("conv_1", "conv_2")):
            weight, bias = (state[f"{name}.{conv}.{kind}"] for kind in ("weight", "bias"))
            if encoder.literal:
                own = before[number]
                empty = ref.zeros(weight.shape[0], *a.shape[1:])
                a = ref.concat([a, empty if own is None else own], 0)
            shift = -np.logaddexp(0.0, bias)
            a = ref.relu(convolution(a, weight, shift, padding=weight.shape[2] // 2))
            before[number] = a
            a = pool(a, 2, ceil_mode=True)
        encoded.append(ref.reshape(a, a.size))
    return encoded


def _rlstm(module: Any, state: State, x: ref.Node) -> ref.Node:
    """i, f, o = σ(W [a(1'); h] + b), g = relu(V [a(1'); h] − softplus(c)), h = o ⊙ state.

    The state is f ⊙ state' + i ⊙ g. Gates are rows of one matrix; at T = 1 there is no f.
    """
    steps = x.shape[0]
    if module.convolutions is None:
        rows = [ref.reshape(ref.take(x, t), ref.take(x, t).size) for t in range(steps)]
    else:
        rows = _convolved_steps(module, state, "images", x)
    width = len(state["candidate.bias"])
    names = "ifo" if steps > 1 else "io"
    h: ref.Node = ref.zeros(width)
    memory: ref.Node = ref.zeros(width)
    for row in rows:
        joined = _relu_layer(state, "encoder", row)
        if steps > 1:
            joined = ref.concat([joined, h])
        gates = {}
        for number, gate in enumerate(names):
            part = slice(number * width, (number + 1) * width)
            z = ref.linear(joined, state["gates.weight"][part], state["gates.bias"][part])
            gates[gate] = sigmoid(z)
        added = ref.gated(gates["i"], _relu_layer(state, "candidate", joined))
        memory = ref.add(ref.carried(gates["f"], memory), added) if "f" in gates else added
        h = ref.gated(gates["o"], memory)
    return _layer(state, "output", h)


def _with_feedback(state: State, steps: list[ref.Node]) -> ref.Node:
    """r₀ = 0, [encoded x_t; r_t] → a(4) → r_{t+1}, then the read-out."""
    recurrent: ref.Node | None = None
    if len(steps) > 1:
        recurrent = ref.zeros(state["feedback.weight"].shape[0])
    for t, encoded in enumerate(steps):
        joined = encoded if recurrent is None else ref.concat([encoded, recurrent])
        a4 = _relu_layer(state, "cell", joined)
        if t < len(steps) - 1:
            recurrent = _relu_layer(state, "feedback", a4)
    if "decision.weight" in state:
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
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        widths = "-".join(map(str, self.sizes))
        options = "".join(f"-{key}={value}" for key, value in self.options.items())
        return f"{self.cell}-T{self.steps}-{widths}{options}"

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.steps, *self.step_shape)

    def module(self) -> nn.Module:
        """Return the cell in eval mode, with weights under which narrow layers stay alive."""
        cell: Any = getattr(pyrel.nn, self.cell)
        options = self.options | ({"recurrent": self.recurrent} if self.recurrent else {})
        module: nn.Module = cell(self.steps, self.step_shape, self.classes, self.sizes, **options)
        generator = torch.Generator().manual_seed(2)
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                if parameter.dim() == 1:
                    mean = 0.5 if name == "gates.bias" else -4.0
                    parameter.normal_(mean, 0.5, generator=generator)
                    continue
                fan = parameter[0].numel()
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

# The cells with convolutions and gates, small: maps of 6 × 5 and less, one to five steps.
FURTHER_CELL_CASES = (
    CellCase("ConvDeep", 1, (6, 5), (3, 5, 9, 7), 4, 10),
    CellCase("ConvDeep", 3, (6, 3), (4, 3, 17, 8), 15, 10, -1.0, 1.0),
    CellCase("ConvDeep", 2, (7, 4), (3, 4, 8, 5), 7, 10, options={"pooling": "sum"}),
    CellCase("ConvDeepPlus", 1, (5, 4), (2, 3, 7, 5), 4, 10),
    CellCase("ConvDeepPlus", 4, (6, 3), (3, 5, 9, 7), 8, 10),
    CellCase("RLSTM", 1, (3, 4), (9, 7), 0, 10),
    CellCase("RLSTM", 5, (3, 4), (17, 9), 0, 10),
    CellCase("RLSTM", 4, (7,), (15, 8), 0, 10, -1.0, 1.0, {"stationary": True}),
    CellCase("RLSTM", 3, (5, 4), (8, 5), 0, 10, options={"convolutions": (3, 4)}),
)
