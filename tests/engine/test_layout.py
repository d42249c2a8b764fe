# SPDX-License-Identifier: Apache-2.0
"""What reads a map in another order than it lies in has its weights in the map's order."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

import pyrel
from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.nodes import Copy, Graph, Linear
from pyrel.compiler.lowering.lower import lower
from pyrel.compiler.passes.contiguous import lay_out
from pyrel.compiler.program.instructions import Gather, Scatter
from pyrel.methods import DeepTaylor

STEPS, MAPS, SIDE, WIDTH = 3, 5, 4, 6


class Steps(nn.Module):
    """A cell over the flattened maps of each step and its own state."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(1, MAPS, 1)
        self.cell = nn.Linear(MAPS * SIDE * SIDE + WIDTH, WIDTH)
        self.out = nn.Linear(WIDTH, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], WIDTH)
        for t in range(STEPS):
            maps = torch.relu(self.convolution(x[:, t, None]))
            state = torch.relu(self.cell(torch.cat([maps.flatten(1), state], dim=1)))
        return self.out(state)


def captured(model: nn.Module, *shape: int) -> Graph:
    return pyrel.capture(model.eval(), np.zeros((1, *shape), np.float32))


def facts_of(graph: pyrel.Graph) -> Facts:
    """Return the facts of a graph of whose input nothing is known."""
    nothing = np.full(graph.input_size, np.inf)
    return Facts(graph, -nothing, nothing)


def test_weights_are_sorted_once_for_all_steps() -> None:
    torch.manual_seed(0)
    model = Steps()
    graph = lay_out(facts_of(captured(model, STEPS, SIDE, SIDE)), True)
    assert not any(isinstance(node, Copy) for node in graph.nodes)
    cells = [n for n in graph.nodes if isinstance(n, Linear) and n.size == WIDTH]
    assert len(cells) == STEPS
    # The first state is constant and has no weights.
    assert cells[1].weight is cells[2].weight
    size = MAPS * SIDE * SIDE
    for cell in cells:
        np.testing.assert_array_equal(np.diff(cell.inputs[0, :size]), 1)
    weight = model.cell.weight.detach().double().numpy()
    by_channel = weight[:, :size].reshape(WIDTH, MAPS, SIDE * SIDE)
    by_pixel = by_channel.transpose(0, 2, 1).reshape(WIDTH, size)
    np.testing.assert_array_equal(cells[2].weight[:, :size], by_pixel)
    np.testing.assert_array_equal(cells[2].weight[:, size:], weight[:, size:])


def test_a_program_of_flattened_maps_moves_nothing() -> None:
    model = pyrel.nn.ConvDeep(3, (28, 7))
    graph = captured(model, 3, 28, 7)
    size = graph.input_size
    program = lower(graph, DeepTaylor(), np.zeros(size), np.ones(size))
    templates = [instruction.template for instruction in program.every_instruction()]
    assert not any(isinstance(template, Gather | Scatter) for template in templates)


def test_what_is_read_in_pieces_in_any_order_is_copied() -> None:
    class Spread(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(12, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.out(x[:, ::2])
            return y

    graph = lay_out(facts_of(captured(Spread(), 24)), True)
    assert [type(node) for node in graph.nodes] == [Copy, Linear]
