# SPDX-License-Identifier: Apache-2.0
"""What is compiled is compared with the model: all faults are found, and nothing else."""

from __future__ import annotations

import functools
import queue
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import captured_once
from engine.compiler_faults import FAULTS, FEATURES, STEPS, Gated, seeded
from torch import Tensor, nn

import pyrel
from pyrel.engine.prepare import Captured

# Of any `Counting`: type and number of samples. In a list, pyrel would put back what was there.
PASSES: queue.SimpleQueue[tuple[torch.dtype, int]] = queue.SimpleQueue()


class Counting(nn.Module):
    """A recurrent model that notes its passes."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.LSTM(FEATURES, 8, batch_first=True)
        self.drop, self.norm, self.out = nn.Dropout(), nn.BatchNorm1d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        if type(x) is Tensor:  # not while it is captured
            PASSES.put((x.dtype, len(x)))
            if x.requires_grad:
                x.register_hook(lambda gradient: PASSES.put((gradient.dtype, -len(x))))
        return self.out(self.norm(self.drop(torch.relu(self.core(x)[0][:, -1]))))


def made(make: Callable[[], Any], seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return make()


def batch(n: int = 3, steps: int = STEPS) -> Any:
    return np.random.default_rng(0).normal(size=(n, steps, FEATURES)).astype(np.float32)


@functools.cache
def counting() -> Captured:
    """Capture the model for tests that change nothing of it."""
    return captured_once(made(Counting).eval(), batch())


def passes() -> list[tuple[torch.dtype, int]]:
    """Return what was noted since this was last asked for."""
    return [PASSES.get() for _ in range(PASSES.qsize())]


@pytest.mark.parametrize(
    "method", ["gradient", "sensitivity", "guided_backprop", "gradient_x_input", "lrp_epsilon"]
)
def test_one_pass_for_each_input(method: str) -> None:
    source = counting()
    passes()
    explainer = pyrel.Explainer(source, batch(), method)
    gradients = method in ("gradient", "sensitivity", "gradient_x_input")
    once = [(torch.float32, 2), *([(torch.float32, -2)] if gradients else [])]
    assert passes() == once * 2
    what = "outputs and gradients" if gradients else "outputs"
    assert explainer.checked == f"{what} on 2 inputs × 2 samples, T = 6 and 2"
    assert f", checked: {explainer.checked}, " in repr(explainer)


def test_nothing_is_run_where_no_check_is_wanted() -> None:
    source = counting()
    passes()
    assert pyrel.Explainer(source, batch(), "gradient", check=None).checked == "nothing"
    assert not passes()
    with pytest.raises(ValueError, match='check: wanted "outputs", "all" or None, got'):
        pyrel.Explainer(source, batch(), "gradient", check="both")


@pytest.mark.parametrize("method", ["gradient", "lrp_epsilon"])
def test_the_model_is_left_as_it_was(method: str) -> None:
    model = made(Counting).train()
    model.out.weight.grad = torch.ones_like(model.out.weight)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    drawn = random.random(), np.random.rand(), torch.rand(1).item()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with torch.no_grad():
        pyrel.Explainer(model, batch(), method)
    assert drawn == (random.random(), np.random.rand(), torch.rand(1).item())
    assert all(module.training for module in model.modules())
    assert all(torch.equal(before[name], each) for name, each in model.state_dict().items())
    gradients = {name for name, each in model.named_parameters() if each.grad is not None}
    assert gradients == {"out.weight"}
    assert (model.out.weight.grad == 1).all()
    assert all(each.requires_grad for each in model.parameters())


def test_explain_passes_the_option_on(monkeypatch: Any) -> None:
    model, x = seeded(Gated), batch()
    FAULTS["sign of a gradient"].put_in(monkeypatch)
    with pytest.raises(pyrel.SelfCheckError):
        pyrel.explain(model, x, "gradient")
    pyrel.explain(model, x, "gradient", check=None)


# Faults


ON_GRADIENTS: dict[str, Any] = {"method": "gradient_x_input"}
ON_OUTPUTS: dict[str, Any] = {"method": "lrp_epsilon", "gates": "half"}
CASES = [(name, ON_GRADIENTS if f.gradients else ON_OUTPUTS) for name, f in FAULTS.items()]


@functools.cache
def export_before(model: type[nn.Module], steps: int) -> None:
    """Let a model be exported once for all faults, none of which is in the export."""
    pyrel.Explainer(seeded(model), batch(steps=steps), "gradient", check=None)


@pytest.mark.parametrize(("name", "options"), CASES)
def test_faults_are_found(name: str, options: dict[str, Any], monkeypatch: Any) -> None:
    fault = FAULTS[name]
    export_before(fault.model, fault.steps)
    fault.put_in(monkeypatch)
    with pytest.raises(pyrel.SelfCheckError, match=r"is .* in what was compiled and "):
        pyrel.Explainer(seeded(fault.model), batch(steps=fault.steps), **options)


@pytest.mark.parametrize(
    ("model", "steps"), dict.fromkeys((f.model, f.steps) for f in FAULTS.values())
)
@pytest.mark.parametrize("options", [ON_GRADIENTS, ON_OUTPUTS])
def test_without_faults_nothing_is_found(model: Any, steps: int, options: dict[str, Any]) -> None:
    explainer = pyrel.Explainer(seeded(model), batch(steps=steps), **options)
    assert " on 2 inputs × 2 samples" in explainer.checked
