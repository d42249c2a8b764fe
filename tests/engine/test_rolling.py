# SPDX-License-Identifier: Apache-2.0
"""Rolled programs are the same instructions in the same order."""

from __future__ import annotations

import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.unplanned import Instructions, explainer_unrolled, written_out
from torch import nn

import pyrel
from pyrel.compiler.program import loops as module
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Instruction, Map, Repeat, Seed
from pyrel.compiler.program.loops import codes_of, loops, roll
from pyrel.methods.enums import Start

STEPS = 30
TEMPLATES = [Map(Space.input, columns, Space.arena) for columns in range(1, 6)]


def of_codes(codes: np.ndarray) -> Instructions:
    """Instructions that are told apart by their offsets."""
    offsets = itertools.count()
    found = []
    for code in codes.tolist():
        rows = [next(offsets) for _ in range(1 + code // 5)]
        found.append(Instruction(TEMPLATES[code % 5], np.array([rows, rows])))
    return tuple(found)


def assert_same(one: Instructions, other: Instructions) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.template == b.template
        np.testing.assert_array_equal(a.offsets, b.offsets, strict=True)


@pytest.mark.parametrize("seed", range(20))
def test_loops_put_nothing_out_of_order(seed: int) -> None:
    """Stretches that repeat among others that do not, in each other and cut off in the middle."""
    rng = np.random.default_rng(seed)
    parts = []
    for _ in range(rng.integers(1, 6)):
        body = rng.integers(0, 10, rng.integers(1, 9))
        parts += [np.tile(body, rng.integers(1, 30)), body[: rng.integers(0, body.size)]]
        parts.append(rng.integers(0, 10, rng.integers(0, 5)))
    before = of_codes(np.concatenate(parts))
    rolled = roll(before)
    assert_same(written_out(rolled), before)
    if len(before) > 100:
        assert sum(len(i.body) if isinstance(i, Repeat) else 1 for i in rolled) < len(before) / 1.5


def test_what_saves_most_comes_first() -> None:
    codes = np.array([7, 8] + [1, 1, 2, 3] * 50 + [1, 1] + [9] * 20 + [5])
    assert loops(codes) == [(0, 2, 1), (2, 4, 50), (202, 2, 1), (204, 1, 20), (224, 1, 1)]
    assert loops(codes[:10]) == [(0, 10, 1)]


def test_a_seed_is_in_no_loop() -> None:
    seed = Instruction(Seed(2, Start.one), np.zeros((2, 1), np.int64))
    before = (*of_codes(np.zeros(30, np.int64)), seed, *of_codes(np.ones(30, np.int64)))
    before += (seed,) * 40
    rolled = roll(before)
    assert [type(i) for i in rolled] == [Repeat, Instruction, Repeat] + [Instruction] * 40
    assert_same(written_out(rolled), before)


def test_forty_thousand_instructions_are_looked_at_few_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    body, other = rng.integers(0, 200, 61), rng.integers(0, 200, 38)
    parts = [rng.integers(0, 200, 40), np.tile(body, 400), body[:7], np.tile(other, 400)]
    codes = np.concatenate([*parts, rng.integers(0, 200, 40)])
    most_saving, sizes = module._most_saving, []

    def counted(part: module.Codes) -> tuple[int, int, int]:
        sizes.append(part.size)
        return most_saving(part)

    monkeypatch.setattr(module, "_most_saving", counted)
    found = loops(codes)
    # Once in the whole, once in what is left beside each of the two loops, and in the rest.
    assert sum(sizes) < 1.5 * codes.size
    assert [(p, c) for _, p, c in found if c > 1] == [(61, 400), (38, 400)]
    assert codes_of(of_codes(codes)).size == codes.size


class Loop(nn.Module):
    """A user's loop over steps: an encoder, a ReLU recurrence, the sum of all states."""

    def __init__(self, features: int = 3, hidden: int = 17) -> None:
        super().__init__()
        self.encode, self.out = nn.Linear(features, 6), nn.Linear(hidden, 4)
        self.inward, self.recurrent = nn.Linear(6, hidden), nn.Linear(hidden, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        total = state = x.new_zeros(len(x), self.recurrent.in_features)
        for step in x.unbind(1):
            inward = self.inward(torch.relu(self.encode(step)))
            state = torch.relu(inward + self.recurrent(state))
            total = total + state
        return self.out(total)


@functools.cache
def captured() -> pyrel.Graph:
    torch.manual_seed(0)
    return pyrel.capture(Loop(), np.zeros((2, STEPS, 3), np.float32))


@pytest.mark.parametrize("method", ["deep_taylor", "gradient_x_input", "lrp_epsilon"])
def test_results_and_files_are_those_of_the_flat_program(method: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    graph = captured()
    x = rng.uniform(-1, 1, (13, STEPS, 3)).astype(np.float32)
    explainer = unchecked(graph, method=method, low=-1.0, high=1.0)
    flat = explainer_unrolled(graph, method=method, low=-1.0, high=1.0)
    items = explainer._programs.source.program.instructions
    assert any(isinstance(item, Repeat) for item in items)
    assert_same(written_out(items), flat._programs.source.program.instructions)
    explainer.save(tmp_path / "rolled")
    loaded = pyrel.Explainer.load(tmp_path / "rolled")
    wanted = flat(x)
    for one in (explainer(x), loaded(x)):
        for field in ("relevance", "output", "target", "absorbed", "conservation", "amplification"):
            np.testing.assert_array_equal(getattr(one, field), getattr(wanted, field), strict=True)
    assert sum(len(i.body) if isinstance(i, Repeat) else 1 for i in items) < 3 * STEPS
