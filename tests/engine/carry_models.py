# SPDX-License-Identifier: Apache-2.0
"""Users' sums of gated values: what of them carries a state on, told by hand in the references."""

from __future__ import annotations

import reference_graph as ref
import torch
from engine.gate_models import steps_of
from engine.models import apply, apply_relu
from reference_functions import sigmoid, tanh
from torch import Tensor, nn

STEPS, FEATURES, UNITS = 5, 3, 4


class Units(nn.Module):
    """Linear layers by name, of the step or of the state, and one over the last state."""

    names: tuple[str, ...] = ()
    of_state: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        for name in self.names:
            self.add_module(name, nn.Linear(FEATURES, UNITS))
        for name in self.of_state:
            self.add_module(name, nn.Linear(UNITS, UNITS))
        self.out = nn.Linear(UNITS, 3)


class LinearRecurrence(Units):
    """h = a ⊙ h' + W x: the candidate is a pre-activation, and nothing reads h' but the sum."""

    names = ("a", "w")

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], UNITS)
        for step in x.unbind(1):
            h = torch.sigmoid(self.a(step)) * h + self.w(step)
        return self.out(torch.tanh(h))

    @staticmethod
    def graph(m: LinearRecurrence, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(UNITS)
        for step in steps_of(x):
            h = ref.add(ref.carried(sigmoid(apply(m.a, step)), h), apply(m.w, step))
        return apply(m.out, tanh(h))


class SimpleUnit(Units):
    """c = f ⊙ c' + (1 − f) ⊙ (W x), both gated (SRU without the highway)."""

    names = ("f", "w")

    def forward(self, x: Tensor) -> Tensor:
        c = x.new_zeros(x.shape[0], UNITS)
        for step in x.unbind(1):
            f = torch.sigmoid(self.f(step))
            c = f * c + (1 - f) * self.w(step)
        return self.out(torch.tanh(c))

    @staticmethod
    def graph(m: SimpleUnit, x: ref.Node) -> ref.Node:
        c: ref.Node = ref.zeros(UNITS)
        for step in steps_of(x):
            c = ref.blend(sigmoid(apply(m.f, step)), apply(m.w, step), c, state=c)
        return apply(m.out, tanh(c))


class Towards(Units):
    """h = h' + z ⊙ (n − h'): z ⊙ (…) is a change, no state, and h' has its own addend."""

    names = ("z", "n")
    of_state = ("u",)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], UNITS)
        for step in x.unbind(1):
            n = torch.tanh(self.n(step) + self.u(h))
            h = h + torch.sigmoid(self.z(step)) * (n - h)
        return self.out(h)

    @staticmethod
    def graph(m: Towards, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(UNITS)
        for step in steps_of(x):
            n = tanh(ref.add(apply(m.n, step), apply(m.u, h)))
            change = ref.add(n, ref.scale(h, -1.0))
            h = ref.add(h, ref.gated(sigmoid(apply(m.z, step)), change))
        return apply(m.out, h)


class TwoMemories(Units):
    """c = f ⊙ c' + (k ⊙ c'' + i ⊙ g): a sum within a sum, with two states carried."""

    names = ("f", "k", "i", "g")

    def forward(self, x: Tensor) -> Tensor:
        before = c = x.new_zeros(x.shape[0], UNITS)
        for step in x.unbind(1):
            f, k, i = (torch.sigmoid(gate(step)) for gate in (self.f, self.k, self.i))
            before, c = c, f * c + (k * before + i * torch.tanh(self.g(step)))
        return self.out(torch.tanh(c))

    @staticmethod
    def graph(m: TwoMemories, x: ref.Node) -> ref.Node:
        before: ref.Node = ref.zeros(UNITS)
        c = before
        for step in steps_of(x):
            f, k, i = (sigmoid(apply(gate, step)) for gate in (m.f, m.k, m.i))
            added = ref.gated(i, tanh(apply(m.g, step)))
            inner = ref.add(ref.carried(k, before), added)
            before, c = c, ref.add(ref.carried(f, c), inner)
        return apply(m.out, tanh(c))


class Highway(Units):
    """y = t ⊙ relu(H x) + (1 − t) ⊙ x, twice: the second layer's x is a sum of gated values."""

    names = ("first",)
    of_state = ("t_1", "h_1", "t_2", "h_2")

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x[:, 0]))
        for gate, layer in ((self.t_1, self.h_1), (self.t_2, self.h_2)):
            t = torch.sigmoid(gate(y))
            y = t * torch.relu(layer(y)) + (1 - t) * y
        return self.out(y)

    @staticmethod
    def graph(m: Highway, x: ref.Node) -> ref.Node:
        y = apply_relu(m.first, ref.take(x, 0))
        for gate, layer, state in ((m.t_1, m.h_1, None), (m.t_2, m.h_2, "y")):
            t = sigmoid(apply(gate, y))
            new = apply_relu(layer, y)
            y = ref.blend(t, y, new, state=y if state else None)
        return apply(m.out, y)


class Choice(Units):
    """g ⊙ a + (1 − g) ⊙ b of two states: neither is the state before, and g gets half."""

    names = ("f", "w", "k", "v", "g")

    def forward(self, x: Tensor) -> Tensor:
        a = b = x.new_zeros(x.shape[0], UNITS)
        for step in x.unbind(1):
            f, k = torch.sigmoid(self.f(step)), torch.sigmoid(self.k(step))
            a = f * a + (1 - f) * torch.tanh(self.w(step))
            b = k * b + (1 - k) * torch.tanh(self.v(step))
        g = torch.sigmoid(self.g(x[:, 0]))
        return self.out(g * a + (1 - g) * b)

    @staticmethod
    def graph(m: Choice, x: ref.Node) -> ref.Node:
        a: ref.Node = ref.zeros(UNITS)
        b = a
        for step in steps_of(x):
            f, k = sigmoid(apply(m.f, step)), sigmoid(apply(m.k, step))
            a = ref.blend(f, tanh(apply(m.w, step)), a, state=a)
            b = ref.blend(k, tanh(apply(m.v, step)), b, state=b)
        g = sigmoid(apply(m.g, ref.take(x, 0)))
        return apply(m.out, ref.blend(g, b, a, state=None))


class MeanOfReadings(Units):
    """The mean over steps of o ⊙ c: a sum of gated states, where o gets half."""

    names = ("f", "i", "o", "g")

    def forward(self, x: Tensor) -> Tensor:
        c, readings = x.new_zeros(x.shape[0], UNITS), []
        for step in x.unbind(1):
            f, i, o = (torch.sigmoid(gate(step)) for gate in (self.f, self.i, self.o))
            c = f * c + i * torch.tanh(self.g(step))
            readings.append(o * c)
        return self.out(torch.tanh(torch.stack(readings, 1).mean(1)))

    @staticmethod
    def graph(m: MeanOfReadings, x: ref.Node) -> ref.Node:
        c: ref.Node = ref.zeros(UNITS)
        readings = []
        for step in steps_of(x):
            f, i, o = (sigmoid(apply(gate, step)) for gate in (m.f, m.i, m.o))
            c = ref.add(ref.carried(f, c), ref.gated(i, tanh(apply(m.g, step))))
            readings.append(ref.gated(o, c))
        return apply(m.out, tanh(ref.scale(ref.add(*readings), 1 / STEPS)))


class Kept(Units):
    """h = 0.1 h' + 0.9 (z ⊙ h' + (1 − z) ⊙ n), as zoneout computes it in evaluation."""

    names = ("z", "n")
    of_state = ("u",)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], UNITS)
        for step in x.unbind(1):
            z, n = torch.sigmoid(self.z(step)), torch.tanh(self.n(step) + self.u(h))
            h = 0.1 * h + 0.9 * (z * h + (1 - z) * n)
        return self.out(h)

    @staticmethod
    def graph(m: Kept, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(UNITS)
        for step in steps_of(x):
            z = sigmoid(apply(m.z, step))
            n = tanh(ref.add(apply(m.n, step), apply(m.u, h)))
            new = ref.scale(ref.blend(z, n, h, state=h), 0.9)
            h = ref.add(ref.scale(h, 0.1), new)
        return apply(m.out, h)


CARRY_MODELS = (
    LinearRecurrence,
    SimpleUnit,
    Towards,
    TwoMemories,
    Highway,
    Choice,
    MeanOfReadings,
    Kept,
)
