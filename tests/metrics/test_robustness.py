# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import numpy as np
import pytest

from pyrel import metrics
from pyrel.metrics import Noise, noise_sensitivity

EPS = np.finfo(np.float64).eps


def square(x, target):
    return x**2 * (1 + target[:, None, None])


@pytest.fixture
def x():
    return np.random.default_rng(0).random((7, 3, 2))


@pytest.mark.parametrize("reduce", ["max", "mean"])
def test_against_one_noisy_copy_at_a_time(x, reduce):
    target = np.arange(7) % 3
    noise = Noise(0.2, draws=4, low=0.0, high=1.0, seed=5)
    found = noise_sensitivity(square, x, target, noise, reduce=reduce)
    copies = np.random.Generator(np.random.PCG64(5)).random((4, *x.shape))
    noisy = np.clip(x + 0.2 * (2 * copies - 1), 0, 1)
    base = square(x, target)
    for i in range(len(x)):
        moved = [np.linalg.norm(square(n[i : i + 1], target[i : i + 1]) - base[i]) for n in noisy]
        wanted = (max(moved) if reduce == "max" else np.mean(moved)) / np.linalg.norm(base[i])
        np.testing.assert_allclose(found[i], wanted, rtol=64 * EPS)


def test_batches_and_progress(x):
    told = []
    whole = noise_sensitivity(square, x, 0, Noise(0.1, draws=3))
    small = Noise(0.1, draws=3, max_bytes=100)
    parts = noise_sensitivity(square, x, 0, small, progress=lambda *done: told.append(done))
    np.testing.assert_array_equal(parts, whole)
    assert told[-1] == (21, 21)
    assert len(told) == 3 * 4


def test_explanations_are_taken_as_explainers_give_them(x):
    given = noise_sensitivity(
        lambda x, target: SimpleNamespace(relevance=square(x, target)), x, 0, Noise(0.1)
    )
    np.testing.assert_array_equal(given, noise_sensitivity(square, x, 0, Noise(0.1)))


def test_noise_keeps_type_and_range(x):
    def explain(batch, target):
        assert batch.dtype == np.float32
        assert target.flags.writeable  # or torch warns
        assert batch.min() >= 0
        assert batch.max() <= 1
        return batch

    noise_sensitivity(explain, x.astype(np.float32), 0, Noise(0.5, low=0.0, high=1.0))


def test_empty_maps_are_left_out(x):
    x[2] = 0.0
    found = noise_sensitivity(square, x, 0, Noise(0.1))
    assert np.flatnonzero(np.isnan(found)).tolist() == [2]


def test_bad_input_is_named(x):
    noise = Noise(0.1)
    with pytest.raises(ValueError, match="radius: wanted a number above 0"):
        Noise(0.0)
    with pytest.raises(ValueError, match="draws: wanted a whole number"):
        Noise(0.1, draws=0)
    with pytest.raises(ValueError, match="x: NaN or infinity"):
        noise_sensitivity(square, x * np.nan, 0, noise)
    with pytest.raises(TypeError, match="x: wanted floats"):
        noise_sensitivity(square, np.ones((2, 3), int), 0, noise)
    with pytest.raises(ValueError, match=r"target: wanted a class or shape \(7,\)"):
        noise_sensitivity(square, x, [0, 1], noise)
    with pytest.raises(TypeError, match="target: wanted integers"):
        noise_sensitivity(square, x, 0.5, noise)
    with pytest.raises(ValueError, match="reduce: wanted 'max' or 'mean'"):
        noise_sensitivity(square, x, 0, noise, reduce="median")
    with pytest.raises(ValueError, match="explain: wanted relevance of shape"):
        noise_sensitivity(lambda x, target: x[:, 0], x, 0, noise)
    with pytest.raises(ValueError, match="explain: wanted finite"):
        noise_sensitivity(lambda x, target: x * np.nan, x, 0, noise)
    assert metrics.Summary.of(noise_sensitivity(square, x[:0], 0, noise)).used == 0
