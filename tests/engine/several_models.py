# SPDX-License-Identifier: Apache-2.0
"""Models of several inputs, and inputs for them."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

N, T = 5, 6


class WithStatic(nn.Module):
    """A sequence and static features, by position or by name."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTM(3, 4, batch_first=True)
        self.side, self.out = nn.Linear(5, 4), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, static: torch.Tensor) -> torch.Tensor:
        last = self.cell(x)[0][:, -1]
        return self.out(torch.cat([last, torch.relu(self.side(static))], dim=1))


class Masked(WithStatic):
    """A mask, floats or truth values, is multiplied in by keyword only."""

    def forward(self, x: torch.Tensor, static: Any, *, mask: torch.Tensor) -> torch.Tensor:
        steps = self.cell(x)[0] * mask[..., None].to(x.dtype)
        return self.out(torch.cat([steps.mean(dim=1), torch.relu(self.side(static))], dim=1))


class Beside(WithStatic):
    """Token ids beside floats."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(9, 5)

    def forward(self, tokens: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x, self.words(tokens).mean(dim=1))


class Two(nn.Module):
    """Two sequences of different lengths, in a dictionary that is the only argument."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.GRU(3, 4, batch_first=True), nn.GRU(2, 4, batch_first=True)
        self.out = nn.Linear(8, 3)

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        last = [self.one(batch["x"])[0][:, -1], self.other(batch["y"])[0][:, -1]]
        return self.out(torch.cat(last, dim=1))


def random(*shape: int) -> torch.Tensor:
    return torch.rand(*shape) - 0.3


def cases() -> dict[str, tuple[nn.Module, Any]]:
    """Models by name, with a batch of inputs for each."""
    torch.manual_seed(3)
    x, static, y = random(N, T, 3), random(N, 5), random(N, 4, 2)
    bools, tokens = torch.rand(N, T) > 0.4, torch.randint(0, 9, (N, 7))
    state = random(1, N, 4).transpose(0, 1).contiguous()
    return {
        "tuple": (WithStatic().eval(), (x, static)),
        "dictionary": (WithStatic().eval(), {"static": static, "x": x}),
        "truth values": (Masked().eval(), {"x": x, "static": static, "mask": bools}),
        "mask of floats": (Masked().eval(), {"mask": bools.float(), "x": x, "static": static}),
        "tokens": (Beside().eval(), (tokens, x)),
        "one dictionary": (Two().eval(), {"x": x, "y": y}),
        "nested": (Nested().eval(), {"x": x, "more": {"static": static, "pair": (y, state[:, 0])}}),
    }


class Nested(WithStatic):
    """A dictionary within a dictionary, and a tuple in that."""

    def __init__(self) -> None:
        super().__init__()
        self.third = nn.Linear(12, 5)

    def forward(self, x: torch.Tensor, more: Any) -> torch.Tensor:
        one, other = more["pair"]
        beside = torch.tanh(self.third(torch.cat([one.flatten(1), other], dim=1)))
        return super().forward(x, more["static"] + beside)


def leaves(given: Any) -> Iterator[torch.Tensor]:
    """Yield the tensors of a structure; those of a dictionary by their names' order."""
    if isinstance(given, torch.Tensor):
        yield given
        return
    parts = [given[key] for key in sorted(given)] if isinstance(given, Mapping) else given
    for part in parts:
        yield from leaves(part)


def mapped(given: Any, function: Any) -> Any:
    if isinstance(given, torch.Tensor):
        return function(given)
    if isinstance(given, Mapping):
        return {key: mapped(part, function) for key, part in given.items()}
    return tuple(mapped(part, function) for part in given)


def called(model: nn.Module, given: Any) -> torch.Tensor:
    """Call a model as its users do."""
    if isinstance(model, Two):
        return model(given)
    return model(**given) if isinstance(given, Mapping) else model(*given)


def in_double(model: nn.Module, given: Any) -> tuple[nn.Module, Any]:
    """Copy a model and its inputs in float64, of which floats want gradients."""

    def double(x: torch.Tensor) -> torch.Tensor:
        return x.double().requires_grad_() if x.is_floating_point() else x

    return copy.deepcopy(model).double(), mapped(given, double)


CASES = cases()
MODEL, GIVEN = CASES["dictionary"]
X, STATIC = GIVEN["x"], GIVEN["static"]
TARGET = torch.tensor([0, 2, 1, 1, 0])


def wanted_gradient(model: nn.Module, given: Any, target: Any) -> tuple[Any, list[torch.Tensor]]:
    """Outputs, and the gradients of those of floats, in float64."""
    double, inputs = in_double(model, given)
    output = called(double, inputs)
    score = output[torch.arange(len(output)), target].sum()
    floats = [x for x in leaves(inputs) if x.is_floating_point()]
    return output, list(torch.autograd.grad(score, floats))


def same(one: Any, other: Any) -> bool:
    pairs = zip(leaves(one), leaves(other), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class Dense(nn.Module):
    """Two inputs, and two layers without a bias."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(4, 6, bias=False), nn.Linear(2, 6, bias=False)
        self.out = nn.Linear(6, 3, bias=False)

    def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return self.out(torch.relu(self.one(a) + self.other(b)))
