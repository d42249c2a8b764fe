# SPDX-License-Identifier: Apache-2.0
"""Integrated gradients of models that are cut behind an affine first layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import pyrel
from pyrel.compiler.graph import affine_start
from pyrel.engine.plans.base import BACK, IMAGE
from pyrel.engine.program_file import _check_sizes

STEPS = 12
# Of float32 against float64: each gradient is a sum of some hundred products, as is the mean.
BOUND = 1e-5


class Part(nn.Module):
    """Reads a part of the input; by a convolution whose rows overlap, by a layer, or by both."""

    def __init__(self, *kinds: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kinds = kinds
        self.row = nn.Linear(6, 9)
        self.window = nn.Conv1d(1, 3, 5)
        self.out = nn.Linear(9 * ("row" in kinds) + 18 * ("window" in kinds), 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.reshape(-1, 10)  # one number of steps, of which pyrel compiles what it cuts
        found = []
        if "row" in self.kinds:
            found.append(torch.tanh(self.row(x[:, 2:8])))
        if "window" in self.kinds:
            found.append(torch.relu(self.window(x[:, None])).flatten(1))
        return self.out(torch.cat(found, dim=1))


class Cell(nn.Module):
    """A layer on each step, the first one of a recurrence."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.step, self.state, self.out = nn.Linear(5, 7), nn.Linear(14, 7), nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        state = x.new_zeros(x.shape[0], 7)
        for t in range(x.shape[1]):
            state = torch.tanh(self.state(torch.cat([torch.relu(self.step(x[:, t])), state], 1)))
        return self.out(state)


class Around(nn.Module):
    """Reads its input behind the first layer, too, or multiplies it by itself."""

    def __init__(self, squares: bool) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.layer, self.squares = nn.Linear(8, 8), squares

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found = torch.relu(self.layer(x))
        return found + x * x if self.squares else found + torch.tanh(x)


def wanted_of(model: nn.Module, x: torch.Tensor, baseline: torch.Tensor) -> torch.Tensor:
    """Return the quadrature in float64, for the predicted class."""
    model = model.double()
    values, start = x.double(), baseline.double()
    target = model(values).argmax(1)
    points, weights = np.polynomial.legendre.leggauss(STEPS)
    total = torch.zeros_like(values)
    for point, weight in zip((points + 1) / 2, weights / 2, strict=True):
        at = (start + point * (values - start)).requires_grad_()
        model(at).gather(1, target[:, None]).sum().backward()
        total += weight * at.grad
    model.float()
    return total * (values - start)


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut where it is exact, whether or not it gains."""
    monkeypatch.setattr(affine_start, "_gains", lambda *_: True)


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: Part("row"), (10,)),  # four elements that nothing reads
        (lambda: Part("window"), (10,)),
        (lambda: Part("row", "window"), (10,)),
        (Cell, (4, 5)),
    ],
    ids=["row", "window", "both", "cell"],
)
def test_agrees_with_float64(
    make: Callable[[], nn.Module], shape: tuple[int, ...], tmp_path: Path
) -> None:
    model, x = make().eval(), torch.randn(7, *shape)
    baseline = torch.randn(shape) / 4
    options = {"n_steps": STEPS, "baseline": baseline.numpy()}
    explainer = pyrel.Explainer(model, x, method="integrated_gradients", **options)
    assert {IMAGE, BACK} <= set(explainer._programs.source.programs)
    e = explainer(x)
    wanted = wanted_of(model, x, baseline)
    error = (e.relevance.double() - wanted).abs().max()
    assert error <= BOUND * wanted.abs().max()
    rise = model(x).gather(1, e.target[:, None])[:, 0] - model(baseline[None])[0, e.target]
    missing = e.relevance.flatten(1).sum(1) - rise
    assert torch.allclose(torch.as_tensor(e.conservation), missing, atol=1e-5)
    explainer.save(tmp_path / "cut.pyrel")
    again = pyrel.Explainer.load(tmp_path / "cut.pyrel")(x)
    assert torch.equal(again.relevance, e.relevance)
    one = explainer(x[3:4])
    assert torch.equal(one.relevance[0], e.relevance[3])


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize("squares", [False, True])
def test_no_cut_where_more_reads_the_input(squares: bool) -> None:
    x = torch.randn(5, 8)
    explainer = pyrel.Explainer(Around(squares), x, method="integrated_gradients", n_steps=STEPS)
    assert set(explainer._programs.source.programs).isdisjoint({IMAGE, BACK})


@pytest.mark.usefixtures("always")
def test_no_cut_without_a_layer_behind_it() -> None:
    assert affine_start.affine_start(pyrel.capture(nn.Linear(4, 3), torch.rand(2, 4))) is None


def test_cuts_where_it_gains() -> None:
    def cut(inputs: int, outputs: int) -> bool:
        model = nn.Sequential(nn.Linear(inputs, outputs), nn.ReLU(), nn.Linear(outputs, 2))
        return affine_start.affine_start(pyrel.capture(model, torch.rand(2, inputs))) is not None

    assert cut(400, 50)
    assert not cut(2, 50)  # fifty numbers of each copy instead of two


@pytest.mark.usefixtures("always")
def test_flops_are_those_of_all_parts() -> None:
    x = torch.rand(2, 6)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    gradient = pyrel.Explainer(model, x, method="gradient")
    path = pyrel.Explainer(model, x, method="integrated_gradients")
    assert path.flops == gradient.flops == 2.0 * 2 * (6 * 8 + 8 * 3)


@pytest.mark.usefixtures("always")
def test_overflow_is_named() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
    model[0].weight.data.fill_(1e20)
    x = torch.full((2, 4), 1e-20)
    explainer = pyrel.Explainer(model, x, method="integrated_gradients", check=None)
    with pytest.raises(ValueError, match=r"what the first layer computes for x\[1\] is NaN or inf"):
        explainer(torch.stack([x[0], torch.full((4,), 1e20)]))
    far = pyrel.Explainer(
        model, x, method="integrated_gradients", baseline=np.full(4, 1e20), check=None
    )
    with pytest.raises(ValueError, match="baseline: the model's output for it is NaN or infinite"):
        far(x)


@pytest.mark.usefixtures("always")
def test_parts_of_other_sizes_are_refused() -> None:
    x = torch.rand(2, 10)
    parts = [
        pyrel.Explainer(each, x, method="integrated_gradients")._programs.source
        for each in (Part("row"), Part("window"))
    ]
    parts[0].programs[BACK] = parts[1].programs[BACK]
    with pytest.raises(ValueError, match="different models"):
        _check_sizes(parts[0])
    del parts[0].programs[BACK]
    with pytest.raises(ValueError, match="is missing"):
        _check_sizes(parts[0])
