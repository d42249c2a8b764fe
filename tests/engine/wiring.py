# SPDX-License-Identifier: Apache-2.0
"""Modules whose tensors meet in unusual ways, each with the same graph for the reference."""

from __future__ import annotations

import numpy as np
import reference_graph as ref
import torch
from engine.models import apply, apply_relu, array
from torch import Tensor, nn
from torch.nn import functional


class SlidingWindows(nn.Module):
    """One layer over overlapping windows of time, and overlapping slices side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.overlap = nn.Linear(15, 17), nn.Linear(17 + 7, 9)
        self.out = nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(self.window(x[:, 0:3].flatten(1)))
        for t in range(1, 5):
            h = h + functional.relu(self.window(x[:, t : t + 3].flatten(1)))
        both = torch.cat([h, x[:, 2, :4], x[:, 2, 2:]], 1)
        return self.out(torch.relu(self.overlap(both)))

    @staticmethod
    def graph(m: SlidingWindows, x: ref.Node) -> ref.Node:
        windows = [ref.reshape(ref.take(x, slice(t, t + 3)), 15) for t in range(5)]
        h = ref.add(*(apply_relu(m.window, window) for window in windows))
        both = ref.concat([h, ref.take(x, 2, slice(0, 4)), ref.take(x, 2, slice(2, 5))])
        return apply(m.out, apply_relu(m.overlap, both))


class OneLayerForAll(nn.Module):
    """The same weights for inputs in a box and for hidden units, and again for the output."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(9, 9)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.layer(x[:, 0]))
        for t in range(1, 4):
            h = torch.relu(self.layer(h) + self.layer(x[:, t]))
        return self.layer(h)

    @staticmethod
    def graph(m: OneLayerForAll, x: ref.Node) -> ref.Node:
        h = apply_relu(m.layer, ref.take(x, 0))
        for t in range(1, 4):
            h = ref.relu(ref.add(apply(m.layer, h), apply(m.layer, ref.take(x, t))))
        return apply(m.layer, h)


class SeveralHeads(nn.Module):
    """Outputs from two heads of different depth, one of them after a ReLU, in turned order."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.deep = nn.Linear(11, 15), nn.Linear(15, 7)
        self.first, self.second = nn.Linear(15, 2), nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.hidden(x))
        second = torch.relu(self.second(torch.relu(self.deep(h))))
        return torch.cat([second[:, 1:], self.first(h), second[:, :1]], dim=1)

    @staticmethod
    def graph(m: SeveralHeads, x: ref.Node) -> ref.Node:
        h = apply_relu(m.hidden, x)
        second = apply_relu(m.second, apply_relu(m.deep, h))
        ends = ref.take(second, slice(1, 3)), ref.take(second, slice(0, 1))
        return ref.concat([ends[0], apply(m.first, h), ends[1]])


class InputSkip(nn.Module):
    """Input values added to the scores: pixels in a box beside hidden units in one sum."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x))) + x[:, 1:4]

    @staticmethod
    def graph(m: InputSkip, x: ref.Node) -> ref.Node:
        return ref.add(apply(m.out, apply_relu(m.hidden, x)), ref.take(x, slice(1, 4)))


class RectifiedInput(nn.Module):
    """ReLU of the input itself, twice, and sums of what comes of it."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(7, 3)

    def forward(self, x: Tensor) -> Tensor:
        rectified = torch.relu(torch.relu(x))
        return self.out(rectified[:, 0] + rectified[:, 1])

    @staticmethod
    def graph(m: RectifiedInput, x: ref.Node) -> ref.Node:
        rectified = ref.relu(ref.relu(x))
        return apply(m.out, ref.add(ref.take(rectified, 0), ref.take(rectified, 1)))


class ParameterExpressions(nn.Module):
    """Weights computed from parameters: transposed, sliced, concatenated, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.u = nn.Parameter(torch.randn(12, 8)), nn.Parameter(torch.randn(5, 8))
        self.scale = nn.Parameter(torch.randn(13))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(x @ self.w)
        h = torch.relu(functional.linear(h, self.w[2:10], self.scale[:8].abs()))
        weight = torch.cat([self.w[:8], self.u]) * self.scale.sigmoid().unsqueeze(1)
        h = torch.relu(torch.nn.functional.linear(h, weight))
        return torch.addmm(-self.scale[:4].exp(), h[:, :12], self.w[:, :4])

    @staticmethod
    def graph(m: ParameterExpressions, x: ref.Node) -> ref.Node:
        w, u, scale = array(m.w), array(m.u), array(m.scale)
        h = ref.relu(ref.linear(x, w.T))
        h = ref.relu(ref.linear(h, w[2:10], np.abs(scale[:8])))
        weight = np.concatenate([w[:8], u]) / (1 + np.exp(-scale[:, None]))
        h = ref.relu(ref.linear(h, weight))
        return ref.linear(ref.take(h, slice(0, 12)), w[:, :4].T, -np.exp(scale[:4]))


class SummedScores(nn.Module):
    """Scores are sums of activations: there is no linear layer at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = torch.relu(self.layer(x)).unbind(1)
        return first + second + third

    @staticmethod
    def graph(m: SummedScores, x: ref.Node) -> ref.Node:
        steps = apply_relu(m.layer, x)
        return ref.add(*(ref.take(steps, t) for t in range(3)))


class ManyLayers(nn.Module):
    """Twelve layers of one width."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(15, 15) for _ in range(12))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = torch.relu(layer(x))
        return self.layers[-1](x)

    @staticmethod
    def graph(m: ManyLayers, x: ref.Node) -> ref.Node:
        for layer in m.layers[:-1]:
            x = apply_relu(layer, x)
        return apply(m.layers[-1], x)


class AddedInputs(nn.Module):
    """Two steps of the input added before the first layer: the sum lies in a box too."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(7, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.hidden(x[:, 0] + x[:, 1])))

    @staticmethod
    def graph(m: AddedInputs, x: ref.Node) -> ref.Node:
        return apply(m.out, apply_relu(m.hidden, ref.add(ref.take(x, 0), ref.take(x, 1))))


class NestedConcat(nn.Module):
    """A concatenation that is part of another, beside a part of itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 1), nn.Linear(17, 2)
        self.out = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        both = torch.cat([x, h], 1)
        return self.out(torch.cat([h, both, torch.relu(self.second(both))], 1))

    @staticmethod
    def graph(m: NestedConcat, x: ref.Node) -> ref.Node:
        h = apply_relu(m.first, x)
        both = ref.concat([x, h])
        return apply(m.out, ref.concat([h, both, apply_relu(m.second, both)]))


class JoinedConstants(nn.Module):
    """More constants than inputs: zeros, what a layer makes of zeros, and its double."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(7, 33), nn.Linear(33 + 3 + 33 + 7, 3)

    def forward(self, x: Tensor) -> Tensor:
        zeros = x.new_zeros(x.shape[0], 7)
        state = torch.relu(self.layer(zeros))
        return self.out(torch.cat([state, x, state + state, zeros], 1))

    @staticmethod
    def graph(m: JoinedConstants, x: ref.Node) -> ref.Node:
        state = apply_relu(m.layer, ref.zeros(7))
        return apply(m.out, ref.concat([state, x, ref.add(state, state), ref.zeros(7)]))


class EncodedPlusState(nn.Module):
    """Encoded input + U h + b before the ReLU: at the first step U h + b is a signed constant."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.recurrent, self.out = nn.Linear(5, 9), nn.Linear(9, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 9)
        for t in range(3):
            h = torch.relu(torch.relu(self.encode(x[:, t])) + self.recurrent(h))
        return self.out(h)

    @staticmethod
    def graph(m: EncodedPlusState, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(9)
        for t in range(3):
            encoded = apply_relu(m.encode, ref.take(x, t))
            h = ref.relu(ref.add(encoded, apply(m.recurrent, h)))
        return apply(m.out, h)


class AllStates(nn.Module):
    """The states of more steps than a product can read in pieces, side by side in the read-out."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.cell = nn.Linear(3, 31), nn.Linear(31 + 16, 16)
        self.out = nn.Linear(12 * 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h, states = x.new_zeros(x.shape[0], 16), []
        for t in range(12):
            h = torch.relu(self.cell(torch.cat([torch.relu(self.encode(x[:, t])), h], 1)))
            states.append(h)
        return self.out(torch.cat(states, 1))

    @staticmethod
    def graph(m: AllStates, x: ref.Node) -> ref.Node:
        states: list[ref.Node] = [ref.zeros(16)]
        for t in range(12):
            encoded = apply_relu(m.encode, ref.take(x, t))
            states.append(apply_relu(m.cell, ref.concat([encoded, states[-1]])))
        return apply(m.out, ref.concat(states[1:]))
