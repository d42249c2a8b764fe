# SPDX-License-Identifier: Apache-2.0
"""Layers whose weights are made anew in each forward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

FEATURES, WIDTH = 4, 6
RAW = "_raw"


class WeightDrop(nn.Module):
    """Recurrent weights with dropout, which are no parameters of the layer any more."""

    def __init__(self, layer: nn.Module, *names: str) -> None:
        super().__init__()
        self.layer, self.names = layer, names
        for name in names:
            weight = layer._parameters.pop(name)
            assert weight is not None
            self.register_parameter(name + RAW, nn.Parameter(weight.data))

    def weight(self, name: str) -> Tensor:
        return functional.dropout(getattr(self, name + RAW), 0.5, self.training)

    def forward(self, *args: Any) -> Any:
        for name in self.names:
            setattr(self.layer, name, self.weight(name))
        return self.layer(*args)


class ParameterDrop(WeightDrop):
    """Makes parameters, which then are registered."""

    def weight(self, name: str) -> Any:
        return nn.Parameter(super().weight(name))


class RowDrop(WeightDrop):
    """Drops whole rows, by a mask that it keeps."""

    def weight(self, name: str) -> Tensor:
        raw = getattr(self, name + RAW)
        if not self.training:
            self.mask = torch.ones(raw.size(0), 1, dtype=raw.dtype)
        return self.mask.expand_as(raw) * raw


class Flattening(nn.LSTM):
    """A layer that tidies its weights up before it runs."""

    def forward(self, input: Any, hx: Any = None) -> Any:
        self.flatten_parameters()
        return super().forward(input, hx)


class Squashed(nn.Module):
    """A parametrization."""

    def forward(self, weight: Tensor) -> Tensor:
        return torch.tanh(weight)


def lstm() -> nn.LSTM:
    return nn.LSTM(FEATURES, WIDTH, batch_first=True)


def squashed(layer: nn.Module, name: str) -> nn.Module:
    return parametrize.register_parametrization(layer, name, Squashed())


def pruned() -> nn.Module:
    layer = lstm()
    prune.l1_unstructured(layer, "weight_ih_l0", 0.3)
    return layer


def normed() -> nn.Module:
    layer = weight_norm(nn.GRU(FEATURES, WIDTH, batch_first=True), "weight_hh_l0")
    return weight_norm(layer, "weight_ih_l0", dim=1)


LAYERS: dict[str, Any] = {
    "weight drop": lambda: WeightDrop(lstm(), "weight_hh_l0"),
    "weight drop of all": lambda: WeightDrop(
        nn.GRU(FEATURES, WIDTH, 2, batch_first=True), "weight_hh_l0", "weight_ih_l1"
    ),
    "parameter drop": lambda: ParameterDrop(lstm(), "weight_hh_l0"),
    "row drop": lambda: RowDrop(lstm(), "weight_hh_l0"),
    "flattening": lambda: Flattening(FEATURES, WIDTH, batch_first=True),
    "weight norm": lambda: parametrizations.weight_norm(lstm(), "weight_hh_l0"),
    "weight norm by hooks": normed,
    "spectral norm": lambda: parametrizations.spectral_norm(lstm(), "weight_hh_l0"),
    "parametrized": lambda: squashed(lstm(), "weight_ih_l0"),
    "pruned": pruned,
}
HEADS: dict[str, Any] = {
    "spectral norm by hooks": lambda: spectral_norm(nn.Linear(WIDTH, WIDTH)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(WIDTH, WIDTH)),
}


class Reweighted(nn.Module):
    """An output for each layer."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.ModuleList(LAYERS[name]() for name in names)
        self.heads = nn.ModuleList(make() for make in HEADS.values())
        self.cell = squashed(nn.GRUCell(FEATURES, WIDTH), "weight_hh")
        self.plain = lstm()

    def last(self, x: Tensor) -> list[Tensor]:
        h = x.new_zeros(x.shape[0], WIDTH)
        for t in range(3):
            h = self.cell(x[:, t], h)
        ends = [layer(x)[0][:, -1] for layer in self.layers]
        return [*ends, *(head(self.plain(x)[0][:, -1]) for head in self.heads), h]

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([end[:, 0] for end in self.last(x)], 1)


NAMES = [*LAYERS, *HEADS, "cell"]
