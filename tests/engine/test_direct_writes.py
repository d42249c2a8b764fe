# SPDX-License-Identifier: Apache-2.0
"""In-place operators that are replaced without torch give the graph that torch's way gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyrel
from pyrel.compiler.capture import functional
from pyrel.compiler.graph.rewrites import agree

STEPS, FEATURES = 5, 4


class Around(nn.Module):
    """An expression with two linear layers."""

    def __init__(self, expression: Callable[[Around, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expression = expression
        self.step, self.out = nn.Linear(FEATURES, FEATURES), nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.expression(self, x)


def _states(m: Around, x: Tensor) -> Tensor:
    """Write each step of a sequence, reading the one before."""
    states = x.new_zeros(x.shape[0], STEPS, FEATURES)
    for t in range(STEPS):
        before = states[:, t - 1] if t else x[:, 0]
        states[:, t] = torch.tanh(m.step(x[:, t] + before))
    return m.out(states.mean(1))


def _returned(m: Around, x: Tensor) -> Tensor:
    """Read what an in-place operator returned, after another one."""
    h = m.step(x[:, 0])
    same = h.add_(1)
    h.mul_(2)
    return m.out(same + h)


def _slices(m: Around, x: Tensor) -> Tensor:
    h = m.step(x[:, 0])
    h[:, 0] += 1
    h[:, 1:3] *= 2
    h[:, 3] = h[:, 0]
    return m.out(h)


def _view_read_later(m: Around, x: Tensor) -> Tensor:
    h = m.step(x[:, 0])
    part = h.view(-1, 2, 2)
    h.mul_(2)
    return m.out(h + part.flatten(1))


def _parts_read_later(m: Around, x: Tensor) -> Tensor:
    h = x[:, 0] * 3
    first, second = h.chunk(2, dim=1)
    h.mul_(2)
    return m.out(h + torch.cat([second, first], 1))


def _slice_read_later(m: Around, x: Tensor) -> Tensor:
    h = m.step(x[:, 0])
    part = h[:, :2]
    part.mul_(2)
    return m.out(h + torch.cat([part, part], 1))


def _slice_read_twice(m: Around, x: Tensor) -> Tensor:
    h = m.step(x[:, 0])
    part = h[:, :2]
    before = part * 3
    part.mul_(2)
    return m.out(h + torch.cat([part, before], 1))


def _slice_written_twice(m: Around, x: Tensor) -> Tensor:
    h = m.step(x[:, 0])
    same = h[:, :2].mul_(2)
    h.add_(1)
    return m.out(h + torch.cat([same, same], 1))


def _one_of_two(m: Around, x: Tensor) -> Tensor:
    h = m.step(x[:, 0])
    other = torch.atleast_2d(h)  # which may be the very tensor
    h.mul_(2)
    return m.out(h + other)


# What is computed, and whether it is plain what shares memory.
WRITES: dict[str, tuple[Callable[[Around, Tensor], Tensor], bool]] = {
    "activation": (lambda m, x: m.out(torch.relu_(m.step(x[:, 0]))), True),
    "read-before": (lambda m, x: m.out((h := m.step(x[:, 0])).tanh() * h.sigmoid_()), True),
    "states": (_states, True),
    "returned": (_returned, True),
    "slices": (_slices, True),
    "no-gradient": (lambda m, x: m.out(torch.relu_(m.step(x[:, 0]).detach())), False),
    "input": (lambda m, x: m.out(x.mul_(2)[:, 0]), False),
    "view-read-later": (_view_read_later, False),
    "parts-read-later": (_parts_read_later, False),
    "slice-read-later": (_slice_read_later, True),
    "slice-read-twice": (_slice_read_twice, False),
    "slice-written-twice": (_slice_written_twice, False),
    "one-of-two": (_one_of_two, False),
    "widened": (lambda m, x: m.out((torch.ones(4, dtype=int).mul_(2) + x[:, 0]).relu_()), True),
}


@pytest.mark.parametrize("name", WRITES)
def test_graphs_are_those_of_torchs_way(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expression, plain = WRITES[name]
    model, x = Around(expression).eval(), torch.rand(2, STEPS, FEATURES)
    direct: list[bool] = []
    function = functional.written_directly

    def noting(exported: Any) -> Any:
        found = function(exported)
        direct.append(found is not None)
        return found

    monkeypatch.setattr(functional, "written_directly", noting)
    graph = pyrel.capture(model, x)
    assert set(direct) == {plain}
    monkeypatch.setattr(functional, "written_directly", lambda exported: None)
    assert agree(graph, pyrel.capture(model, x))
    with torch.no_grad():
        wanted = model(x.clone())
    explainer = pyrel.Explainer(graph, method="gradient", check=None)
    torch.testing.assert_close(torch.as_tensor(explainer.forward(x)), wanted)
