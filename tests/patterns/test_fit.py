# SPDX-License-Identifier: Apache-2.0
"""Fits of patterns: any batches, merged, kept as files, and what they refuse."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import reference_patterns as reference
import torch
from patterns.models import Recurrent
from torch import nn

import pyrel
from pyrel.compiler.graph import unit_blocks
from pyrel.compiler.passes.whole_layers import digests
from pyrel.patterns import Fit, LayerPatterns, Patterns
from pyrel.patterns.estimators import Pattern
from pyrel.patterns.moments import Moments

EPS = float(np.finfo(np.float64).eps)


def small() -> nn.Sequential:
    torch.manual_seed(5)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def samples(count: int = 203) -> torch.Tensor:
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(2))


def same(one: Patterns, other: Patterns, relative: float = 0.0) -> None:
    """Compare all patterns of all layers, relative to the largest value of each."""
    assert len(one.layers) == len(other.layers)
    for left, right in zip(one.layers, other.layers, strict=True):
        assert (left.module, left.rows) == (right.module, right.rows)
        assert (left.columns == right.columns).all() and (left.units == right.units).all()
        assert (left.before_relu == right.before_relu).all()
        for name in ("a", "plus", "minus"):
            mine, others = getattr(left, name), getattr(right, name)
            assert (mine is None) == (others is None)
            if mine is not None:
                assert (mine.known == others.known).all()
                allowed = relative * np.abs(mine.values).max()
                assert np.abs(mine.values - others.values).max() <= allowed


@pytest.mark.parametrize("expectation", ["conditional", "overall"])
def test_any_batches_give_the_same(expectation: str) -> None:
    graph, x = pyrel.capture(small(), samples()[:2]), samples()
    whole = pyrel.patterns.fit(graph, x, batch=1000, expectation=expectation)
    for batch in (1, 7, 64):
        cut = pyrel.patterns.fit(graph, x, batch=batch, expectation=expectation)
        # 203 additions, divided by variances that are no less than a hundredth of a square.
        same(whole, cut, 203 * EPS * 100)


def test_parts_that_are_merged_are_the_whole_in_any_order() -> None:
    graph, x = pyrel.capture(small(), samples()[:2]), samples()
    parts = [Fit(graph) for _ in range(3)]
    for part, rows in zip(parts, (x[:1], x[1:90], x[90:]), strict=True):
        part.add(rows)
    empty = Fit(graph)
    for part in (parts[2], parts[0], parts[1]):
        empty.merge(part)
    assert empty.samples == 203
    same(pyrel.patterns.fit(graph, x), empty.patterns(), 203 * EPS * 100)


def test_a_checkpoint_goes_on(tmp_path: Path) -> None:
    graph, x = pyrel.capture(small(), samples()[:2]), samples()
    fitting, through = Fit(graph), Fit(graph)
    fitting.add(x[:100])
    fitting.save(tmp_path / "fit.safetensors")
    loaded = Fit.load(tmp_path / "fit.safetensors", graph)
    through.add(x[:100])
    for each in (loaded, through):
        each.add(x[100:])
    same(loaded.patterns(), through.patterns())
    other = pyrel.capture(nn.Linear(4, 3), x[:2])
    with pytest.raises(ValueError, match="a fit of another model"):
        Fit.load(tmp_path / "fit.safetensors", other)


@pytest.mark.parametrize("estimator", ["two_component", "linear"])
def test_patterns_are_kept_as_a_file(estimator: str, tmp_path: Path) -> None:
    patterns = pyrel.patterns.fit(
        pyrel.capture(small(), samples()[:2]), samples(), estimator=estimator
    )
    patterns.save(tmp_path / "p.safetensors")
    same(patterns, Patterns.load(tmp_path / "p.safetensors"))
    assert repr(Patterns.load(tmp_path / "p.safetensors")) == repr(patterns)
    with pytest.raises(ValueError, match="holds a set of patterns, not a fit of patterns"):
        Fit.load(tmp_path / "p.safetensors", pyrel.capture(small(), samples()[:2]))


def test_expectations_differ_as_the_formulas_do() -> None:
    model, x = small(), samples()
    rows = x.double().numpy()
    w = model[0].weight.detach().double().numpy()
    for expectation, overall in (("conditional", False), ("overall", True)):
        found = pyrel.patterns.fit(pyrel.capture(model, x), x, expectation=expectation).layers[0]
        for pattern, sign in ((found.plus, 1), (found.minus, -1)):
            wanted = reference.of_sign(rows, w, sign, overall)
            assert pattern is not None
            np.testing.assert_allclose(pattern.values, wanted, rtol=1e-9, atol=1e-9)


def test_values_far_from_zero_lose_nothing() -> None:
    """Σxy − ΣxΣy/n would lose all of the digits."""
    x = np.random.default_rng(0).normal(size=(1000, 3))
    w = np.array([[1.0, -2.0, 0.5]])
    far = x + 1e7
    moments = Moments.nothing(1, 3, apart=False)
    for part in np.array_split(far, 13):
        moments.merge(Moments.of(part, part @ w.T))
    # The values themselves are rounded by 1e7 · ε, and so each product of centred ones.
    allowed = 1e7 * EPS * 20
    np.testing.assert_allclose(moments.co[0] / moments.square, reference.a(x, w)[0], atol=allowed)


def test_the_first_step_is_a_row_whose_state_is_zero() -> None:
    torch.manual_seed(0)
    model = Recurrent("LSTM")
    x = torch.randn(50, 3, 5)
    (layer, _) = pyrel.patterns.fit(pyrel.capture(model, x), x).layers
    assert layer.columns.size == 5 + 4
    assert layer.rows == 50 * 3
    assert layer.units.tolist() == [0, 1, 2, 3]  # of the candidate: gates have none


def test_a_kernel_has_one_pattern_for_all_positions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 2))
    x = torch.rand(20, 2, 6, 6)
    layer = pyrel.patterns.fit(pyrel.capture(model, x), x).layers[0]
    assert layer.a.values.shape == (3, 2 * 9)
    assert layer.rows == 20 * 16


def test_units_that_do_not_vary_have_no_pattern() -> None:
    model = small()
    with torch.no_grad():
        model[0].weight[2] = 0.0
        model[0].weight[3] = torch.tensor([0.1, 0.2, -0.3, 0.0])
    x = samples()
    x[:, :3] = torch.tensor([0.3, 0.7, 0.11])  # of unit 3, y is constant but for rounding
    patterns = pyrel.patterns.fit(pyrel.capture(model, x), x)
    layer = patterns.layers[0]
    assert layer.a.known.tolist() == [True, True, False, False, True, True]
    assert layer.plus is not None and not layer.plus.known[2:4].any()
    assert not layer.a.values[2:4].any() and np.isfinite(layer.a.values).all()
    assert layer.without == 2
    assert repr(patterns).endswith(f"; {2 + patterns.layers[1].without} units without)")
    e = pyrel.explain(model, x[:3], "pattern_net", patterns=patterns)
    assert torch.isfinite(e.relevance).all()


@pytest.mark.parametrize(
    ("x", "why"),
    [
        (torch.zeros(0, 4), "there are none"),
        (torch.full((3, 4), float("nan")), "NaN or infinity"),
        (torch.full((3, 4), float("inf")), "NaN or infinity"),
        (torch.zeros(3, 5), r"wanted samples of shape \(4,\)"),
    ],
)
def test_what_is_no_sample_is_refused(x: torch.Tensor, why: str) -> None:
    graph = pyrel.capture(small(), samples()[:2])
    with pytest.raises(ValueError, match=why):
        pyrel.patterns.fit(graph, x)
    with pytest.raises(ValueError, match=why):
        Fit(graph).add(x)


def test_a_fit_that_saw_nothing_has_no_patterns() -> None:
    with pytest.raises(ValueError, match="there are none"):
        Fit(pyrel.capture(small(), samples()[:2])).patterns()


def test_fits_with_other_estimators_do_not_merge() -> None:
    graph = pyrel.capture(small(), samples()[:2])
    with pytest.raises(ValueError, match="two_component, the other linear"):
        Fit(graph).merge(Fit(graph, estimator="linear"))


@pytest.mark.parametrize(("estimator", "held", "made"), [("two_component", 4, 3), ("linear", 1, 1)])
def test_memory_is_what_is_stated(
    estimator: str, held: int, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks are made small, so that the layer is large beside them: 8 of them are 32 MB else."""
    monkeypatch.setattr(unit_blocks, "BLOCK", 2**13)
    units, inputs, rows = 300, 400, 16
    matrix = 8 * units * inputs
    graph = pyrel.capture(nn.Linear(inputs, units), torch.zeros(2, inputs))
    x = torch.rand(rows, inputs)
    beside = 8 * 8 * unit_blocks.BLOCK
    batch = rows * (8 * (inputs + units) + 16 * inputs + 24 * units)
    small = 8 * 20 * (units + inputs)  # arrays by unit or by input, and Python's own objects
    assert beside + batch + small < 2 * matrix
    fitting, other = (Fit(graph, estimator=estimator) for _ in range(2))
    assert held * matrix <= fitting.memory < held * matrix + small
    other.add(x)
    assert peak(lambda: fitting.add(x)) < beside + batch + small
    assert peak(lambda: fitting.merge(other)) < beside + small
    assert peak(fitting.patterns) < made * matrix + beside + small


def peak(work: Callable[[], object]) -> int:
    """Bytes that Python and NumPy take beside what is there already."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_blocks_of_units_change_nothing_but_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = pyrel.capture(small(), samples()[:2]), samples()
    found = {}
    for block in (1, 9, 2**19):  # a unit at a time, two of four inputs, all
        monkeypatch.setattr(unit_blocks, "BLOCK", block)
        parts = [Fit(graph), Fit(graph)]
        for part, rows in zip(parts, (x[:90], x[90:]), strict=True):
            part.add(rows[:40])
            part.add(rows[40:])
        parts[0].merge(parts[1])
        found[block] = parts[0].patterns("overall")
    same(found[2**19], found[1], 203 * EPS * 100)
    same(found[2**19], found[9], 203 * EPS * 100)


@pytest.mark.parametrize("estimator", ["two_component", "linear"])
def test_a_fit_that_is_merged_stays_as_it_was(estimator: str) -> None:
    graph, x = pyrel.capture(small(), samples()[:2]), samples()
    one, other = (Fit(graph, estimator=estimator) for _ in range(2))
    one.add(x[:90])
    other.add(x[90:])
    before = other.patterns()
    one.merge(other)
    same(before, other.patterns())
    other.merge(other)  # twice the same rows have the same patterns
    for layer, twice in zip(before.layers, other.patterns().layers, strict=True):
        np.testing.assert_allclose(twice.a.values, layer.a.values, rtol=1e-12)
        assert twice.rows == 2 * layer.rows


def test_a_refused_batch_leaves_a_fit_as_it_was() -> None:
    graph, x = pyrel.capture(small(), samples()[:2]), samples()
    fitting, through = Fit(graph), Fit(graph)
    for each in (fitting, through):
        each.add(x[:100])
    for wrong in (torch.full((3, 4), float("nan")), torch.zeros(3, 5), torch.zeros(0, 4)):
        with pytest.raises(ValueError, match="x: "):
            fitting.add(wrong)
    with pytest.raises(ValueError, match="another model"):
        fitting.merge(Fit(pyrel.capture(nn.Linear(4, 3), x[:2])))
    for each in (fitting, through):
        each.add(x[100:])
    same(fitting.patterns(), through.patterns())
    assert fitting.samples == 203


def test_a_fit_that_took_part_of_a_batch_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = pyrel.capture(small(), samples()[:2]), samples()
    fitting = Fit(graph)
    fitting.add(x[:100])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Moments, "add", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fitting.add(x[100:])
    for use in (fitting.patterns, lambda: fitting.add(x), lambda: Fit(graph).merge(fitting)):
        with pytest.raises(RuntimeError, match="was interrupted"):
            use()


def test_weights_at_several_places_are_refused() -> None:
    known = Pattern(np.zeros((2, 5)), np.ones(2, bool))
    weight = np.ones((2, 1))
    layer = LayerPatterns(
        "m", np.repeat(digests(weight), 5), np.arange(2), np.zeros(2, bool), 1, known, None, None
    )
    with pytest.raises(ValueError, match="several places"):
        Patterns((layer,)).direction("m", weight, "linear")
