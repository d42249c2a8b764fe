# SPDX-License-Identifier: Apache-2.0
"""SmoothGrad against float64 gradients at the same noisy copies; its noise, seeds and bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from methods.copies import FEW, MODELS, NAMED, assert_sum_of_gradients, at_points, made
from torch import nn

import pyrel

COPIES = 8


def noise(shape: tuple[int, ...], seed: int, copies: int = COPIES) -> np.ndarray:
    """Return the documented noise, (copies, 1, ...)."""
    each = (np.random.default_rng([seed, k]) for k in range(copies))
    return np.stack([g.standard_normal(shape, np.float32)[None] for g in each]).astype(np.float64)


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_float64(name: str, squared: bool) -> None:
    """The noise is a tenth of the range that is given: high − low."""
    exhibit = NAMED[name]
    x = exhibit.inputs[:FEW].astype(np.float32)
    options = {"n_samples": COPIES, "noise": 0.1, "seed": 5, "squared": squared}
    e = made(exhibit, "smoothgrad", **options)(x)
    size = np.float32(0.1) * (np.float32(exhibit.high) - np.float32(exhibit.low))
    at = at_points(exhibit, x + float(size) * noise(exhibit.shape, 5), e.target)
    gradients = at.relevance.reshape(COPIES, *x.shape)
    terms = (gradients**2 if squared else gradients) / COPIES
    assert_sum_of_gradients(e.relevance, terms.sum(axis=0), terms, at)
    assert np.isnan(e.conservation).all()


def cubes() -> tuple[nn.Module, np.ndarray]:
    """Return a smooth model, and samples of different ranges."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    x = np.random.default_rng(0).uniform(-1, 1, (5, 4)).astype(np.float32)
    return model, x * np.arange(1, 6, dtype=np.float32)[:, None]


def test_noise_of_the_range_of_a_sample_or_of_any_size() -> None:
    model, x = cubes()
    base = {"method": "smoothgrad", "n_samples": 3}
    by_range = unchecked(model, x, noise=0.2, **base)(x)
    spread = np.float32(0.2) * (x.max(axis=1) - x.min(axis=1))
    for row, std in enumerate(spread):
        alone = unchecked(model, x, std=std, **base)(x[row : row + 1])
        np.testing.assert_array_equal(by_range.relevance[row : row + 1], alone.relevance)
    wide = unchecked(model, x, noise=0.2, low=-10.0, high=10.0, **base)(x)
    given = unchecked(model, x, std=np.full(4, np.float32(0.2) * np.float32(20)), **base)(x)
    np.testing.assert_array_equal(wide.relevance, given.relevance)
    half_open = unchecked(model, x, noise=0.2, low=-10.0, high=np.inf, **base)(x)
    np.testing.assert_array_equal(half_open.relevance, by_range.relevance)
    none = unchecked(model, x, std=0.0, **base)(x)
    plain = unchecked(model, x, "gradient")(x)
    np.testing.assert_allclose(none.relevance, plain.relevance, rtol=1e-6)


def test_seeds_and_files(tmp_path: Path) -> None:
    model, x = cubes()
    first, again, other = (
        unchecked(model, x, "smoothgrad", seed=seed, std=[0.1, 0.2, 0.3, 0.4]) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first(x).relevance, again(x).relevance)
    assert np.abs(first(x).relevance - other(x).relevance).max() > 1e-3
    first.save(tmp_path / "smooth.program")
    loaded = pyrel.Explainer.load(tmp_path / "smooth.program")
    np.testing.assert_array_equal(first(x).relevance, loaded(x).relevance)
    assert repr(loaded.method) == repr(first.method)


def test_copies_may_leave_the_box_and_samples_may_not() -> None:
    model, x = cubes()
    x = np.clip(x, 0, 1)
    explainer = unchecked(model, x, "smoothgrad", noise=0.5, low=0.0, high=1.0)
    assert np.isfinite(explainer(x).relevance).all()
    with pytest.raises(ValueError, match=r"x: wanted values in \[low, high\]"):
        explainer(x + 1)


def test_what_is_refused() -> None:
    model, x = cubes()
    for name in ("noise", "std"):
        for wrong in (-0.1, np.inf):
            with pytest.raises(ValueError, match=f"{name}: wanted finite"):
                pyrel.methods.SmoothGrad(**{name: wrong})
    with pytest.raises(ValueError, match=r"std: .* broadcasts to one sample, \(4,\)"):
        unchecked(model, x, "smoothgrad", std=np.ones(3))
    with pytest.raises(ValueError, match="seed: wanted 0 to"):
        pyrel.methods.SmoothGrad(seed=-1)
