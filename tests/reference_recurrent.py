# SPDX-License-Identifier: Apache-2.0
"""nn.RNN, nn.LSTM and nn.GRU and their cells for the reference, unrolled from their weights.

torch stacks the gates' rows in the orders i, f, g, o (LSTM) and r, z, n (GRU).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import reference_graph as ref
from reference_functions import sigmoid, tanh
from reference_graph import Array, Node

States = tuple[Node, ...]


@dataclass(frozen=True)
class Weights:
    """W (gates · hidden, inputs), U (gates · hidden, state), their biases, and the projection."""

    inward: Array
    recurrent: Array
    inward_bias: Array
    recurrent_bias: Array
    projection: Array | None = None

    def rows(self, gate: int, count: int) -> Weights:
        """The rows of one of `count` gates."""
        size = len(self.inward) // count
        part = slice(gate * size, (gate + 1) * size)
        return Weights(
            self.inward[part],
            self.recurrent[part],
            self.inward_bias[part],
            self.recurrent_bias[part],
        )

    def of_input(self, x: Node) -> Node:
        """W x + b."""
        return ref.linear(x, self.inward, self.inward_bias)

    def of_state(self, h: Node) -> Node:
        """U h + b'."""
        return ref.linear(h, self.recurrent, self.recurrent_bias)

    def both(self, x: Node, h: Node) -> Node:
        """W x + b + U h + b'."""
        return ref.add(self.of_input(x), self.of_state(h))


def weights_of(module: Any, suffix: str = "") -> Weights:
    """The weights of a cell, or of one layer and direction of a recurrent module."""
    state = {name: value.detach().double().numpy() for name, value in module.state_dict().items()}
    inward, recurrent = state[f"weight_ih{suffix}"], state[f"weight_hh{suffix}"]
    none = np.zeros(len(inward))
    return Weights(
        inward,
        recurrent,
        state.get(f"bias_ih{suffix}", none),
        state.get(f"bias_hh{suffix}", none),
        state.get(f"weight_hr{suffix}"),
    )


def rnn_step(w: Weights, x: Node, states: States, activation: Callable[[Node], Node]) -> States:
    """h = f(W x + b + U h' + b')."""
    return (activation(w.both(x, states[0])),)


def lstm_step(w: Weights, x: Node, states: States) -> States:
    """c = f ⊙ c' + i ⊙ g and h = o ⊙ tanh c, projected where the module has a projection."""
    h, c = states
    i, f, o = (sigmoid(w.rows(gate, 4).both(x, h)) for gate in (0, 1, 3))
    g = tanh(w.rows(2, 4).both(x, h))
    c = ref.add(ref.carried(f, c), ref.gated(i, g))
    h = ref.gated(o, tanh(c))
    return (h if w.projection is None else ref.linear(h, w.projection)), c


def gru_step(w: Weights, x: Node, states: States) -> States:
    """n = tanh(W x + b + r ⊙ (U h' + b')) and h = (1 − z) ⊙ n + z ⊙ h'."""
    (h,) = states
    r, z = (sigmoid(w.rows(gate, 3).both(x, h)) for gate in (0, 1))
    candidate = w.rows(2, 3)
    n = tanh(ref.add(candidate.of_input(x), ref.gated(r, candidate.of_state(h))))
    return (ref.blend(z, n, h, state=h),)


def step_of(module: Any) -> Callable[[Weights, Node, States], States]:
    """The step of a recurrent module or cell."""
    name = type(module).__name__.removesuffix("Cell")
    if name == "RNN":
        kind = getattr(module, "nonlinearity", "tanh")
        return lambda w, x, s: rnn_step(w, x, s, ref.relu if kind == "relu" else tanh)
    return {"LSTM": lstm_step, "GRU": gru_step}[name]


@dataclass(frozen=True)
class Run:
    """What a recurrent module returns: `steps` (T, width), and the last states by layer."""

    steps: Node
    hidden: Node
    cells: Node | None


def recurrent(module: Any, x: Node, given: Sequence[Array] = ()) -> Run:
    """Run a module over a sample's steps `x` (T, features).

    `given` holds the initial states h (and c), each (layers · directions, width).
    """
    step = step_of(module)
    count = 2 if type(module).__name__ == "LSTM" else 1
    directions = ("", "_reverse") if module.bidirectional else ("",)
    finals: list[States] = []
    for layer in range(module.num_layers):
        sides: list[Node] = []
        for direction in directions:
            w = weights_of(module, f"_l{layer}{direction}")
            if given:
                states: States = tuple(ref.constant(value[len(finals)]) for value in given)
            else:
                widths = (w.recurrent.shape[1], module.hidden_size)[:count]
                states = tuple(ref.zeros(width) for width in widths)
            order = range(x.shape[0])[:: -1 if direction else 1]
            outputs: dict[int, Node] = {}
            for t in order:
                states = step(w, ref.take(x, t), states)
                outputs[t] = states[0]
            finals.append(states)
            sides.append(ref.stack([outputs[t] for t in range(x.shape[0])]))
        x = ref.concat(sides)
    by_kind = [ref.stack(kind) for kind in zip(*finals, strict=True)]
    return Run(x, by_kind[0], by_kind[1] if count == 2 else None)
