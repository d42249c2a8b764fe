# SPDX-License-Identifier: Apache-2.0
"""Models of the tests of patterns, as modules and written out by hand."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from reference_patterns import Layers, Model, hooked
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import pyrel


@dataclass(frozen=True)
class Case:
    """A module, the same by hand in float64, and the layers that no ReLU reads."""

    name: str
    module: nn.Module
    by_hand: Model
    sample: tuple[int, ...]
    linear: tuple[str, ...]
    depth: int  # the most terms on a way from output to input


class Recurrent(nn.Module):
    """A recurrent layer and what reads its last state."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.layer = getattr(nn, kind)(5, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        states: Tensor = self.layer(x)[0]
        return self.out(states[:, -1])


class Summed(nn.Module):
    """A recurrence of two layers that are added up; at the first step one of them alone."""

    def __init__(self) -> None:
        super().__init__()
        self.of_input, self.of_state = nn.Linear(5, 4), nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            h = F.relu(self.of_input(x[:, t]) + self.of_state(h))
        result: Tensor = self.out(h)
        return result


def _summed(module: Summed) -> Model:
    w = {name: p.detach().double() for name, p in module.named_parameters()}
    weight = torch.cat([w["of_input.weight"], w["of_state.weight"]], dim=1)
    bias = w["of_input.bias"] + w["of_state.bias"]

    def run(layers: Layers, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            h = F.relu(layers.dense("sum", torch.cat([x[:, t], h], dim=1), weight, bias))
        return layers.dense("out", h, w["out.weight"], w["out.bias"])

    return run


def _lstm(module: Recurrent) -> Model:
    w = {name: p.detach().double() for name, p in module.named_parameters()}
    inward, recurrent = w["layer.weight_ih_l0"].chunk(4), w["layer.weight_hh_l0"].chunk(4)
    bias = (w["layer.bias_ih_l0"] + w["layer.bias_hh_l0"]).chunk(4)

    def run(layers: Layers, x: Tensor) -> Tensor:
        h = c = x.new_zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            both = torch.cat([x[:, t], h], dim=1)
            i, f, o = (
                torch.sigmoid(both.detach() @ torch.cat([inward[g], recurrent[g]], 1).T + bias[g])
                for g in (0, 1, 3)
            )
            g = layers.dense("layer", both, torch.cat([inward[2], recurrent[2]], 1), bias[2])
            c = f * c + i * torch.tanh(g)
            h = o * torch.tanh(c)
        return layers.dense("out", h, w["out.weight"], w["out.bias"])

    return run


def _gru(module: Recurrent) -> Model:
    w = {name: p.detach().double() for name, p in module.named_parameters()}
    inward, recurrent = w["layer.weight_ih_l0"].chunk(3), w["layer.weight_hh_l0"].chunk(3)
    of_input, of_state = w["layer.bias_ih_l0"].chunk(3), w["layer.bias_hh_l0"].chunk(3)

    def run(layers: Layers, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        for t in range(x.shape[1]):
            r, z = (
                torch.sigmoid(
                    x[:, t] @ inward[g].T + h.detach() @ recurrent[g].T + of_input[g] + of_state[g]
                ).detach()
                for g in (0, 1)
            )
            n = layers.dense("layer x", x[:, t], inward[2], of_input[2])
            # The first state is a constant: no rows of it are seen, and none are propagated to.
            u = layers.dense("layer h", h, recurrent[2], of_state[2]) if t else of_state[2]
            h = (1 - z) * torch.tanh(n + r * u) + z * h
        return layers.dense("out", h, w["out.weight"], w["out.bias"])

    return run


def _feed_forward(module: nn.Module) -> Model:
    w: Any = {name: p.detach().double() for name, p in module.named_parameters()}

    def run(layers: Layers, x: Tensor) -> Tensor:
        a = F.relu(layers.dense("0", x, w["0.weight"], w["0.bias"]))
        a = F.relu(layers.dense("2", a, w["2.weight"], w["2.bias"]))
        return layers.dense("4", a, w["4.weight"], w["4.bias"])

    return run


def _convolutional(module: nn.Module) -> Model:
    w: Any = {name: p.detach().double() for name, p in module.named_parameters()}

    def run(layers: Layers, x: Tensor) -> Tensor:
        a = F.relu(layers.convolution("0", x, w["0.weight"], w["0.bias"]))
        a = F.max_pool2d(a, 2)
        a = F.relu(layers.convolution("3", a, w["3.weight"], w["3.bias"]))
        return layers.dense("6", a.flatten(1), w["6.weight"], w["6.bias"])

    return run


def cases() -> list[Case]:
    """Make the models, with weights drawn from a seed."""
    torch.manual_seed(3)
    plain = nn.Sequential(
        *(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 3))
    )
    images = nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)),
    )
    deep = _lively(pyrel.nn.Deep(3, (4, 2), 3, sizes=(8, 7, 6), recurrent=5))
    conv = _lively(pyrel.nn.ConvDeep(2, (8, 6), 3, sizes=(4, 6, 9, 7), recurrent=5))
    lstm, gru, summed = Recurrent("LSTM"), Recurrent("GRU"), Summed()
    found = [
        Case("feed-forward", plain, _feed_forward(plain), (6,), ("4",), 25),
        Case("images", images, _convolutional(images), (1, 12, 12), ("6",), 200),
        Case("Deep", deep, hooked(_doubled(deep)), (3, 4, 2), ("output",), 80),
        Case("ConvDeep", conv, hooked(_doubled(conv)), (2, 8, 6), ("output",), 150),
        Case("LSTM", lstm, _lstm(lstm), (4, 5), ("layer", "out"), 60),
        Case("sum of layers", summed, _summed(summed), (4, 5), ("out",), 60),
        Case("GRU", gru, _gru(gru), (4, 5), ("layer x", "layer h", "out"), 60),
    ]
    return found


def _lively(cell: Any) -> Any:
    """Enlarge the weights, which are small for so few units: all of them would be off."""
    with torch.no_grad():
        for name, parameter in cell.named_parameters():
            if name.endswith("weight"):
                parameter *= 4
    return cell.eval()


def _doubled(cell: nn.Module) -> nn.Module:
    return copy.deepcopy(cell).double()
