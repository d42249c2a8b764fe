# SPDX-License-Identifier: Apache-2.0
"""One explainer, any number of steps."""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.sequences import (
    MODELS,
    Last,
    Mean,
    Packed,
    Tokens,
    assert_same,
    batch,
    captured,
    explainer,
    made,
    scores,
    shared,
)
from torch import Tensor, nn

import pyrel
from pyrel.engine import captures as kept
from pyrel.engine import programs

METHODS = ("gradient", "lrp_epsilon", "deep_taylor")

every_model = pytest.mark.parametrize("make", MODELS, ids=lambda make: make.__name__)


@functools.cache
def graph_of(make: Any, steps: int) -> pyrel.Graph:
    """Capture a model for some steps alone."""
    return pyrel.capture(made(make), batch(make, 2, steps), lengths=make is Packed)


@every_model
@pytest.mark.parametrize("method", METHODS)
def test_another_number_of_steps_is_as_a_fresh_explainer(make: Any, method: str) -> None:
    at_six = shared(make, method)
    assert at_six.any_steps
    for steps in (1, 7):
        x = batch(make, 3, steps, seed=steps)
        e = at_six(x)
        bounds = {} if make is Tokens else {"low": -1.0, "high": 1.0}
        assert_same(e, unchecked(graph_of(make, steps), method=method, **bounds)(x))
        assert e.relevance.shape == x.shape
        # Products of fewer than 12 terms below 1, ten in a row.
        np.testing.assert_allclose(e.output, scores(make, x), rtol=0, atol=120 * 2.0**-23)


def test_an_example_of_one_step_is_of_one_step() -> None:
    fixed = explainer(Last, "gradient", 1)
    assert not fixed.any_steps
    with pytest.raises(ValueError, match="1 steps only: .* an example of 7"):
        fixed(batch(Last, 2, 7))


def test_what_it_tells_of_its_input() -> None:
    at_six = shared(Last, "gradient")
    assert at_six.input_shape == (6, 4)
    assert at_six.classes == 3
    assert "input (n, T, 4) for any T, 3 outputs" in repr(at_six)
    assert "input (n, T) for any T, with lengths" in repr(shared(Tokens, "gradient", lengths=True))
    flops = at_six.flops
    at_six(batch(Last, 2, 30))
    assert at_six.flops == flops


def test_later_changes_of_the_model_do_not_show_at_other_steps() -> None:
    model, x = made(Last), batch(Last, 3, 9)
    wanted = unchecked(model, x, "lrp_epsilon")(x)
    at_six = unchecked(model, x[:, :6], "lrp_epsilon")
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            if number % 2:
                parameter.add_(1.0)
            else:
                parameter.data = parameter.data * 2
    model.double()
    assert_same(at_six(x), wanted)


def test_many_threads_with_many_steps() -> None:
    many = explainer(Last, "lrp_epsilon")
    batches = {steps: batch(Last, 5, steps, seed=steps) for steps in range(1, 15)}
    found: list[tuple[int, Any]] = []

    def work(order: list[int]) -> None:
        found.extend((steps, many(batches[steps])) for steps in order)

    orders = [list(batches), list(batches)[::-1], list(batches)[7:] + list(batches)[:7]]
    threads = [threading.Thread(target=work, args=(order,)) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == len(orders) * len(batches)
    alone = {steps: explainer(Last, "lrp_epsilon")(x) for steps, x in list(batches.items())[::5]}
    for steps, e in found:
        if steps in alone:
            assert_same(e, alone[steps])


def test_the_programs_used_last_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_KEPT_STEPS", 6 + 2 + 4)
    few = explainer(Last, "gradient")
    made_for: list[int] = []
    source = few._programs.source
    make = source.at
    monkeypatch.setattr(source, "at", lambda steps: made_for.append(steps) or make(steps))
    for steps in (6, 2, 3, 6, 2, 4, 6, 2, 3, 4):
        few(batch(Last, 2, steps))
    # 3 makes room for 4 and then comes back in place of 4.
    assert made_for == [2, 3, 4, 3, 4]


def test_bounds_by_element_hold_at_all_steps() -> None:
    low = np.array([-1.0, 0.0, -2.0, 0.0])
    model, x = captured(Mean, 6), np.abs(batch(Mean, 3, 6))
    bounded = unchecked(model, x, low=low, high=np.ones((6, 4)))
    wanted = unchecked(model, x[:, :4], low=low, high=1.0)(x[:, :4])
    assert_same(bounded(x[:, :4]), wanted)
    x[1, 2, 3] = -0.5
    with pytest.raises(ValueError, match=r"\[0.0, 1.0\], got x\[1, 2, 3\] = -0.5"):
        bounded(x[:, :4])


def test_bounds_by_step_hold_for_these_steps_only() -> None:
    low = np.linspace(-2.0, -1.0, 6)[:, None]
    model, x = captured(Last, 6), batch(Last, 3, 6)
    bounded = unchecked(model, x, "gradient", low=low, high=1.0)
    bounded(x)
    with pytest.raises(ValueError, match="given for each of 6 steps, which says nothing of 4"):
        bounded(x[:, :4])
    with pytest.raises(ValueError, match="low, high: with lengths=True"):
        unchecked(model, x, "gradient", low=low, high=1.0, lengths=True)


class Loop(nn.Module):
    """A user's loop over the steps, whose number torch.export fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.out = nn.RNNCell(4, 5, nonlinearity="relu"), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 5)
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
        return self.out(h)


@functools.cache
def loop() -> nn.Module:
    """Return a model that no test changes, so that it is captured once for each number of steps."""
    return made(Loop)


def test_a_loop_fixes_the_number_of_steps() -> None:
    fixed = unchecked(loop(), batch(Last, 2, 6), "gradient")
    assert not fixed.any_steps
    assert "input (n, 6, 4), 3 outputs" in repr(fixed)
    with pytest.raises(ValueError, match=r"\(n, 6, 4\).* 6 steps only: .* an example of 9"):
        fixed(batch(Last, 2, 9))
    with pytest.raises(pyrel.UnsupportedModelError, match="loop over the steps"):
        unchecked(loop(), batch(Last, 2, 6), "gradient", lengths=True)


class Windows(nn.Module):
    """A convolution without padding; torch.export keeps two windows or more open."""

    def __init__(self) -> None:
        super().__init__()
        self.window, self.out = nn.Conv1d(4, 5, 3), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.window(x.transpose(1, 2))).mean(2))


def test_too_few_steps() -> None:
    windows = unchecked(made(Windows), batch(Last, 2, 6), "gradient")
    assert windows(batch(Last, 2, 4)).relevance.shape == (2, 4, 4)
    for steps in (1, 2, 3):
        with pytest.raises(ValueError, match=f"captured with 6 steps, and does not take {steps}"):
            windows(batch(Last, 2, steps))
    with pytest.raises(ValueError, match=r"got shape \(2, 0, 4\)"):
        windows(batch(Last, 2, 0))


class EachStep(nn.Module):
    """A score for each step."""

    def __init__(self) -> None:
        super().__init__()
        self.core, self.out = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.core(x)[0])[:, :, 0]


def test_outputs_may_be_as_many_as_steps() -> None:
    each = unchecked(made(EachStep), batch(Last, 2, 6), "gradient", lengths=True)
    e = each(batch(Last, 2, 8), target=7)
    assert e.output.shape == (2, 8)
    np.testing.assert_array_equal(e.target, [7, 7])
    with pytest.raises(ValueError, match="0 to 3, got 5"):
        each(batch(Last, 2, 4), target=5)
    e = each(batch(Last, 2, 6), target=3, lengths=[4, 6])
    assert e.output.shape == (2, 6)
    assert not e.output[0, 4:].any()


def test_no_samples_of_other_steps() -> None:
    e = shared(Last, "gradient")(batch(Last, 0, 40))
    assert e.relevance.shape == (0, 40, 4)
    assert e.output.shape == (0, 3)


def test_wrong_shapes_say_what_to_do() -> None:
    fixed = unchecked(loop(), batch(Last, 2, 6), "gradient")
    with pytest.raises(ValueError, match="is the batch the first dimension"):
        fixed(batch(Last, 6, 20))
    for one in (fixed, shared(Last, "gradient")):
        with pytest.raises(ValueError, match=r"one sample: .* x\[None\]"):
            one(batch(Last, 1, 6)[0])
        with pytest.raises(ValueError, match=r"one sample: .* x\[None\]"):
            one(batch(Last, 1, 9)[0])
        with pytest.raises(ValueError, match=r"got shape \(2, 6, 5\)$"):
            one(np.zeros((2, 6, 5), np.float32))
    with pytest.raises(ValueError, match=r"x\[None\]; .* 6 steps only: .* an example of 9"):
        fixed(batch(Last, 1, 9)[0])


def test_explain_captures_once_for_all_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    capture = kept.capture_in_short
    monkeypatch.setattr(
        kept, "capture_in_short", lambda *given, **o: found.append(given) or capture(*given, **o)
    )
    model = made(Last)
    for steps in (6, 3, 6, 8):
        x = batch(Last, 2, steps)
        fresh = unchecked(graph_of(Last, steps), method="gradient", low=-1.0, high=1.0)
        assert_same(pyrel.explain(model, x, "gradient"), fresh(x))
    low = np.full((8, 4), -1.0)
    assert_same(
        pyrel.explain(model, x, "deep_taylor", low=low, high=1.0), shared(Last, "deep_taylor")(x)
    )
    assert len(found) == 1
    loop = made(Loop)
    for steps in (6, 3):
        pyrel.explain(loop, batch(Last, 2, steps), "gradient")
    assert len(found) == 3


@pytest.mark.filterwarnings("ignore:.*were assigned during export")
def test_an_exported_program_of_a_recurrent_layer(tmp_path: Path) -> None:
    model, x = made(Last), batch(Last, 5, 6)
    dynamic = ({0: torch.export.Dim.DYNAMIC},)
    exported = torch.export.export(model, (torch.from_numpy(x),), dynamic_shapes=dynamic)
    torch.export.save(exported, tmp_path / "last.pt2")
    loaded = torch.export.load(tmp_path / "last.pt2")
    fixed = unchecked(loaded, method="lrp_epsilon", low=-1.0, high=1.0)
    assert not fixed.any_steps
    assert_same(fixed(x), shared(Last, "lrp_epsilon")(x))
