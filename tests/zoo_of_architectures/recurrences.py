# SPDX-License-Identifier: Apache-2.0
"""More recurrences, written as their users write them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

WIDTH, UNITS, CLASSES = 4, 5, 3


def _log_of_positive(x: Tensor) -> Tensor:
    """Logarithm of x + ½ above 0, of a sigmoid below (Feng et al. 2024, appendix B)."""
    return torch.where(x >= 0, (functional.relu(x) + 0.5).log(), -functional.softplus(-x))


def _scanned(log_coefficients: Tensor, log_values: Tensor) -> Tensor:
    """Run h ← a h + v over steps at once, in logarithms."""
    summed = log_coefficients.cumsum(dim=1)
    return (summed + torch.logcumsumexp(log_values - summed, dim=1)).exp()


class MinGruScan(nn.Module):
    """MinGRU as a parallel scan (Feng et al. 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.candidate = nn.Linear(WIDTH, UNITS), nn.Linear(WIDTH, UNITS)
        self.out = nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        k = self.gate(x)
        values = -functional.softplus(-k) + _log_of_positive(self.candidate(x))
        return self.out(_scanned(-functional.softplus(k), values)[:, -1])


class MinLstm(nn.Module):
    """MinLSTM in a loop: its two gates are divided by their sum (Feng et al. 2024)."""

    def __init__(self) -> None:
        super().__init__()
        self.forget, self.enter, self.candidate = (nn.Linear(WIDTH, UNITS) for _ in range(3))
        self.out = nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), UNITS)
        for step in x.unbind(1):
            f, i = torch.sigmoid(self.forget(step)), torch.sigmoid(self.enter(step))
            h = f / (f + i) * h + i / (f + i) * self.candidate(step)
        return self.out(h)


class MinLstmScan(MinLstm):
    """MinLSTM as a parallel scan."""

    def forward(self, x: Tensor) -> Tensor:
        apart = functional.softplus(-self.forget(x)) - functional.softplus(-self.enter(x))
        values = -functional.softplus(-apart) + _log_of_positive(self.candidate(x))
        return self.out(_scanned(-functional.softplus(apart), values)[:, -1])


class MLstm(nn.Module):
    """A matrix of outer products is the state, and a query reads it (Beck et al. 2024)."""

    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.size = size
        self.query, self.key, self.value = (nn.Linear(WIDTH, size) for _ in range(3))
        self.gates, self.open = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, size)
        self.out = nn.Linear(size, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        c, n = x.new_zeros(count, self.size, self.size), x.new_zeros(count, self.size)
        m = x.new_zeros(count, 1)
        for t in range(x.shape[1]):
            q, k = self.query(x[:, t]), self.key(x[:, t]) / math.sqrt(self.size)
            i, f = self.gates(x[:, t]).chunk(2, dim=1)
            kept = functional.logsigmoid(f) + m
            m = torch.maximum(kept, i)
            f, i = torch.exp(kept - m), torch.exp(i - m)
            c = f.unsqueeze(2) * c + i.unsqueeze(2) * torch.einsum(
                "ni,nj->nij", self.value(x[:, t]), k
            )
            n = f * n + i * k
            size = torch.maximum((n * q).sum(1, keepdim=True).abs(), torch.exp(-m))
            h = torch.sigmoid(self.open(x[:, t])) * (c @ q.unsqueeze(2)).squeeze(2) / size
        return self.out(h)


class Rwkv(nn.Module):
    """Time mixing and channel mixing of the fourth version (Peng et al. 2023)."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(torch.rand(4, WIDTH))
        self.key, self.value, self.open = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.decay, self.first = nn.Parameter(torch.randn(WIDTH)), nn.Parameter(torch.randn(WIDTH))
        self.leave = nn.Linear(WIDTH, WIDTH, bias=False)
        self.inner, self.outer = nn.Linear(WIDTH, 6, bias=False), nn.Linear(6, WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, CLASSES)

    def _mixed(self, x: Tensor) -> Tensor:
        before = functional.pad(x, (0, 0, 1, -1))
        k, v, r = (
            layer(x * self.mix[j] + before * (1 - self.mix[j]))
            for j, layer in enumerate((self.key, self.value, self.open))
        )
        a = b = x.new_zeros(x[:, 0].shape)
        p = torch.full_like(a, -1e30)
        w, found = -torch.exp(self.decay), []
        for t in range(x.shape[1]):
            now = self.first + k[:, t]
            q = torch.maximum(p, now)
            e1, e2 = torch.exp(p - q), torch.exp(now - q)
            found.append((e1 * a + e2 * v[:, t]) / (e1 * b + e2))
            q = torch.maximum(p + w, k[:, t])
            e1, e2 = torch.exp(p + w - q), torch.exp(k[:, t] - q)
            a, b, p = e1 * a + e2 * v[:, t], e1 * b + e2, q
        return self.leave(torch.sigmoid(r) * torch.stack(found, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self._mixed(x)
        mixed = x * self.mix[3] + functional.pad(x, (0, 0, 1, -1)) * (1 - self.mix[3])
        x = x + self.outer(torch.relu(self.inner(mixed)) ** 2)
        return self.out(x[:, -1])


class LinearRecurrentUnit(nn.Module):
    """Complex states that are turned and shrunk (Orvieto et al. 2023)."""

    def __init__(self, states: int = 4) -> None:
        super().__init__()
        self.nu, self.theta = nn.Parameter(torch.randn(states)), nn.Parameter(torch.rand(states))
        self.enter = nn.Parameter(torch.randn(states, WIDTH, dtype=torch.complex64) / 2)
        self.leave = nn.Parameter(torch.randn(WIDTH, states, dtype=torch.complex64) / 2)
        self.through = nn.Parameter(torch.randn(WIDTH))
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        turn = torch.exp(torch.complex(-torch.exp(self.nu), torch.exp(self.theta)))
        scale = torch.sqrt(1 - turn.abs() ** 2).unsqueeze(1)
        entering = x.to(turn.dtype) @ (self.enter * scale).T
        h, found = torch.zeros_like(entering[:, 0]), []
        for t in range(x.shape[1]):
            h = turn * h + entering[:, t]
            found.append((h @ self.leave.T).real + self.through * x[:, t])
        return self.out(functional.gelu(torch.stack(found, 1)).mean(1))


class DiagonalStateSpace(nn.Module):
    """A long convolution with a kernel of exponentials, by Fourier transforms (Gu et al. 2022)."""

    def __init__(self, states: int = 3) -> None:
        super().__init__()
        self.log_step = nn.Parameter(torch.rand(WIDTH) - 2)
        self.decay = nn.Parameter(torch.log(0.5 * torch.ones(WIDTH, states)))
        self.frequency = nn.Parameter(math.pi * torch.arange(states).repeat(WIDTH, 1))
        self.leave = nn.Parameter(torch.randn(WIDTH, states, dtype=torch.complex64))
        self.through, self.out = nn.Parameter(torch.randn(WIDTH)), nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        u, steps = x.transpose(1, 2), x.shape[1]
        a = torch.complex(-torch.exp(self.decay), self.frequency)
        stepped = a * torch.exp(self.log_step).unsqueeze(1)
        weight = self.leave * (torch.exp(stepped) - 1.0) / a
        powers = torch.exp(stepped.unsqueeze(-1) * torch.arange(steps))
        kernel = 2 * torch.einsum("hn,hnl->hl", weight, powers).real
        spectrum = torch.fft.rfft(u, n=2 * steps) * torch.fft.rfft(kernel, n=2 * steps)
        y = torch.fft.irfft(spectrum, n=2 * steps)[..., :steps] + u * self.through.unsqueeze(1)
        return self.out(functional.gelu(y).mean(-1))


class PeepholeLstm(nn.Module):
    """Gates see the cell's state, too (Gers et al. 2002)."""

    def __init__(self) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(WIDTH, 4 * UNITS), nn.Linear(UNITS, 4 * UNITS)
        self.peep = nn.Parameter(torch.randn(3, UNITS) / 2)
        self.out = nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = c = x.new_zeros(len(x), UNITS)
        for t in range(x.shape[1]):
            i, f, g, o = (self.of_input(x[:, t]) + self.of_state(h)).chunk(4, dim=1)
            i, f = torch.sigmoid(i + self.peep[0] * c), torch.sigmoid(f + self.peep[1] * c)
            c = f * c + i * torch.tanh(g)
            h = torch.sigmoid(o + self.peep[2] * c) * torch.tanh(c)
        return self.out(h)


class IndependentRnn(nn.Module):
    """Each unit sees its own state alone (Li et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(WIDTH, UNITS), nn.Parameter(torch.rand(UNITS))
        self.out = nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), UNITS)
        for t in range(x.shape[1]):
            h = torch.relu(self.of_input(x[:, t]) + self.of_state * h)
        return self.out(h)


class SimpleRecurrentUnit(nn.Module):
    """All products of the input at once, a light recurrence, a highway (Lei et al. 2018)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.peep, self.shift = (nn.Parameter(torch.randn(2, WIDTH) / 2) for _ in range(2))
        self.out = nn.Linear(WIDTH, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        new, f, r = self.project(x).chunk(3, dim=2)
        c, found = x.new_zeros(len(x), WIDTH), []
        for t in range(x.shape[1]):
            forget = torch.sigmoid(f[:, t] + self.peep[0] * c + self.shift[0])
            reset = torch.sigmoid(r[:, t] + self.peep[1] * c + self.shift[1])
            c = forget * c + (1 - forget) * new[:, t]
            found.append(reset * c + (1 - reset) * x[:, t])
        return self.out(torch.stack(found, 1).mean(1))


class LegendreMemory(nn.Module):
    """A linear memory of Legendre polynomials beside an RNN (Voelker et al. 2019)."""

    def __init__(self, order: int = 4, theta: float = 6.0) -> None:
        super().__init__()
        q = torch.arange(order)
        row, column = (2 * q + 1)[:, None] / theta, q[:, None] - q[None, :]
        a = row * torch.where(column < 0, -1.0, (-1.0) ** (column + 1))
        b = row * ((-1.0) ** q)[:, None]
        turn = torch.matrix_exp(torch.cat([torch.cat([a, b], 1), torch.zeros(1, order + 1)]))
        self.register_buffer("a", turn[:order, :order])
        self.register_buffer("b", turn[:order, order:])
        self.of_input, self.of_hidden = nn.Linear(WIDTH, 1, bias=False), nn.Linear(UNITS, 1)
        self.of_memory = nn.Linear(order, 1, bias=False)
        self.cell, self.out = nn.Linear(WIDTH + UNITS + order, UNITS), nn.Linear(UNITS, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h, m = x.new_zeros(len(x), UNITS), x.new_zeros(len(x), len(self.a))
        for t in range(x.shape[1]):
            u = self.of_input(x[:, t]) + self.of_hidden(h) + self.of_memory(m)
            m = functional.linear(m, self.a) + functional.linear(u, self.b)
            h = torch.tanh(self.cell(torch.cat([x[:, t], h, m], dim=1)))
        return self.out(h)
