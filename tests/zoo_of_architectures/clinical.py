# SPDX-License-Identifier: Apache-2.0
"""Records of patients: missing values, irregular times, attention that can be read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

FEATURES, UNITS, CLASSES = 3, 5, 2


class DecayingGru(nn.Module):
    """Missing values, and the state, decay to a mean by the time since the last measurement.

    Che et al. 2018.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_input = nn.Parameter(torch.rand(FEATURES))
        self.of_state = nn.Linear(FEATURES, UNITS)
        self.register_buffer("mean", torch.linspace(-0.2, 0.2, FEATURES))
        self.cell = nn.GRUCell(2 * FEATURES, UNITS)
        self.out = nn.Linear(UNITS, CLASSES)

    def forward(self, values: Tensor, masks: Tensor, since: Tensor) -> Tensor:
        h = values.new_zeros(len(values), UNITS)
        last = values.new_zeros(len(values), FEATURES)
        for t in range(values.shape[1]):
            x, m, d = values[:, t], masks[:, t], since[:, t]
            decay = torch.exp(-torch.relu(self.of_input * d))
            last = m * x + (1 - m) * last
            x = m * x + (1 - m) * (decay * last + (1 - decay) * self.mean)
            h = torch.exp(-torch.relu(self.of_state(d))) * h
            h = self.cell(torch.cat([x, m], dim=1), h)
        return self.out(h)


class ReverseTimeAttention(nn.Module):
    """Weights of visits and of their variables, both by RNNs that read backwards.

    Choi et al. 2016.
    """

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(FEATURES, 4, bias=False)
        self.visits, self.variables = (nn.GRU(4, UNITS, batch_first=True) for _ in range(2))
        self.alpha, self.beta = nn.Linear(UNITS, 1), nn.Linear(UNITS, 4)
        self.out = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        v = self.embed(x)
        turned = v.flip(1)
        alpha = self.alpha(self.visits(turned)[0].flip(1)).softmax(dim=1)
        beta = torch.tanh(self.beta(self.variables(turned)[0].flip(1)))
        return self.out((alpha * beta * v).sum(dim=1))


class OdeRnn(nn.Module):
    """The state follows a differential equation between steps, in Euler's steps.

    Rubanova et al. 2019, on a grid of times that is not even.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Sequential(nn.Linear(UNITS, 6), nn.Tanh(), nn.Linear(6, UNITS))
        self.cell, self.out = nn.GRUCell(FEATURES, UNITS), nn.Linear(UNITS, CLASSES)
        self.register_buffer("gaps", torch.tensor([0.1, 0.4, 0.2, 0.3]))

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), UNITS)
        for t in range(x.shape[1]):
            for _ in range(2):
                h = h + 0.5 * self.gaps[t] * self.slope(h)
            h = self.cell(x[:, t], h)
        return self.out(h)
