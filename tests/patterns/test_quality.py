# SPDX-License-Identifier: Apache-2.0
"""ρ(S) against least squares on all rows, and on a trained cell against what sampling allows."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import reference_patterns as reference
import torch
from patterns.models import cases
from torch import nn
from torch.nn import functional as F  # noqa: N812

import pyrel
from pyrel.compiler.graph import unit_blocks
from pyrel.patterns import ESTIMATORS, Patterns
from pyrel.patterns.layers import layers_of, resolved
from pyrel.patterns.moments import Floats


def small() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    mixed = torch.randn(4, 4)
    return model, torch.randn(600, 4) @ mixed + 0.5


def signals(x: Floats, w: Floats, patterns: Patterns, estimator: str) -> list[Floats]:
    """S(x) of each unit of the first layer, (rows, inputs)."""
    layer = patterns.layers[0]
    assert layer.plus is not None and layer.minus is not None
    found = []
    for unit, row in enumerate(w):
        y = (x @ row)[:, None]
        match estimator:
            case "filter":
                signal = y * row / (row @ row)
            case "random":
                signal = y * reference.random(w, seed=0)[unit]
            case "linear":
                signal = y * layer.a.values[unit]
            case _:
                above = y * layer.plus.values[unit]
                signal = np.where(y > 0, above, y * layer.minus.values[unit])
        found.append(signal)
    return found


@pytest.mark.parametrize("ridge", [1e-2, 1e-4])
@pytest.mark.parametrize("estimator", ["filter", "random", "linear", "two_component"])
def test_it_is_that_of_least_squares(estimator: str, ridge: float) -> None:
    model, x = small()
    graph = pyrel.capture(model, x[:2])
    patterns = pyrel.patterns.fit(graph, x[:300])
    held = x[300:].double().numpy()
    w = model[0].weight.detach().double().numpy()
    first = pyrel.patterns.quality(graph, patterns, x[300:], ridge=ridge, batch=77)[0]
    added = ridge * np.mean(np.var(held, axis=0))
    for unit, signal in enumerate(signals(held, w, patterns, estimator)):
        wanted = reference.quality(held - signal, held @ w[unit], added)
        # Both solve equations of condition 1 / ridge, whose rounding a correlation near 0 squares.
        assert first.values[estimator][unit] == pytest.approx(wanted, abs=1e-7)
    assert (first.rows, first.rank) == (300, 4)


def test_what_is_not_fitted_is_measured_over_the_whole_layer_as_it_is_explained() -> None:
    """One direction over [x; h], of the first step, too, whose node reads x alone."""
    case = next(each for each in cases() if each.name == "LSTM")
    x = torch.rand(400, *case.sample, generator=torch.Generator().manual_seed(1))
    graph = pyrel.capture(case.module, x[:2])
    patterns = pyrel.patterns.fit(graph, x[:200])
    measured, _ = pyrel.patterns.quality(graph, patterns, x[200:], seed=3)
    layers = reference.Layers()
    with torch.no_grad():
        case.by_hand(layers, x[200:].double())
    rows, w = layers.rows("layer"), layers.weights["layer"]
    added = 1e-3 * np.mean(np.var(rows, axis=0))
    directions = {"filter": reference.filters(w), "random": reference.random(w, seed=3)}
    for estimator, direction in directions.items():
        for unit, of_unit in enumerate(w):
            y = rows @ of_unit
            wanted = reference.quality(rows - y[:, None] * direction[unit], y, added)
            assert measured.values[estimator][unit] == pytest.approx(wanted, abs=1e-7)


def test_memory_is_what_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks are made small, so that the layer is large beside them: 16 of them are 64 MB else."""
    monkeypatch.setattr(unit_blocks, "BLOCK", 2**12)
    units, inputs, rows = 300, 200, 16
    graph = pyrel.capture(nn.Linear(inputs, units), torch.zeros(2, inputs))
    x = torch.rand(rows, inputs)
    patterns = pyrel.patterns.fit(graph, x)
    moments, more = 8 * inputs * (inputs + 2 * units), 8 * inputs * (4 * inputs + units)
    batch = rows * (8 * (inputs + units) + 16 * inputs + 40 * units)
    small = 8 * 50 * (units + inputs)  # arrays by unit or by input, and Python's own objects
    tracemalloc.start()
    pyrel.patterns.quality(graph, patterns, x)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # NumPy's own copies of two matrices, while it inverts one, are not traced.
    untraced = 2 * 8 * inputs**2
    assert taken < moments + more - untraced + 16 * 8 * unit_blocks.BLOCK + max(batch, small)


def test_blocks_of_units_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = small()
    graph = pyrel.capture(model, x[:2])
    patterns = pyrel.patterns.fit(graph, x[:300])
    found = []
    for block in (1, 9, 2**19):  # a unit at a time, two of four inputs, all
        monkeypatch.setattr(unit_blocks, "BLOCK", block)
        found.append(pyrel.patterns.quality(graph, patterns, x[300:], batch=100))
    for layers in found:
        for layer, wanted in zip(layers, found[-1], strict=True):
            for name in ESTIMATORS:
                # As above: of a condition of 1 / ridge, squared where a correlation is near 0.
                np.testing.assert_allclose(layer.values[name], wanted.values[name], atol=1e-7)


def test_what_is_no_distractor_hides_nothing_and_noise_hides_all() -> None:
    model, x = small()
    graph = pyrel.capture(model, x[:2])
    patterns = pyrel.patterns.fit(graph, x[:300])
    first = pyrel.patterns.quality(graph, patterns, x[300:])[0]
    assert (first.values["identity"] == 1.0).all()
    assert first.mean("linear") > 0.8 > first.mean("filter")
    assert first.mean("random") < 0.2
    assert set(first.values) == set(ESTIMATORS)


def test_units_are_measured_on_what_they_read() -> None:
    """A sum of two layers is one, in which a unit does not read what the other's layer reads."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 2)
            self.out = nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = torch.relu(self.one(x))
            result: torch.Tensor = self.out(torch.relu(a + self.one(x)))
            return result

    torch.manual_seed(0)
    model, x = Two(), torch.randn(400, 3)
    graph = pyrel.capture(model, x[:2])
    layers = layers_of(resolved(graph, pyrel.methods.PatternNet()))
    assert any(not layer.connected.all() for layer in layers)
    patterns = pyrel.patterns.fit(graph, x[:200])
    for layer, found in zip(layers, patterns.layers, strict=True):
        assert (found.a.values[layer.units][~layer.connected] == 0).all()
    held = pyrel.patterns.quality(graph, patterns, x[200:])
    joined = next(n for n, layer in enumerate(layers) if not layer.connected.all())
    assert np.isfinite(held[joined].values["linear"]).all()
    assert held[joined].mean("linear") > 0.7


def test_all_estimators_are_measured_on_a_trained_cell() -> None:
    """What holds of each layer of a small Deep, trained for 4 epochs, n = 1500 sequences a half.

    - All five estimators have a ρ in [0, 1] for each unit; that of S_x is 1, for it leaves no
      distractor.
    - S_a is as good as sampling allows: cov(d, y) of a fitted on n rows is noise of both halves, a
      correlation of about √(2d/n). Its square is 2/n times a χ² of d, so the root has a standard
      deviation of one part in √(2d). Three of these are allowed, since each processor trains
      another cell: of five seeds the output layer, d = 24, has 0.96 to 1.26 times √(2d/n). So a
      bound of 1.2 √(2d/n) for all layers is met by sampling alone in most cells, not in all.
    - S_w and a random direction are far below S_a. S_a+− lies between: with samples without end
      S_a has 1, the largest value there is, and S_a+− less wherever a₊ cov(p, y) + a₋ cov(q, y) is
      not cov(x, y).
    """
    images, labels = pyrel.data.load_images("mnist-mini", split="train")
    x = torch.from_numpy(np.asarray(pyrel.data.sequence(images[:3000], 4)))
    y = torch.from_numpy(labels[:3000].astype(np.int64))
    torch.manual_seed(0)
    cell = pyrel.nn.Deep(4, (28, 7), 10, sizes=(48, 32, 24), recurrent=24)
    steps = torch.optim.Adam(cell.parameters(), 5e-3)
    for _ in range(4):
        for some in torch.randperm(3000).split(50):
            steps.zero_grad()
            F.cross_entropy(cell(x[some]), y[some]).backward()
            steps.step()
    cell.eval()
    graph = pyrel.capture(cell, x[:2])
    patterns = pyrel.patterns.fit(graph, x[:1500])
    measured = pyrel.patterns.quality(graph, patterns, x[1500:])
    assert [layer.module for layer in measured] == [layer.module for layer in patterns.layers]
    for layer in measured:
        assert set(layer.values) == set(ESTIMATORS)
        for name in ESTIMATORS:
            assert ((layer.values[name] >= 0) & (layer.values[name] <= 1)).all(), layer.module
        assert (layer.values["identity"] == 1).all()
        noise = np.sqrt(2 * layer.rank / 1500) * (1 + 3 / np.sqrt(2 * layer.rank))
        assert layer.mean("linear") >= 1 - noise, layer.module
        for worse in ("filter", "random"):
            assert layer.mean(worse) < layer.mean("linear") - 0.2
            assert layer.mean(worse) < layer.mean("two_component") < layer.mean("linear")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"ridge": 0.0}, "ridge: wanted a number above 0"),
        ({"estimators": ["least"]}, "estimators: wanted"),
    ],
)
def test_options_that_say_nothing_are_refused(options: dict[str, object], why: str) -> None:
    model, x = small()
    graph = pyrel.capture(model, x[:2])
    patterns = pyrel.patterns.fit(graph, x)
    with pytest.raises(ValueError, match=why):
        pyrel.patterns.quality(graph, patterns, x, **options)  # type: ignore[arg-type]


def test_patterns_of_another_model_are_refused() -> None:
    model, x = small()
    patterns = pyrel.patterns.fit(pyrel.capture(model, x[:2]), x)
    other = pyrel.capture(nn.Linear(4, 3), x[:2])
    with pytest.raises(ValueError, match="there are none for the weights of module"):
        pyrel.patterns.quality(other, patterns, x)
    with pytest.raises(ValueError, match="fit them to this model"):
        pyrel.Explainer(other, method="pattern_net", patterns=patterns)
