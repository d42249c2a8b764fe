# SPDX-License-Identifier: Apache-2.0
"""Long Python loops over the steps are captured at a few short lengths, where they go on evenly."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import pyrel
from pyrel.compiler.capture import long_loops
from pyrel.compiler.capture.eager_trace import eager_trace
from pyrel.compiler.capture.examples import sample_of
from pyrel.compiler.capture.loop_growth import irregular_loop
from pyrel.compiler.program.generalise import TRIED

T, ODD, HIDDEN = 20, 18, 4
METHODS = "gradient", "lrp_epsilon"
FACTORS = [1.0] * ODD + [2.0] * 1000
COUNTS = [1] * ODD + [2] * 1000


class Loop(nn.Module):
    """A tanh recurrence, of which ``of_step`` makes something else at some steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.cell = nn.Linear(2 + HIDDEN, HIDDEN)
        self.out = nn.Linear(HIDDEN, 3)
        self.table = nn.Parameter(torch.zeros(1000, HIDDEN))
        self.tensor = torch.ones(1000)

    def step(self, x: Tensor, h: Tensor, t: int) -> Tensor:
        return torch.tanh(self.cell(torch.cat([x[:, t], h], dim=1)))

    def of_step(self, h: Tensor, t: int) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Any:
        h = x.new_zeros(len(x), HIDDEN)
        for t in range(x.shape[1]):
            h = self.of_step(self.step(x, h, t), t)
        return self.out(h)


class Reversed(Loop):
    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), HIDDEN)
        for t in reversed(range(x.shape[1])):
            h = self.step(x, h, t)
        return self.out(h)


class Tagger(Loop):
    def forward(self, x: Tensor) -> Tensor:
        h, found = x.new_zeros(len(x), HIDDEN), []
        for t in range(x.shape[1]):
            h = self.step(x, h, t)
            found.append(h)
        return self.out(torch.stack(found, dim=1))


class Writing(Loop):
    def forward(self, x: Tensor) -> Tensor:
        h, found = x.new_zeros(len(x), HIDDEN), x.new_zeros(len(x), x.shape[1], HIDDEN)
        for t in range(x.shape[1]):
            h = self.step(x, h, t)
            found[:, t] = h
        return self.out(found)


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, h: Tensor) -> Tensor:
        return h * 1.0

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 2.0


def doing(of_step: Callable[[Any, Tensor, int], Tensor]) -> Loop:
    return type("Odd", (Loop,), {"of_step": of_step})()


def forwards(steps: Callable[[int], Any]) -> Loop:
    def forward(self: Loop, x: Tensor) -> Tensor:
        h = x.new_zeros(len(x), HIDDEN)
        for t in steps(x.shape[1]):
            h = self.step(x, h, t)
        return self.out(h)

    return type("Striding", (Loop,), {"forward": forward})()


def hooked(self: Loop, h: Tensor, t: int) -> Tensor:
    h = h * 1.0
    if t == ODD:
        h.register_hook(lambda gradient: gradient * 0.0)
    return h


def nested(self: Loop, h: Tensor, t: int) -> Tensor:
    for _ in range(t):
        h = h * 0.9
    return h


def windowed(self: Loop, x: Tensor) -> Tensor:
    wide = nn.functional.conv1d(x.transpose(1, 2), torch.ones(2, 2, 31), padding=15)
    return Loop.forward(self, wide.transpose(1, 2))


def masked(self: Loop, x: Tensor) -> Tensor:
    h, mask = x.new_zeros(len(x), HIDDEN), torch.arange(x.shape[1]) < ODD
    for t in range(x.shape[1]):
        h = torch.where(mask[t], self.step(x, h, t), h)
    return self.out(h)


def lagging(self: Loop, x: Tensor) -> Tensor:
    states = [x.new_zeros(len(x), HIDDEN)]
    for t in range(x.shape[1]):
        states.append(self.step(x, states[max(0, t - ODD)], t))
    return self.out(states[-1])


UNEVEN = {
    "a factor": doing(lambda self, h, t: h * 0.5 if t == ODD else h * 1.0),
    "detach": doing(lambda self, h, t: h.detach() if t == ODD else h),
    "detached product": doing(lambda self, h, t: (h.detach() if t == ODD else h) * 1.0),
    "straight through": doing(lambda self, h, t: h + (h - h.detach()) * 0 if t == ODD else h),
    "custom function": doing(lambda self, h, t: Doubling.apply(h) if t == ODD else h * 1.0),
    "hook": doing(hooked),
    "parameter of a step": doing(lambda self, h, t: h + self.table[t]),
    "constant of a step": doing(lambda self, h, t: h * self.tensor[t]),
    "list of floats": doing(lambda self, h, t: h * FACTORS[t]),
    "list of integers": doing(lambda self, h, t: h * COUNTS[t]),
    "list of tensors": doing(lambda self, h, t: h * torch.tensor(FACTORS[t])),
    "number of the step": doing(lambda self, h, t: h * t),
    "time": doing(lambda self, h, t: h + t / 10),
    "weights of a step": doing(lambda self, h, t: h @ torch.full((HIDDEN, HIDDEN), t / 10)),
    "every ten steps": doing(lambda self, h, t: h * 0 if t % 10 == 0 else h),
    "every other step": doing(lambda self, h, t: h * 0.5 if t % 2 else h),
    "half of the steps": forwards(lambda steps: range(0, steps, 2)),
    "at most eighteen": forwards(lambda steps: range(min(steps, ODD))),
    "twice around": forwards(lambda steps: [*range(steps), *reversed(range(steps))]),
    "nested": doing(nested),
    "window": type("Windowed", (Loop,), {"forward": windowed})(),
    "mask": type("Masked", (Loop,), {"forward": masked})(),
    "lag": type("Lagging", (Loop,), {"forward": lagging})(),
}
EVEN = [Loop(), Reversed(), Tagger(), Writing()]


def fault_of(model: nn.Module, steps: int) -> str | None:
    sample = sample_of(model, torch.zeros(1, steps, 2), False)
    return irregular_loop(
        {
            n: eager_trace(model, replace(sample, tensors=(sample.first[:, :n],)))
            for n in (*TRIED, steps)
        }
    )


def exact(model: nn.Module, x: Tensor, target: Any) -> tuple[Tensor, Tensor]:
    """Outputs and gradients by autograd in float64."""
    doubled, x = copy.deepcopy(model).double(), x.double().requires_grad_()
    output = doubled(x)
    score = output[(slice(None), *target)].sum()
    return output.detach(), torch.autograd.grad(score, x)[0]


def assert_exact(explainer: pyrel.Explainer, model: nn.Module, x: Tensor) -> None:
    target = (3, 1) if explainer.outputs.dimensions > 1 else (1,)
    e = explainer(x, target=target if len(target) > 1 else 1)
    output, gradient = exact(model, x, target)
    torch.testing.assert_close(e.output.double(), output, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(e.relevance.double(), gradient, rtol=1e-4, atol=1e-7)


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let loops of 20 steps be long, and list of how many steps each capture is."""
    found: list[int] = []
    capture_at = long_loops.capture_at

    def listed(model: Any, example: Any, **options: Any) -> Any:
        found.append(example.shape[1])
        return capture_at(model, example, **options)

    monkeypatch.setattr(long_loops, "capture_at", listed)
    monkeypatch.setattr(long_loops, "LEAST_STEPS", 20)
    return found


@pytest.mark.parametrize("model", EVEN, ids=lambda model: type(model).__name__)
def test_loops_that_go_on_evenly_are_found(model: nn.Module) -> None:
    assert fault_of(model, T) is None


@pytest.mark.parametrize("model", UNEVEN.values(), ids=UNEVEN.keys())
def test_whatever_a_later_step_does_is_found(model: nn.Module) -> None:
    assert fault_of(model, T) is not None


def test_a_trace_leaves_the_model_as_it_was() -> None:
    model = doing(lambda self, h, t: h + self.tensor.add_(1.0).mean()).train()
    fault_of(model, T)
    assert model.training and bool((model.tensor == 1.0).all())


def test_short_captures_explain_as_a_full_one(exports: list[int], tmp_path: Path) -> None:
    model, x = Tagger(), torch.rand(3, T, 2)
    short = {name: pyrel.Explainer(model, x, method=name) for name in METHODS}
    assert exports == list(TRIED)
    graph = pyrel.capture(model, x)  # which is of all steps
    for name in METHODS:
        full = pyrel.Explainer(graph, method=name)
        one, other = short[name](x, target="each step"), full(x, target="each step")
        assert torch.equal(one.relevance, other.relevance)
        assert torch.equal(one.output, other.output)
        assert str(short[name]).partition("\n")[2] == str(full).partition("\n")[2]  # the rules
    assert f"{T} steps only" in repr(short["gradient"])
    assert_exact(short["gradient"], model, x)
    short["lrp_epsilon"].save(tmp_path / "loop")
    loaded = pyrel.Explainer.load(tmp_path / "loop")
    assert torch.equal(
        loaded(x, target=(3, 1)).relevance, short["lrp_epsilon"](x, (3, 1)).relevance
    )
    # Bounds of each step say nothing of other steps.
    high = np.linspace(1, 2, 2 * T, dtype=np.float32).reshape(T, 2)
    bounded = pyrel.Explainer(model, x, method="gradient", low=0.0, high=high)
    assert exports == [*TRIED, T]
    assert_exact(bounded, model, x)


def test_uneven_loops_are_exported_in_full(exports: list[int]) -> None:
    model, x = UNEVEN["detach"], torch.rand(3, T, 2)
    explainer = pyrel.Explainer(model, x, method="gradient")
    assert exports == [T]
    assert_exact(explainer, model, x)


def test_a_self_check_sees_what_a_trace_does_not(
    exports: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, x = UNEVEN["list of integers"], torch.rand(3, T, 2)
    monkeypatch.setattr(long_loops, "irregular_loop", lambda traces: None)
    explainer = pyrel.Explainer(model, x, method="gradient", check=None)
    assert exports == [*TRIED, T]
    assert explainer.checked == "nothing"
    assert_exact(explainer, model, x)


def test_a_thousand_steps() -> None:
    model, x = Reversed(), torch.rand(2, 1000, 2)
    e = pyrel.explain(model, x, method="gradient", target=1)
    _, gradient = exact(model, x, (1,))
    torch.testing.assert_close(e.relevance.double(), gradient, rtol=1e-4, atol=1e-7)
    gone = weakref.ref(model)  # what is kept of it does not keep it
    del model
    gc.collect()
    assert gone() is None
