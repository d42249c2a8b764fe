# SPDX-License-Identifier: Apache-2.0
"""How far rounding moves what is compared, and where it moves that too far to decide."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from engine.compiler_faults import FAULTS, FEATURES, STEPS, Gated, seeded
from engine.logs import heard
from torch import Tensor, nn

import pyrel
from pyrel.engine import self_check
from pyrel.engine.comparison import Difference, Part, Request, Undecided, difference
from pyrel.engine.model_copies import RoundedResults
from pyrel.engine.model_reference import DRAWS, largest_moves
from pyrel.engine.model_run import Answer
from pyrel.engine.rounding import FLOAT32


class Capped(nn.Module):
    """A value with two readers, whose difference is small beside it.

    Folding makes a layer of each reader, so that their roundings differ.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first, self.out = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = 3e4 * self.first(x)
        return self.out(torch.relu(z) - torch.relu(z - 6))


@pytest.mark.parametrize("captured", [False, True])
def test_values_that_folding_computes_twice_are_rounded_apart(captured: bool) -> None:
    torch.manual_seed(0)
    model, x = Capped(), torch.rand(4, 6) * 2 - 1
    given = pyrel.capture(model, x) if captured else model
    bounds = {"low": -1, "high": 1}
    e = pyrel.Explainer(given, x, "deep_taylor", check=None, **bounds)(x)
    with torch.no_grad():
        wanted = model.double()(x.double())
    assert (e.output - wanted).abs().max() > 1e-4  # they do differ
    explainer = pyrel.Explainer(given if captured else model.float(), x, "deep_taylor", **bounds)
    assert explainer.checked.startswith("outputs on 2 inputs × 2 samples")


def test_all_results_but_whole_numbers_and_views_are_moved() -> None:
    x = torch.linspace(0.1, 0.9, 8, dtype=torch.float64)
    leaf = x.clone().requires_grad_()
    with RoundedResults(FLOAT32, 0):
        whole = torch.arange(8, dtype=torch.float64) * 3
        product = x * 0.7
        view = product.view(2, 4)
        gradient = torch.autograd.grad((leaf * leaf).sum(), leaf)[0]
        single = x.float() * 0.7
    size = FLOAT32.of_sum(1)
    assert torch.equal(whole, torch.arange(8) * 3.0)
    assert view.data_ptr() == product.data_ptr()
    assert torch.equal(single, x.float() * 0.7)
    for found, exact in ((product, x * 0.7), (gradient, 2 * x)):
        error = ((found - exact) / exact).abs()
        assert (error > 0).all() and (error < 3 * size).all()


def test_what_chooses_is_not_moved() -> None:
    """Autograd finds the place of the largest by comparing: moved, it would be nowhere."""
    x = torch.linspace(0.1, 0.9, 8, dtype=torch.float64, requires_grad=True)
    with RoundedResults(FLOAT32, 0):
        low, high = x.amin(0), x.amax(0)
        gradient = torch.autograd.grad(high * high - low * low, x)[0]
    assert (low, high) == (x.min(), x.max())
    wanted = torch.tensor([-0.2, *[0.0] * 6, 1.8], dtype=torch.float64)
    torch.testing.assert_close(gradient, wanted, rtol=1e-5, atol=0)


class Scaled(nn.Module):
    """Scales a sequence to its range: of two steps nothing is left but 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.amin(1, keepdim=True), x.amax(1, keepdim=True)
        return self.out(torch.tanh((x - low) / (high - low)).mean(1))


@pytest.mark.parametrize("seed", [4, 12])  # for which rounding showed in the gradients of zero
def test_gradients_that_cancel_are_no_fault(seed: int) -> None:
    torch.manual_seed(seed)
    model, x = Scaled().eval(), torch.randn(3, 10, 4)
    assert "outputs and gradients on" in str(pyrel.Explainer(model, x, "gradient").checked)


def test_models_that_take_no_mode_of_dispatch_are_checked_all_the_same(monkeypatch: Any) -> None:
    model, x = seeded(Gated), np.random.default_rng(0).normal(size=(3, STEPS, FEATURES))
    modes = queue.SimpleQueue[None]()

    def refused(*_: Any) -> Any:
        modes.put(None)
        raise RuntimeError("no rule")

    monkeypatch.setattr(RoundedResults, "__torch_dispatch__", refused)
    FAULTS["wrong slope"].put_in(monkeypatch)
    with pytest.raises(pyrel.SelfCheckError, match="by torch's autograd"):
        pyrel.Explainer(model, x.astype(np.float32), "gradient")
    assert modes.qsize() == 1


class Moved:
    """A reference whose numbers are 1, and draws of these."""

    samples, name, gradient_name = 2, "the model", "autograd"

    def __init__(self, moves: Callable[[int], Any]) -> None:
        self._moves = moves
        self.drawn = 0

    def answer(self, *_: Any) -> Answer:
        return Answer(np.ones((2, 3)), None)

    exact = answer

    def moves(self, *rest: Any) -> Iterator[Any]:
        def drawn() -> Iterator[Any]:
            for number in range(2 * DRAWS):
                self.drawn += 1
                yield np.ones((2, 3)) + np.reshape(self._moves(number), (2, 1))

        yield from largest_moves(np.ones((2, 3)), drawn())


def compared(reference: Any, values: Any) -> Any:
    part = Part(np.asarray(values), lambda answer: answer.output, FLOAT32)
    request = Request(np.zeros((2, 1), np.float32), np.zeros(2, np.int64), None)
    return difference(reference, request, part, reference.answer())


@pytest.mark.parametrize(
    ("moves", "values", "wanted"),
    [
        ((1e-3, 1e-3), (1.0, 1.0009), None),
        ((1e-3, 1e-3), (1.0, 1.0011), Difference),
        ((0.09, 1e-3), (1.1, 1.0), Difference),
        ((0.11, 1e-3), (1.2, 1.0), Undecided),
        ((0.11, 1e-3), (1.2, 1.01), Difference),  # the other sample shows it
        ((0.11, 1e-3), (200.0, 1.0), Difference),
        ((0.11, 1e-3), (np.nan, 1.0), Difference),
    ],
)
def test_chaotic_samples_are_left_undecided(moves: Any, values: Any, wanted: Any) -> None:
    found = compared(Moved(lambda number: moves), np.outer(values, np.ones(3)))
    assert found is None if wanted is None else isinstance(found, wanted)
    if wanted is Undecided:
        assert found == (0, pytest.approx(0.11))


def test_no_more_is_drawn_than_decides() -> None:
    for number, draws in ((0, 1), (DRAWS + 3, DRAWS + 4)):
        reference = Moved(lambda n, number=number: (1e-3 * (n >= number), 0.0))
        assert compared(reference, np.full((2, 3), 1.0)) is None
        assert reference.drawn == 0
        assert compared(reference, np.outer((1.0005, 1.0), np.ones(3))) is None
        assert reference.drawn == draws


def test_what_is_not_decided_is_said(monkeypatch: Any) -> None:
    def found(reference: Any, request: Any, part: Any, answer: Any) -> Any:
        return Undecided(1, 0.5) if part.values.ndim == 2 else None

    monkeypatch.setattr(self_check, "difference", found)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    notes = "; ".join(
        "outputs not decidable in float32: rounding alone moves those for sample 1 of "
        f"{name} by 0.5 times their size"
        for name in ("the example", "the example's elements in another order")
    )
    with heard() as said:
        explainer = pyrel.Explainer(model, torch.randn(2, 2, 3), "gradient")
    assert explainer.checked == f"gradients on 2 inputs × 2 samples; {notes}"
    assert explainer.checked in repr(explainer)
    assert [text.partition(": ")[2] for text in said] == notes.split("; ")
    explainer = pyrel.Explainer(model, torch.randn(2, 2, 3), "lrp_epsilon")
    assert explainer.checked == f"nothing; {notes}"
