# SPDX-License-Identifier: Apache-2.0
"""Integrated gradients: the quadrature in float64, completeness, baselines, parts and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import rows, unchecked
from methods.copies import (
    FEW,
    MODELS,
    NAMED,
    assert_sum_of_gradients,
    at_points,
    made,
    peak_of,
)
from reference import explain
from reference_graph import EPS32
from torch import nn

import pyrel
from pyrel import _core
from pyrel.engine import config as runtime

STEPS = 10


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_float64(name: str) -> None:
    exhibit = NAMED[name]
    x = exhibit.inputs[:FEW].astype(np.float32)
    baseline = exhibit.inputs[FEW:].mean(axis=0).astype(np.float32)
    explainer = made(exhibit, "integrated_gradients", n_steps=STEPS, baseline=baseline)
    e = explainer(x)
    points, weights = np.polynomial.legendre.leggauss(STEPS)
    way = x.astype(np.float64) - baseline
    column = (-1, 1, *(1 for _ in exhibit.shape))
    at = at_points(exhibit, baseline + ((points + 1) / 2).reshape(column) * way, e.target)
    terms = at.relevance.reshape(STEPS, *x.shape) * (weights / 2).reshape(column) * way
    assert_sum_of_gradients(e.relevance, terms.sum(axis=0), terms, at)
    end, start = (explain(exhibit.graph, p, "gradient") for p in (x, baseline[None]))
    rise = end.output[np.arange(FEW), e.target] - start.output[0, e.target]
    error = np.abs(e.conservation - (rows(e.relevance).sum(axis=1) - rise))
    assert (
        error.max() <= end.uncertainty.max() + start.uncertainty.max() + EPS32 * np.abs(rise).max()
    )


def one_unit() -> tuple[nn.Module, np.ndarray]:
    """Return tanh(w · x) and w."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 1, bias=False), nn.Tanh())
    return model, model[0].weight.detach().double().numpy()[0]


def test_of_one_unit_in_closed_form() -> None:
    """∂ tanh(w · x)/∂x_i is w_i times a function of w · x: the rise is shared out by w_i x_i."""
    model, w = one_unit()
    x = np.random.default_rng(0).uniform(-1, 1, (20, 5)).astype(np.float32)
    e = unchecked(model, x, method="integrated_gradients")(x)
    product = x * w
    wanted = product / product.sum(axis=1, keepdims=True) * np.tanh(product.sum(axis=1))[:, None]
    np.testing.assert_allclose(e.relevance, wanted, rtol=0, atol=1e-6)
    assert np.abs(e.conservation).max() < 1e-6
    few = unchecked(model, x, method="integrated_gradients", n_steps=1)(x)
    assert np.abs(few.conservation).max() > 1e-3
    assert (e.absorbed == 0).all()
    sizes = np.abs(e.relevance).sum(axis=1)
    np.testing.assert_allclose(e.amplification, np.maximum(sizes, 1), rtol=1e-6)


def test_baselines() -> None:
    model, _ = one_unit()
    x = np.random.default_rng(0).uniform(0, 1, (4, 5)).astype(np.float32)
    box: dict[str, Any] = {"method": "integrated_gradients", "low": 0.0, "high": 1.0}
    zero = unchecked(model, x, **box)(x)
    for same in (0, 0.0, np.zeros(5), torch.zeros(5), np.zeros((1, 1, 5))[0], [0.0] * 5):
        e = unchecked(model, x, baseline=same, **box)(x)
        np.testing.assert_array_equal(e.relevance, zero.relevance)
    assert (unchecked(model, x, baseline=x[0], **box)(x[:1]).relevance == 0).all()
    with pytest.raises(ValueError, match=r"baseline: wanted values in .* 1.0\], got 1.5"):
        unchecked(model, x, baseline=1.5, **box)
    for wrong in (np.zeros(4), np.zeros((4, 5))):
        with pytest.raises(ValueError, match=r"baseline: .* one sample, \(5,\), got \(4"):
            unchecked(model, x, baseline=wrong, **box)
    no_numbers = ((np.nan, ValueError), ("mean", TypeError), ([[0.0], [0.0, 1.0]], ValueError))
    for wrong, error in no_numbers:
        with pytest.raises(error, match="baseline: wanted"):
            pyrel.methods.IntegratedGradients(baseline=wrong)
    for steps, error in ((0, ValueError), (1001, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="n_steps: wanted"):
            pyrel.methods.IntegratedGradients(n_steps=steps)


def test_samples_outside_the_box_are_refused() -> None:
    model, _ = one_unit()
    x = np.zeros((3, 5), np.float32)
    explainer = unchecked(model, x, "integrated_gradients", low=0.0, high=1.0)
    x[2, 1] = 1.5
    with pytest.raises(ValueError, match=r"got x\[2, 1\] = 1.5"):
        explainer(x)


def test_a_file_holds_the_baseline(tmp_path: Path) -> None:
    exhibit = NAMED["LSTM-plain-last"]
    x = exhibit.inputs[:3].astype(np.float32)
    baseline = np.random.default_rng(1).uniform(-0.5, 0.5, x.shape[2:]).astype(np.float32)
    options = {"n_steps": 5, "baseline": baseline}
    explainer = unchecked(exhibit.module, x, "integrated_gradients", **options)
    explainer.save(tmp_path / "ig.program")
    loaded = pyrel.Explainer.load(tmp_path / "ig.program")
    for steps in (x.shape[1], 3, 1):
        ours, theirs = explainer(x[:, :steps]), loaded(x[:, :steps])
        np.testing.assert_array_equal(ours.relevance, theirs.relevance)
        np.testing.assert_array_equal(ours.conservation, theirs.conservation)
    assert np.abs(ours.relevance).max() > 0
    assert repr(loaded.method) == repr(explainer.method)


class Own(pyrel.methods.IntegratedGradients):
    name = "own"


def test_a_class_of_a_user_is_not_saved_as_a_gradient(tmp_path: Path) -> None:
    model, _ = one_unit()
    explainer = unchecked(model, torch.zeros(1, 5), Own())
    with pytest.raises(TypeError, match="Own does more than run one"):
        explainer.save(tmp_path / "own.program")


def test_parts_and_batches_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    exhibit = NAMED["GRU-plain-last"]
    x = exhibit.inputs[:7].astype(np.float32)
    whole = made(exhibit, "integrated_gradients")(x)
    monkeypatch.setattr("pyrel.engine.plans.copies._BYTES", 3 * 4 * x[0].size)
    told: list[tuple[int, int]] = []
    explainer = made(exhibit, "integrated_gradients")
    parts = explainer(x, progress=lambda done, total: told.append((done, total)))
    alone = explainer(x[3:4])
    for field in ("relevance", "output", "target", "conservation", "amplification"):
        np.testing.assert_array_equal(getattr(parts, field), getattr(whole, field))
        np.testing.assert_array_equal(getattr(parts, field)[3:4], getattr(alone, field))
    assert [total for _, total in told] == [7 * 51] * len(told)
    assert told[0][0] == 7
    assert told[-1][0] == 7 * 51
    assert max(np.diff([done for done, _ in told])) == 3


def test_memory_of_copies_is_bounded() -> None:
    """512 samples of 40 kB with 50 copies would be 1 GB; what is held is a small part of that."""
    model, x = nn.Linear(10_000, 2), np.ones((512, 10_000), np.float32)
    explainer = unchecked(model, x[:1], "integrated_gradients")
    assert peak_of(lambda: explainer(x)) < x.nbytes + 2**27


def test_progress_of_any_method() -> None:
    model, x = nn.Linear(5, 2), np.ones((4, 5), np.float32)
    told: list[tuple[int, int]] = []
    explainer = unchecked(model, x, "lrp_epsilon")
    explainer(x, progress=lambda *numbers: told.append(numbers))
    assert told == [(4, 4)]
    with pytest.raises(TypeError, match="progress: wanted a function of two numbers or None, got"):
        explainer(x, progress=True)  # type: ignore[arg-type]

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        explainer(x, progress=stop)


def test_rounded_outputs_are_refused() -> None:
    if not _core.has_bf16(runtime.isa()):
        pytest.skip("this instruction set has no products of bfloat16")
    x = torch.zeros(1, 5)
    with pytest.raises(ValueError, match="'bf16_all' rounds the outputs"):
        unchecked(nn.Linear(5, 2), x, "integrated_gradients", precision="bf16_all")
