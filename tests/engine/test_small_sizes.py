# SPDX-License-Identifier: Apache-2.0
"""When a model is not exported for one sample and for one step, as its operators say enough."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import pyrel
from pyrel.compiler.capture import capture as capturing
from pyrel.compiler.graph.rewrites import agree

STEPS, FEATURES = 6, 4


class Around(nn.Module):
    """An expression with a recurrent layer and a linear one."""

    def __init__(self, expression: Callable[[Around, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expression = expression
        self.layer, self.out = nn.GRU(FEATURES, 3, batch_first=True), nn.Linear(3, 2)
        self.step = nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.expression(self, x)


def _written_in_place(m: Around, x: Tensor) -> Tensor:
    """Write into what is a copy, but where there is one sample or one step."""
    other = x.transpose(0, 1).contiguous()
    other[0] = 0
    return m.out(torch.tanh(m.step(x.sum(1) + other.sum(0))))


def _by_length(m: Around, x: Tensor) -> Tensor:
    """Do for few steps what is not done for more."""
    h = m.step(x).sum(1)
    return m.out(torch.tanh(h) if x.shape[1] > 4 else h)


def _padded_by(number: Callable[[int], int]) -> Callable[[Around, Tensor], Tensor]:
    """Pad by a number that grows evenly over one, two and three steps, but not as it goes on."""

    def expression(m: Around, x: Tensor) -> Tensor:
        padded = nn.functional.pad(x, (0, 0, number(x.shape[1]), 0))
        return m.out(torch.tanh(m.step(padded)).sum(1))

    return expression


def _divided_by_half(m: Around, x: Tensor) -> Tensor:
    return m.out(m.step(x).sum(1) / ((x.shape[1] // 2) or 1))


def _clamped_by_half(m: Around, x: Tensor) -> Tensor:
    """Take a number of the steps that only values beyond it show."""
    return m.out(m.step(x.clamp(max=9.0 + (x.shape[1] // 2 if x.shape[1] > 1 else 1))).sum(1))


def _chosen_by_half(m: Around, x: Tensor) -> Tensor:
    """Take a number of the steps that only some of the values show."""
    h = m.step(x)
    longer = h * (x.shape[1] // 2 if x.shape[1] > 1 else 1)
    return m.out(torch.where(x.sum(2, keepdim=True) > 99.0, longer, h).sum(1))


def _written_by_product(m: Around, x: Tensor) -> Tensor:
    """Write by a matrix product into what is a copy, but where there is one sample."""
    h = m.step(x)
    turned = h.transpose(0, 1).reshape(-1, 3)
    with torch.no_grad():
        torch.matmul(turned.clone(), 2 * torch.eye(3), out=turned.detach())
    return m.out(h.sum(1))


# What is computed, and for which numbers of samples and steps it is exported.
OPEN, ALONE, SHORT = (2, STEPS), (1, STEPS), [(2, 1), (1, 1)]
EXPORTS: dict[str, tuple[Callable[[Around, Tensor], Tensor], list[Any]]] = {
    "last": (lambda m, x: m.out(m.layer(x)[0][:, -1]), [OPEN]),
    "mean": (lambda m, x: m.out(m.layer(x)[0].sum(1) / x.shape[1]), [OPEN]),
    "each-step": (lambda m, x: m.out(m.layer(x)[0]).sum(1), [OPEN]),
    "steps-first": (lambda m, x: m.out(m.step(x.transpose(0, 1)).tanh().sum(0)), [OPEN]),
    "flat": (lambda m, x: m.out(m.step(x.flatten(0, 1)).view(-1, x.shape[1], 3).sum(1)), [OPEN]),
    "tripled": (lambda m, x: m.out(torch.cat([m.step(x)] * 3, 1).mean(1)), [OPEN]),
    "six-or-more": (lambda m, x: m.out(m.step(x[:, 0]) + m.step(x[:, 5])), [OPEN, (2, 1)]),
    "squeezed": (lambda m, x: m.out(m.step(x).sum(1).squeeze()), [OPEN, ALONE, *SHORT]),
    "asks-for-one": (
        lambda m, x: m.out(m.step(x).sum(1)) if x.shape[0] > 1 else m.out(m.step(x.sum(1))),
        [OPEN, ALONE, *SHORT],
    ),
    "asks-for-one-step": (
        lambda m, x: m.out(m.step(x).sum(1)) if x.shape[1] > 1 else m.out(m.step(x[:, 0])),
        [OPEN, *SHORT],
    ),
    "by-length": (_by_length, [OPEN, *SHORT]),
    "pads-half": (_padded_by(lambda n: n // 2 if n > 1 else 1), [OPEN, *SHORT]),
    "pads-squares": (_padded_by(lambda n: n * n if n > 1 else -1), [OPEN, *SHORT]),
    "divides-by-half": (_divided_by_half, [OPEN, *SHORT]),
    "clamps-by-half": (_clamped_by_half, [OPEN, *SHORT]),
    "chooses-by-half": (_chosen_by_half, [OPEN, *SHORT]),
    "written": (_written_in_place, [OPEN, ALONE, *SHORT]),
    "windows": (lambda m, x: m.out(m.step(x[:, 1:] - x[:, :-1]).sum(1)), [OPEN, *SHORT]),
}


def exports(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Note for how many samples and steps torch.export runs."""
    shapes: list[tuple[int, ...]] = []
    function = torch.export.export

    def noting(model: nn.Module, inputs: Any, **options: Any) -> Any:
        shapes.append(tuple(inputs[0].shape[:2]))
        return function(model, inputs, **options)

    monkeypatch.setattr(torch.export, "export", noting)
    return shapes


def example(steps: int) -> Tensor:
    return torch.zeros(2, steps, FEATURES)


@pytest.mark.parametrize("name", EXPORTS)
def test_what_is_exported_for_sizes_of_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expression, wanted = EXPORTS[name]
    shapes = exports(monkeypatch)
    model = Around(expression).eval()
    capture = capturing.capture_at(model, example(STEPS))
    assert shapes == wanted
    try:
        single = pyrel.capture(model, example(1))
    except pyrel.UnsupportedModelError:
        with pytest.raises((ValueError, pyrel.UnsupportedModelError)):
            capture.graph(1)
        return
    assert agree(capture.graph(1), single)


def test_a_product_written_into_a_view_of_one_sample_is_seen() -> None:
    with pytest.raises(pyrel.UnsupportedModelError, match="depends on the size of the batch"):
        pyrel.capture(Around(_written_by_product).eval(), example(STEPS))


def test_a_large_model_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = exports(monkeypatch)
    width = 2048
    model = nn.Sequential(nn.Linear(width, width, bias=False), nn.Linear(width, 2))
    ran: queue.SimpleQueue[type] = queue.SimpleQueue()  # a list would be put back
    model.register_forward_hook(lambda _model, given, _out: ran.put(type(given[0])))
    pyrel.capture(model, torch.zeros(2, width))
    assert shapes == [(2, width), (1, width)]
    assert Tensor not in {ran.get() for _ in range(ran.qsize())}


def test_random_numbers_of_torchs_are_those_that_would_come() -> None:
    model = Around(EXPORTS["last"][0]).eval()
    torch.manual_seed(3)
    wanted = torch.rand(3)
    torch.manual_seed(3)
    capturing.capture_at(model, example(STEPS))
    assert torch.equal(torch.rand(3), wanted)


def test_what_a_run_changes_is_put_back() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out, self.runs = nn.Linear(FEATURES, 2), 0
            self.seen: list[Tensor] = []

        def forward(self, x: Tensor) -> Tensor:
            self.runs += 1
            self.seen.append(x)
            return self.out(x.sum(1))

    model = Counting()
    capturing.capture_at(model, example(STEPS))
    assert (model.runs, model.seen, model.training) == (0, [], True)
