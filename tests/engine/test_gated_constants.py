# SPDX-License-Identifier: Apache-2.0
"""Constants that gates multiply are signals: cells written by hand have the maps of torch's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, unchecked
from torch import Tensor, nn
from torch.nn import functional

import pyrel

STEPS, FEATURES, UNITS = 3, 3, 4


class Cells(nn.Module):
    """A cell of torch over the steps, from learned first states or from zeros."""

    def __init__(self, kind: str, learned: bool) -> None:
        super().__init__()
        self.kind, self.learned = kind, learned
        self.cell: Any = getattr(nn, kind)(FEATURES, UNITS)
        self.first, self.out = nn.Parameter(torch.randn(2, UNITS)), nn.Linear(UNITS, 2)

    def states(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if not self.learned:
            return x.new_zeros(x.shape[0], UNITS), x.new_zeros(x.shape[0], UNITS)
        return self.first[0].expand(x.shape[0], -1), self.first[1].expand(x.shape[0], -1)

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        if self.kind == "GRUCell":
            return self.cell(x, h), c
        h, c = self.cell(x, (h, c))
        return h, c

    def forward(self, x: Tensor) -> Tensor:
        h, c = self.states(x)
        for step in x.unbind(1):
            h, c = self.step(step, h, c)
        return self.out(h)


class ByHand(Cells):
    """The same, the cell written out."""

    def step(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        one = functional.linear(x, self.cell.weight_ih, self.cell.bias_ih)
        other = functional.linear(h, self.cell.weight_hh, self.cell.bias_hh)
        if self.kind == "GRUCell":
            (r, z, n), (s, u, v) = one.chunk(3, 1), other.chunk(3, 1)
            z = torch.sigmoid(z + u)
            return (1 - z) * torch.tanh(n + torch.sigmoid(r + s) * v) + z * h, c
        i, f, g, o = (one + other).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(c), c


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell"])
def test_cells_by_hand_have_the_maps_of_torch(kind: str, learned: bool) -> None:
    torch.manual_seed(0)
    module, by_hand = Cells(kind, learned).eval(), ByHand(kind, learned).eval()
    by_hand.load_state_dict(module.state_dict())
    x = np.random.default_rng(0).uniform(-1, 1, (20, STEPS, FEATURES)).astype(np.float32)
    graphs = [pyrel.capture(m, x[:2]) for m in (module, by_hand)]
    for gates in ("signal", "half"):
        options = {"method": "lrp_epsilon", "gates": gates}
        one, other = (unchecked(graph, x[:2], **options)(x) for graph in graphs)
        # The same sums, whose addends may stand in another order.
        np.testing.assert_allclose(other.output, one.output, rtol=1e-5, atol=1e-6)
        size = np.abs(one.relevance).sum(axis=(1, 2)) + np.abs(one.absorbed)
        error = np.abs(other.relevance - one.relevance).sum(axis=(1, 2))
        assert (error <= RELATIVE * size).all()
        assert (np.abs(other.absorbed - one.absorbed) <= RELATIVE * size).all()
