# SPDX-License-Identifier: Apache-2.0
"""Recurrences of today: gates without the state before, exponential gates, selective scans."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, UNITS, CLASSES = 4, 5, 3


class MinGru(nn.Module):
    """h ← (1 − z) h + z h̃, z and h̃ of the input alone (Feng et al. 2024), in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.candidate = nn.Linear(WIDTH, UNITS), nn.Linear(WIDTH, UNITS)
        self.out = nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        z, candidate = torch.sigmoid(self.gate(x)), self.candidate(x)
        h = x.new_zeros(len(x), UNITS)
        for t in range(x.shape[1]):
            h = (1 - z[:, t]) * h + z[:, t] * candidate[:, t]
        return self.out(h)


class SLstm(nn.Module):
    """Exponential gates, a normaliser n, and m that keeps the exponentials small.

    Beck et al. 2024, equations 8 to 17.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(WIDTH, 4 * UNITS), nn.Linear(UNITS, 4 * UNITS)
        self.out = nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = c = n = m = x.new_zeros(len(x), UNITS)
        for t in range(x.shape[1]):
            i, f, z, o = (self.of_input(x[:, t]) + self.of_state(h)).chunk(4, dim=1)
            kept = functional.logsigmoid(f) + m
            largest = torch.maximum(kept, i)
            forget, new = torch.exp(kept - largest), torch.exp(i - largest)
            c, n, m = forget * c + new * torch.tanh(z), forget * n + new, largest
            h = torch.sigmoid(o) * (c / n)
        return self.out(h)


class MambaBlock(nn.Module):
    """A selective scan with what is around it, in pure torch (Gu and Dao 2023)."""

    def __init__(self, inner: int = 6, states: int = 3, kernel: int = 3) -> None:
        super().__init__()
        self.inner, self.states = inner, states
        self.norm = nn.LayerNorm(WIDTH)
        self.enter = nn.Linear(WIDTH, 2 * inner, bias=False)
        self.conv = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.select = nn.Linear(inner, 1 + 2 * states, bias=False)
        self.step = nn.Linear(1, inner)
        self.log_a = nn.Parameter(torch.log(torch.arange(1.0, states + 1).repeat(inner, 1)))
        self.through = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        steps = x.shape[1]
        u, gate = self.enter(self.norm(x)).chunk(2, dim=-1)
        u = functional.silu(self.conv(u.transpose(1, 2))[..., :steps].transpose(1, 2))
        delta, b, c = self.select(u).split([1, self.states, self.states], dim=-1)
        delta = functional.softplus(self.step(delta)).unsqueeze(-1)
        decay = torch.exp(delta * -torch.exp(self.log_a))
        entering = delta * b.unsqueeze(2) * u.unsqueeze(-1)
        h, found = x.new_zeros(len(x), self.inner, self.states), []
        for t in range(steps):
            h = decay[:, t] * h + entering[:, t]
            found.append((h * c[:, t].unsqueeze(1)).sum(dim=-1))
        y = torch.stack(found, dim=1) + u * self.through
        return self.out((x + self.leave(y * functional.silu(gate))).mean(dim=1))
