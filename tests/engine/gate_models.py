# SPDX-License-Identifier: Apache-2.0
"""Users' modules with gates, sums of signed values, padding, turned steps and tokens."""

from __future__ import annotations

from typing import Any

import reference_graph as ref
import torch
from engine.layer_graphs import layer_graph
from engine.models import apply, apply_relu, array
from reference_functions import sigmoid, tanh
from reference_layers import embedding, mean, pad, sum_pool
from reference_recurrent import recurrent, step_of, weights_of
from torch import Tensor, nn
from torch.nn import functional


def steps_of(x: ref.Node) -> list[ref.Node]:
    """The steps of a sequence."""
    return [ref.take(x, t) for t in range(x.shape[0])]


class GatedUnits(nn.Module):
    """A gate beside ReLU units, and a gated pre-activation before a ReLU."""

    shape, low, high = (9,), -1.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.gate = nn.Linear(9, 15), nn.Linear(9, 15)
        self.signal, self.second = nn.Linear(15, 7), nn.Linear(15, 7)
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.hidden(x)) * torch.sigmoid(self.gate(x))
        return self.out(torch.relu(torch.sigmoid(self.second(h)) * self.signal(h)))

    @staticmethod
    def graph(m: GatedUnits, x: ref.Node) -> ref.Node:
        h = ref.gated(sigmoid(apply(m.gate, x)), apply_relu(m.hidden, x))
        return apply(m.out, ref.relu(ref.gated(sigmoid(apply(m.second, h)), apply(m.signal, h))))


class GatedSum(nn.Module):
    """Pre-activations, one of them gated, in one sum; the gate stands last."""

    shape, low, high = (8,), -1.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(8, 9)
        self.plain, self.gate, self.signal = (nn.Linear(9, 6) for _ in range(3))
        self.out = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.hidden(x))
        gate = torch.sigmoid(self.gate(h))
        return self.out(torch.relu(self.plain(h) + self.signal(h) * gate))

    @staticmethod
    def graph(m: GatedSum, x: ref.Node) -> ref.Node:
        h = apply_relu(m.hidden, x)
        part = ref.gated(sigmoid(apply(m.gate, h)), apply(m.signal, h))
        return apply(m.out, ref.relu(ref.add(apply(m.plain, h), part)))


class MinimalGatedUnit(nn.Module):
    """h = (1 − f) ⊙ h' + f ⊙ tanh(U (f ⊙ h') + W x), written by a user."""

    shape, low, high = (5, 4), -1.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.inward = nn.Linear(4 + 6, 6), nn.Linear(4, 6)
        self.recurrent, self.out = nn.Linear(6, 6, bias=False), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 6)
        for step in x.unbind(1):
            f = torch.sigmoid(self.gate(torch.cat([step, h], 1)))
            new = torch.tanh(self.inward(step) + self.recurrent(f * h))
            h = (1 - f) * h + f * new
        return self.out(h)

    @staticmethod
    def graph(m: MinimalGatedUnit, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(6)
        for step in steps_of(x):
            f = sigmoid(apply(m.gate, ref.concat([step, h])))
            new = tanh(ref.add(apply(m.inward, step), apply(m.recurrent, ref.gated(f, h))))
            h = ref.blend(f, h, new, state=h)
        return apply(m.out, h)


class SignedSums(nn.Module):
    """tanh units added, and read by a linear layer and by a tanh."""

    shape, low, high = (2, 7), -1.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(7, 9), nn.Linear(7, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.first(x[:, 0])) + torch.tanh(self.second(x[:, 1])))

    @staticmethod
    def graph(m: SignedSums, x: ref.Node) -> ref.Node:
        first, second = steps_of(x)
        return apply(m.out, ref.add(tanh(apply(m.first, first)), tanh(apply(m.second, second))))


class StepStatistics(nn.Module):
    """The sum of ReLU units over steps beside the mean of the input's steps."""

    shape, low, high = (5, 6), -1.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.side, self.out = nn.Linear(6, 9), nn.Linear(6, 4), nn.Linear(13, 3)

    def forward(self, x: Tensor) -> Tensor:
        total = torch.relu(self.encode(x)).sum(dim=1)
        side = torch.relu(self.side(x.mean(1)))
        return self.out(torch.cat([total, side], 1))

    @staticmethod
    def graph(m: StepStatistics, x: ref.Node) -> ref.Node:
        total = ref.add(*steps_of(apply_relu(m.encode, x)))
        side = apply_relu(m.side, mean(steps_of(x)))
        return apply(m.out, ref.concat([total, side]))


class TurnedAndPadded(nn.Module):
    """Steps turned around and zeros put before them, windows over time, a negative index."""

    shape, low, high = (4, 3), -1.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.window, self.out = nn.Linear(6, 7), nn.Linear(14, 3)

    def forward(self, x: Tensor) -> Tensor:
        turned = functional.pad(torch.flip(x, dims=(1,)), (0, 0, 2, 1))
        first = torch.relu(self.window(turned[:, 1:3].flatten(1)))
        last = torch.relu(self.window(turned[:, -3:-1].flatten(1)))
        return self.out(torch.cat([first, last], 1))

    @staticmethod
    def graph(m: TurnedAndPadded, x: ref.Node) -> ref.Node:
        turned = ref.rearrange([x], lambda ids: ids[0][::-1])
        padded = pad(turned, (2, 1), (0, 0))
        windows = (ref.take(padded, slice(1, 3)), ref.take(padded, slice(4, 6)))
        return apply(m.out, ref.concat([apply_relu(m.window, ref.reshape(w, 6)) for w in windows]))


class SumPooled(nn.Module):
    """Sum pooling as average times window, and by a divisor of 1."""

    shape, low, high = (2, 6, 4), 0.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 5, 3, padding=1), nn.Conv2d(5, 4, 2)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.avg_pool2d(torch.relu(self.first(x)), 2) * 4
        h = functional.avg_pool2d(torch.relu(self.second(h)), (1, 1), divisor_override=1)
        return self.out(h.flatten(1))

    @staticmethod
    def graph(m: SumPooled, x: ref.Node) -> ref.Node:
        h = sum_pool(ref.relu(layer_graph(m.first, x)), 2)
        h = ref.relu(layer_graph(m.second, h))
        return apply(m.out, ref.reshape(h, h.size))


class ConvolutionalSteps(nn.Module):
    """A convolution and a max pool at every step before a recurrence of ReLU units."""

    shape, low, high = (3, 6, 4), 0.0, 1.0

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()
        )
        self.cell, self.feedback = nn.Linear(18 + 5, 9), nn.Linear(9, 5)
        self.out = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        r, a = x.new_zeros(x.shape[0], 5), None
        for t in range(3):
            a = torch.relu(self.cell(torch.cat([self.front(x[:, t : t + 1]), r], 1)))
            r = torch.relu(self.feedback(a))
        return self.out(a)

    @staticmethod
    def graph(m: ConvolutionalSteps, x: ref.Node) -> ref.Node:
        r: ref.Node = ref.zeros(5)
        for t in range(3):
            encoded = layer_graph(m.front, ref.take(x, slice(t, t + 1)))
            a = apply_relu(m.cell, ref.concat([encoded, r]))
            r = apply_relu(m.feedback, a)
        return apply(m.out, a)


class CellLoop(nn.Module):
    """One of torch's cells in a user's loop, from zero or given states."""

    shape, low, high = (4, 5), -1.0, 1.0
    kind = "LSTMCell"

    def __init__(self) -> None:
        super().__init__()
        self.cell: Any = getattr(nn, self.kind)(5, 6)
        self.initial, self.out = nn.Parameter(torch.zeros(6)), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        states: Any = self.initial.expand(x.shape[0], 6)
        if self.kind == "LSTMCell":
            states = (states, states * 2)
        for step in x.unbind(1):
            states = self.cell(step, states)
        return self.out(states[0] if isinstance(states, tuple) else states)

    @staticmethod
    def graph(m: CellLoop, x: ref.Node) -> ref.Node:
        initial = array(m.initial)
        states: Any = (ref.constant(initial), ref.constant(2 * initial))
        states = states if m.kind == "LSTMCell" else states[:1]
        step, weights = step_of(m.cell), weights_of(m.cell)
        for inputs in steps_of(x):
            states = step(weights, inputs, states)
        return apply(m.out, states[0])


class GRUCellLoop(CellLoop):
    """nn.GRUCell."""

    kind = "GRUCell"


class RNNCellLoop(CellLoop):
    """nn.RNNCell."""

    kind = "RNNCell"


class Tokens(nn.Module):
    """Embedded tokens through an LSTM; `vocabulary` names of rows."""

    shape, low, high = (6,), -float("inf"), float("inf")
    vocabulary = 11

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(11, 5)
        self.core: Any = nn.LSTM(5, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps, _ = self.core(self.table(x))
        return self.out(steps[:, -1])

    @staticmethod
    def graph(m: Tokens, x: ref.Node) -> ref.Node:
        steps = recurrent(m.core, embedding(x, array(m.table.weight))).steps
        return apply(m.out, ref.take(steps, -1))


class TokenBag(nn.Module):
    """ReLU units over embedded tokens, their mean over the steps."""

    shape, low, high = (5,), -float("inf"), float("inf")
    vocabulary = 9

    def __init__(self) -> None:
        super().__init__()
        self.table, self.hidden, self.out = nn.Embedding(9, 7), nn.Linear(7, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(self.table(x))).mean(dim=1))

    @staticmethod
    def graph(m: TokenBag, x: ref.Node) -> ref.Node:
        hidden = apply_relu(m.hidden, embedding(x, array(m.table.weight)))
        return apply(m.out, mean(steps_of(hidden)))


GATE_MODELS = (
    GatedUnits,
    GatedSum,
    MinimalGatedUnit,
    SignedSums,
    StepStatistics,
    TurnedAndPadded,
    SumPooled,
    ConvolutionalSteps,
    CellLoop,
    GRUCellLoop,
    RNNCellLoop,
    Tokens,
    TokenBag,
)
