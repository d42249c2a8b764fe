# SPDX-License-Identifier: Apache-2.0
"""Means over many positions: one instruction each way, with the bits of additions one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from torch import Tensor, nn

from pyrel.compiler.lowering import sums
from pyrel.compiler.program.instructions import Map, Reduce


class Averaged(nn.Module):
    """Convolutions whose units are averaged, each in its own way, in front of the last layer."""

    def __init__(self, average: Callable[[Tensor], Tensor], width: int, maps: int = 5) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.average = nn.Conv2d(1, maps, 3, padding=1), average
        self.out = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.average(torch.relu(self.first(x))).flatten(1))


def of_both(units: Tensor) -> Tensor:
    """Return two means that share their addends."""
    return torch.cat([units.mean((2, 3)), units.mean(3).flatten(1)], 1)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "all positions": lambda: Averaged(lambda units: units.mean((2, 3)), 5),
    "one row": lambda: Averaged(lambda units: units.mean(3), 5 * 6),
    "one column": lambda: Averaged(lambda units: units.sum(2), 5 * 7),
    "maps": lambda: Averaged(lambda units: units.mean(1), 6 * 7),
    "every other map": lambda: Averaged(lambda units: units[:, ::2].sum((2, 3)), 3),
    "windows": lambda: Averaged(nn.AvgPool2d(2), 5 * 3 * 3),
    "windows that overlap": lambda: Averaged(nn.AvgPool2d(3, stride=1), 5 * 4 * 5),
    "twice": lambda: Averaged(of_both, 5 + 5 * 6),
}
METHODS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "lrp_epsilon": {},
    "deep_taylor": {"low": -1.0, "high": 1.0},
}
X = np.random.default_rng(0).uniform(-1, 1, (5, 1, 6, 7)).astype(np.float32)


def one_by_one(addends: Any, _: Any) -> Iterator[tuple[int, int]]:
    """Cut addends as if none lay at the distance of others."""
    yield from ((i, i + 1) for i in range(len(addends)))


def templates(explainer: Any) -> list[Any]:
    program = explainer._programs.source.program
    return [each.template for each in program.every_instruction()]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_as_additions_one_by_one(
    name: str, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = MODELS[name]().eval()
    together = unchecked(model, X, method, **METHODS[method])
    monkeypatch.setattr(sums, "_equally_spaced", one_by_one)
    apart = unchecked(model, X, method, **METHODS[method])
    kinds = [[type(each) for each in templates(explainer)] for explainer in (together, apart)]
    assert Reduce in kinds[0]
    assert Reduce not in kinds[1]
    assert len(kinds[0]) < len(kinds[1])
    for samples in (X[:1], X):
        one, other = together(samples), apart(samples)
        assert one.output.tobytes() == other.output.tobytes()
        assert one.relevance.tobytes() == other.relevance.tobytes()


@pytest.mark.parametrize(
    ("method", "options"),
    [*METHODS.items(), ("lrp_epsilon", {"bias": "share"})],
    ids=[*METHODS, "shared bias"],
)
def test_instructions_do_not_grow_with_the_positions(method: str, options: dict[str, Any]) -> None:
    """But those of the convolution, whose way back has a product for each of its borders."""
    numbers = []
    for side in (12, 24):
        x = np.zeros((1, 1, side, side), np.float32)
        explainer = unchecked(MODELS["all positions"]().eval(), x, method, **options)
        found = templates(explainer)
        (reduce,) = [each for each in found if isinstance(each, Reduce)]
        assert reduce.count == side * side
        numbers.append(sum(isinstance(each, Map) for each in found))
    assert numbers[0] == numbers[1]
