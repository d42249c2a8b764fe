# SPDX-License-Identifier: Apache-2.0
"""What pools hand down is divided by the product that is its denominator, which is not stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyrel
from pyrel.compiler.lowering import linear
from pyrel.compiler.program.enums import Post


class Pooled(nn.Module):
    """Reads a map through pools that overlap or not, and, if asked to, the map itself."""

    def __init__(self, pool: nn.Module, maps: int, beside: bool = False) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, maps, 3, padding=1)
        self.pool, self.beside = pool, beside
        size = pool(torch.zeros(1, maps, 7, 6)).numel() + beside * maps * 42
        self.out = nn.Linear(size, 3)

    def forward(self, x: Tensor) -> Tensor:
        maps = torch.relu(self.second(torch.relu(self.first(x))))
        read = [self.pool(maps).flatten(1), *([maps.flatten(1)] if self.beside else [])]
        return self.out(torch.cat(read, 1))


MODELS: dict[str, Callable[[], nn.Module]] = {
    "apart": lambda: Pooled(nn.MaxPool2d(2, ceil_mode=True), 5),
    "overlapping": lambda: Pooled(nn.MaxPool2d(3, stride=2, padding=1), 4),
    "and beside": lambda: Pooled(nn.MaxPool2d(2, ceil_mode=True), 5, beside=True),
    "in part": lambda: Pooled(nn.MaxPool2d(2, stride=3), 5),
}
X = np.random.default_rng(0).random((20, 1, 7, 6), np.float32)


def explainer(name: str) -> Any:
    torch.manual_seed(0)
    return pyrel.Explainer(MODELS[name]().eval(), X[:1], method="deep_taylor", low=0.0, high=1.0)


def posts(explainer: Any) -> list[Post]:
    """List what the instructions do last."""
    program = explainer._programs.source.program
    templates = [each.template for each in program.every_instruction()]
    return [each.epilogue.post for each in templates if hasattr(each, "epilogue")]


@pytest.mark.parametrize("name", MODELS)
def test_the_same_bits_as_with_stored_denominators(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    at_once = explainer(name)
    monkeypatch.setattr(linear, "_divides_at_once", lambda *_: False)
    stored = explainer(name)
    assert (Post.divide_operand in posts(at_once)) == (name != "in part")
    assert Post.divide_operand not in posts(stored)
    one, other = at_once(X), stored(X)
    assert one.relevance.any()
    for field in ("relevance", "output", "absorbed", "conservation", "amplification"):
        assert getattr(one, field).tobytes() == getattr(other, field).tobytes(), field
    if name != "in part":
        core, before = (each._programs.at(each.inputs.steps).core for each in (at_once, stored))
        assert core.arena_size <= before.arena_size


@pytest.mark.parametrize("name", MODELS)
def test_conserves(name: str) -> None:
    e = explainer(name)(X)
    error = e.relevance.sum((1, 2, 3)) + e.absorbed - np.maximum(e.output.max(1), 0.0)
    assert np.abs(error).max() <= 1e-5 * np.abs(e.relevance).sum((1, 2, 3)).max()
