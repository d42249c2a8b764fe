# SPDX-License-Identifier: Apache-2.0
"""RNN, LSTM and GRU, spelled out step by step as nodes of a graph.

A cell's matrices hold a block of rows for each gate: i, f, g, o for LSTM and r, z, n for GRU, as in
torch. x is a step's input, h' and c' are the state of the step before; sums of products with x and
with h' become one linear node later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np

from pyrel.compiler.graph.builder import Builder
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import Addresses, Floats

State: TypeAlias = tuple[Addresses, ...]  # h, or h and c


class Cell(Protocol):
    """One step of one layer in one direction."""

    def step(self, builder: Builder, x: Addresses, state: State) -> State:
        """Add the nodes of one step; the first part of the state is the step's output."""


@dataclass(frozen=True, eq=False)
class Affine:
    """``weight`` (out, in) and ``bias`` (out,)."""

    weight: Floats
    bias: Floats

    def of(self, builder: Builder, addresses: Addresses) -> Addresses:
        """Add the node of ``weight @ addresses + bias``."""
        out: Addresses = builder.linear(addresses[None], self.weight, self.bias)[0]
        return out

    def blocks(self, order: str, wanted: str) -> Affine:
        """Blocks of rows that stand in ``order``, those ``wanted`` only, one letter for each."""
        size = len(self.bias) // len(order)
        rows = np.concatenate([np.arange(size) + size * order.index(gate) for gate in wanted])
        return Affine(self.weight[rows], self.bias[rows])


@dataclass(frozen=True, eq=False)
class Pair:
    """The same units' weights for the step's input and for the state: ``W x + b + U h' + b'``."""

    x: Affine
    h: Affine

    def of(self, builder: Builder, x: Addresses, h: Addresses) -> Addresses:
        """Add the nodes of the sum."""
        return builder.add(np.stack([self.x.of(builder, x), self.h.of(builder, h)]))

    def blocks(self, order: str, wanted: str) -> Pair:
        """See `Affine.blocks`."""
        return Pair(self.x.blocks(order, wanted), self.h.blocks(order, wanted))


@dataclass(frozen=True, eq=False)
class RnnCell:
    """h = f(W x + b + U h' + b'), where f is tanh, or ReLU where ``relu``."""

    weights: Pair
    relu: bool = False

    def step(self, builder: Builder, x: Addresses, state: State) -> State:
        """See `Cell`."""
        z = self.weights.of(builder, x, state[0])
        return (builder.relu(z) if self.relu else builder.activation(z, Function.tanh),)


@dataclass(frozen=True, eq=False)
class LstmCell:
    """c = f ⊙ c' + i ⊙ g and h = o ⊙ tanh(c), or a projection of it.

    ``gates`` makes i, f and o through a sigmoid, ``candidate`` g through tanh.
    """

    gates: Pair
    candidate: Pair
    projection: Affine | None = None

    @classmethod
    def from_blocks(cls, weights: Pair, projection: Floats | None = None) -> LstmCell:
        """Take apart matrices of the blocks i, f, g, o."""
        project = None if projection is None else Affine(projection, np.zeros(len(projection)))
        return cls(weights.blocks("ifgo", "ifo"), weights.blocks("ifgo", "g"), project)

    def step(self, builder: Builder, x: Addresses, state: State) -> State:
        """See `Cell`."""
        h, c = state
        gates = builder.activation(self.gates.of(builder, x, h), Function.sigmoid)
        i, f, o = np.split(gates, 3)
        g = builder.activation(self.candidate.of(builder, x, h), Function.tanh)
        c = builder.add(np.stack([builder.product(f, c), builder.product(i, g)]))
        h = builder.product(o, builder.activation(c, Function.tanh))
        return h if self.projection is None else self.projection.of(builder, h), c


@dataclass(frozen=True, eq=False)
class GruCell:
    """h = (1 − z) ⊙ n + z ⊙ h', where n = tanh(W x + b + r ⊙ (U h' + b')).

    ``gates`` makes r and z through a sigmoid, ``candidate`` n.
    """

    gates: Pair
    candidate: Pair

    @classmethod
    def from_blocks(cls, weights: Pair) -> GruCell:
        """Take apart matrices of the blocks r, z, n."""
        return cls(weights.blocks("rzn", "rz"), weights.blocks("rzn", "n"))

    def step(self, builder: Builder, x: Addresses, state: State) -> State:
        """See `Cell`."""
        (h,) = state
        gates = builder.activation(self.gates.of(builder, x, h), Function.sigmoid)
        r, z = np.split(gates, 2)
        reset = builder.product(r, self.candidate.h.of(builder, h))
        z_n = builder.add(np.stack([self.candidate.x.of(builder, x), reset]))
        n = builder.activation(z_n, Function.tanh)
        one = builder.constants(np.ones(z.size))
        keep = builder.add(np.stack([one, builder.scale(z, -1.0)]))
        return (builder.add(np.stack([builder.product(keep, n), builder.product(z, h)])),)


def run_layers(
    builder: Builder,
    layers: Sequence[Sequence[Cell]],
    x: Addresses,
    states: Sequence[State],
    masks: Addresses | None = None,
) -> tuple[Addresses, list[State]]:
    """Run layers over a sequence; a layer's second cell, if it has one, runs from end to start.

    Parameters
    ----------
    builder : Builder
    layers : sequence of sequences of Cell
        For each layer one cell, or two.
    x : ndarray, shape (steps, features)
        Addresses.
    states : sequence of State
        Before the first step, for each layer and direction.
    masks : ndarray, shape (2, steps), or None
        Addresses of masks: steps that the sequence has, and others, over which states are carried.

    Returns
    -------
    outputs : ndarray, shape (steps, directions · units)
        Of the last layer.
    states : list of State
        After the last step, for each layer and direction.
    """
    given = iter(states)
    final: list[State] = []
    for cells in layers:
        outputs = []
        for backwards, cell in zip((False, True), cells, strict=False):
            state, steps = next(given), []
            order = range(len(x))[::-1] if backwards else range(len(x))
            for number in order:
                before, state = state, cell.step(builder, x[number], state)
                if masks is not None:
                    state = _carried(builder, state, before, masks[:, number])
                steps.append(state[0])
            outputs.append(np.stack(steps[::-1] if backwards else steps))
            final.append(state)
        x = np.concatenate(outputs, axis=1)
    return x, final


def _carried(builder: Builder, new: State, old: State, masks: Addresses) -> State:
    """Take new states where the first of two masks is 1, and keep the old ones otherwise."""
    return tuple(
        builder.ids.choose(np.stack(both), np.repeat(masks[:, None], both[0].size, axis=1))
        for both in zip(new, old, strict=True)
    )
