# SPDX-License-Identifier: Apache-2.0
"""Users' own recurrent modules, plain torch, each with the same graph for the reference."""

from __future__ import annotations

from typing import Any

import reference_graph as ref
import torch
from torch import Tensor, nn
from torch.nn import functional


def array(tensor: Tensor) -> ref.Array:
    """Return a parameter in float64."""
    return tensor.detach().double().numpy()


def apply(layer: Any, node: ref.Node) -> ref.Node:
    """Return the reference's node for a linear module."""
    return ref.linear(node, array(layer.weight), None if layer.bias is None else array(layer.bias))


def apply_relu(layer: Any, node: ref.Node) -> ref.Node:
    """Return the reference's node for relu(layer(node))."""
    return ref.relu(apply(layer, node))


class OneLinear(nn.Module):
    """A model with one linear layer only."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(9, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x)

    @staticmethod
    def graph(m: OneLinear, x: ref.Node) -> ref.Node:
        return apply(m.out, x)


class SequentialNet(nn.Module):
    """nn.Sequential with in-place ReLU, dropout, Identity and Flatten, a width of 1 inside."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(),
            nn.Linear(15, 65),
            nn.ReLU(inplace=True),
            nn.Dropout(0.5),
            nn.Linear(65, 1),
            nn.ReLU(),
            nn.Identity(),
            nn.Linear(1, 33, bias=False),
            nn.ReLU(),
            nn.Linear(33, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    @staticmethod
    def graph(m: SequentialNet, x: ref.Node) -> ref.Node:
        layers = [layer for layer in m.net if isinstance(layer, nn.Linear)]
        h = ref.reshape(x, 15)
        for layer in layers[:-1]:
            h = apply_relu(layer, h)
        return apply(layers[-1], h)


class Elman(nn.Module):
    """Two linear maps added, then ReLU: one linear node over [x_t; h]."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.recurrent = nn.Linear(7, 17), nn.Linear(17, 17)
        self.out = nn.Linear(17, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 17)
        for t in range(x.shape[1]):
            h = torch.relu(self.inward(x[:, t]) + self.recurrent(h))
        return self.out(h)

    @staticmethod
    def graph(m: Elman, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(17)
        for t in range(x.shape[0]):
            h = ref.relu(ref.add(apply(m.inward, ref.take(x, t)), apply(m.recurrent, h)))
        return apply(m.out, h)


class EncodedAtOnce(nn.Module):
    """Linear over (n, T, f) at once, then a loop; the recurrence is torch.addmm."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 16)
        self.weight = nn.Parameter(torch.randn(24, 8) / 5)
        self.bias = nn.Parameter(torch.randn(8) / 5)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        encoded = functional.relu(self.encode(x))
        h = torch.zeros(x.shape[0], 8)
        for step in encoded.unbind(1):
            h = torch.addmm(self.bias, torch.cat((step, h), dim=1), self.weight).relu()
        return self.out(h)

    @staticmethod
    def graph(m: EncodedAtOnce, x: ref.Node) -> ref.Node:
        encoded = apply_relu(m.encode, x)
        h: ref.Node = ref.zeros(8)
        for t in range(x.shape[0]):
            both = ref.concat([ref.take(encoded, t), h])
            h = ref.relu(ref.linear(both, array(m.weight).T, array(m.bias)))
        return apply(m.out, h)


class StackedSteps(nn.Module):
    """The states of all steps stacked, then reshaped to one row; x @ W + b as the recurrence."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(5, 9) / 3)
        self.u = nn.Parameter(torch.randn(9, 9) / 3)
        self.b = nn.Parameter(torch.randn(9) / 3)
        self.out = nn.Linear(36, 4)

    def forward(self, x: Tensor) -> Tensor:
        h, states = None, []
        for t in range(4):
            z = x[:, t] @ self.w + self.b
            h = torch.relu(z if h is None else z + torch.matmul(h, self.u))
            states.append(h)
        return self.out(torch.stack(states, dim=1).reshape(x.shape[0], 36))

    @staticmethod
    def graph(m: StackedSteps, x: ref.Node) -> ref.Node:
        states: list[ref.Node] = []
        for t in range(4):
            z = ref.linear(ref.take(x, t), array(m.w).T, array(m.b))
            if states:
                z = ref.add(z, ref.linear(states[-1], array(m.u).T))
            states.append(ref.relu(z))
        return apply(m.out, ref.reshape(ref.stack(states), 36))


class Residual(nn.Module):
    """A sum of activations, h + relu(Wh), and a sum with a pre-activation, relu(h + Wh)."""

    def __init__(self) -> None:
        super().__init__()
        self.inward, self.after, self.before = (
            nn.Linear(10, 17),
            nn.Linear(17, 17),
            nn.Linear(17, 17),
        )
        self.out = nn.Linear(17, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.inward(x))
        h = h + torch.relu(self.after(h))
        h = torch.relu(h + self.before(h))
        return self.out(h)

    @staticmethod
    def graph(m: Residual, x: ref.Node) -> ref.Node:
        h = apply_relu(m.inward, x)
        h = ref.add(h, apply_relu(m.after, h))
        h = ref.relu(ref.add(h, apply(m.before, h)))
        return apply(m.out, h)


class Rearranged(nn.Module):
    """Time-major by permute, then narrow, chunk, split, squeeze, transpose and negative indices."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.side = nn.Linear(8 + 6, 12), nn.Linear(7, 3)
        self.out = nn.Linear(6 + 3, 4)

    def forward(self, x: Tensor) -> Tensor:
        major = x.permute(1, 0, 2)
        h = x.new_zeros(x.shape[0], 6)
        for step in torch.split(major, 1, dim=0):
            first, second = self.cell(torch.cat([step.squeeze(0), h], -1)).relu().chunk(2, dim=-1)
            h = first + second
        last = x.transpose(1, 2)[:, :, -1].narrow(1, 1, 7)
        return self.out(torch.cat([h, torch.relu(self.side(last))], dim=1))

    @staticmethod
    def graph(m: Rearranged, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(6)
        for t in range(x.shape[0]):
            both = apply_relu(m.cell, ref.concat([ref.take(x, t), h]))
            h = ref.add(ref.take(both, slice(0, 6)), ref.take(both, slice(6, 12)))
        side = apply_relu(m.side, ref.take(x, -1, slice(1, 8)))
        return apply(m.out, ref.concat([h, side]))


class SharedEncoder(nn.Module):
    """One nn.Sequential used at every step (twice in step 0), states summed as activations."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(9, 15), nn.ReLU(), nn.Dropout(), nn.Linear(15, 16))
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        total = functional.relu(self.encoder(x[:, 0]))
        for t in range(x.size(1)):
            total = total + functional.relu(self.encoder(x[:, t]))
        return self.out(total)

    @staticmethod
    def graph(m: SharedEncoder, x: ref.Node) -> ref.Node:
        def encode(t: int) -> ref.Node:
            hidden = apply_relu(m.encoder[0], ref.take(x, t))
            return apply_relu(m.encoder[3], hidden)

        total = encode(0)
        for t in range(x.shape[0]):
            total = ref.add(total, encode(t))
        return apply(m.out, total)


class SlicedImage(nn.Module):
    """Images (n, 28, 84) cut into columns inside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.Linear(28 * 21 + 31, 31), nn.Linear(31, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(0), 31)
        for t in range(4):
            columns = x[:, :, 21 * t : 21 * (t + 1)].flatten(1)
            h = functional.relu(self.cell(torch.cat([columns, h], 1)))
        return self.out(h)

    @staticmethod
    def graph(m: SlicedImage, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(31)
        for t in range(4):
            columns = ref.reshape(ref.take(x, slice(None), slice(21 * t, 21 * (t + 1))), 28 * 21)
            h = apply_relu(m.cell, ref.concat([columns, h]))
        return apply(m.out, h)


class FoldedBatch(nn.Module):
    """The encoder sees all steps as rows: reshape(-1, f), back to (-1, T, h)."""

    def __init__(self) -> None:
        super().__init__()
        self.encode, self.cell, self.out = nn.Linear(6, 8), nn.Linear(8 + 9, 9), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        encoded = torch.relu(self.encode(x.reshape(-1, 6))).view(-1, 5, 8)
        h = torch.zeros_like(encoded[:, 0, :1]).expand(-1, 9)
        for t in range(5):
            h = torch.relu(self.cell(torch.cat([encoded[:, t], h], 1)))
        return self.out(h)

    @staticmethod
    def graph(m: FoldedBatch, x: ref.Node) -> ref.Node:
        encoded = apply_relu(m.encode, x)
        h: ref.Node = ref.zeros(9)
        for t in range(5):
            h = apply_relu(m.cell, ref.concat([ref.take(encoded, t), h]))
        return apply(m.out, h)


class InitialState(nn.Module):
    """A given initial state with values of both signs, concatenated with the input."""

    def __init__(self) -> None:
        super().__init__()
        self.initial = nn.Parameter(torch.randn(8))
        self.cell, self.out = nn.Linear(5 + 8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.initial.expand(x.shape[0], -1)
        for t in range(x.shape[1]):
            h = torch.relu(self.cell(torch.cat([x[:, t], h], dim=1)))
        return self.out(h)

    @staticmethod
    def graph(m: InitialState, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.constant(array(m.initial))
        for t in range(x.shape[0]):
            h = apply_relu(m.cell, ref.concat([ref.take(x, t), h]))
        return apply(m.out, h)


class LinearAfterLinear(nn.Module):
    """Factorised layers, W₂(W₁a), on the input, on hidden units and at the output."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [nn.Linear(12, 3), nn.Linear(3, 16), nn.Linear(16, 2), nn.Linear(2, 15)]
        )
        self.out = nn.Sequential(nn.Linear(15, 4), nn.Linear(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.layers[1](self.layers[0](x)))
        return self.out(torch.relu(self.layers[3](self.layers[2](h))))

    @staticmethod
    def graph(m: LinearAfterLinear, x: ref.Node) -> ref.Node:
        h = apply_relu(m.layers[1], apply(m.layers[0], x))
        h = apply_relu(m.layers[3], apply(m.layers[2], h))
        return apply(m.out[1], apply(m.out[0], h))


class FusedProjections(nn.Module):
    """Slices of one projection added before the ReLU, as fused kernels do; a transposed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.recurrent = nn.Linear(7, 16), nn.Linear(8, 8, bias=False)
        self.head = nn.Parameter(torch.randn(3, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros((x.shape[0], 8), dtype=x.dtype)
        for t in range(x.shape[1]):
            z = self.project(x[:, t, :])
            h = torch.relu(z[:, :8] + z[:, 8:] + self.recurrent(h))
        return torch.mm(h, self.head.t())

    @staticmethod
    def graph(m: FusedProjections, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(8)
        for t in range(x.shape[0]):
            z = apply(m.project, ref.take(x, t))
            halves = ref.take(z, slice(0, 8)), ref.take(z, slice(8, 16))
            h = ref.relu(ref.add(*halves, apply(m.recurrent, h)))
        return ref.linear(h, array(m.head))


class Bidirectional(nn.Module):
    """Two loops, one backwards in time, and steps chosen with a stride; output (n,)."""

    def __init__(self) -> None:
        super().__init__()
        self.onward, self.backward_cell = nn.Linear(4 + 7, 7), nn.Linear(4 + 9, 9)
        self.out = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        h, g = x.new_zeros(x.shape[0], 7), x.new_zeros(x.shape[0], 9)
        for t in range(5):
            h = torch.relu(self.onward(torch.cat([x[:, t], h], 1)))
        for step in x[:, ::2].unbind(dim=1)[::-1]:
            g = torch.relu(self.backward_cell(torch.cat([step, g], 1)))
        return self.out(torch.cat([h, g], 1)).squeeze(-1)

    @staticmethod
    def graph(m: Bidirectional, x: ref.Node) -> ref.Node:
        h: ref.Node = ref.zeros(7)
        g: ref.Node = ref.zeros(9)
        for t in range(5):
            h = apply_relu(m.onward, ref.concat([ref.take(x, t), h]))
        for t in (4, 2, 0):
            g = apply_relu(m.backward_cell, ref.concat([ref.take(x, t), g]))
        return apply(m.out, ref.concat([h, g]))


class Repeated(nn.Module):
    """The same tensors used several times: cat([x, x]), a skip to the output, one layer twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(12, 13), nn.Linear(13, 13)
        self.out = nn.Linear(26, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(torch.cat([x, x], dim=-1)))
        deep = torch.relu(self.again(torch.relu(self.again(h))))
        return self.out(torch.cat([deep, h], dim=-1))

    @staticmethod
    def graph(m: Repeated, x: ref.Node) -> ref.Node:
        h = apply_relu(m.first, ref.concat([x, x]))
        deep = apply_relu(m.again, apply_relu(m.again, h))
        return apply(m.out, ref.concat([deep, h]))
