# SPDX-License-Identifier: Apache-2.0
"""The two-digit experiment in small: training, the four methods and their measures."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import pyrel
from pyrel.experiment.reproduce import Settings, experiment_of
from pyrel.experiment.two_digit import METHODS, Maps, RootSearch, judged, run_two_digit
from pyrel.experiment.two_digit_training import TwoDigitTraining, train_two_digit
from pyrel.training import TrainingDivergedError

SMALL = TwoDigitTraining(iterations=150, layers=((40, 10), (20, 1)), seed=3)


@pytest.fixture(scope="module")
def images() -> tuple[np.ndarray, np.ndarray]:
    return pyrel.data.load_images("mnist-mini", "train")


def test_training_lowers_both_errors_and_keeps_biases_below_zero(images) -> None:
    said: list[tuple[int, int]] = []
    state = torch.random.get_rng_state()
    trained = train_two_digit(images, SMALL, lambda *a: said.append(a))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert said == [(100, 150), (150, 150)]
    first, last = trained.history
    assert last["network"] < first["network"]
    assert last["model"] < first["model"]
    biases = torch.cat([layer.bias for layer in trained.network.linear])
    assert biases.max() <= 0
    assert (biases < 0).any()
    again = train_two_digit(images, SMALL)
    for one, other in zip(trained.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_rate_that_is_too_large_is_told(images) -> None:
    with pytest.raises(TrainingDivergedError, match="try a smaller learning rate"):
        train_two_digit(images, TwoDigitTraining(iterations=100, learning_rate=1e38))


def test_what_a_run_finds(images) -> None:
    test = pyrel.data.load_images("mnist-mini", "test")
    search = RootSearch(sharpness=(1.0, 2.0), smooth_iterations=30)
    numbers, arrays = run_two_digit(images, test, SMALL, search, samples=30, shown=5)
    json.dumps(numbers, allow_nan=False)
    assert list(numbers["methods"]) == list(METHODS)
    free = numbers["methods"]["deep_taylor"]
    assert free["largest error"] <= 1e-5
    assert free["consistent"] == 1.0
    assert free["least"] >= 0
    assert numbers["methods"]["deep_taylor_minmax"]["positive"] == 1.0
    assert numbers["methods"]["sensitivity"]["conservative"] < 1.0
    for name in ("nearest_root", "nearest_smooth_root"):
        assert numbers["methods"][name]["found"] > 0.9
    assert arrays["x"].shape == arrays["relevance deep_taylor"].shape == (5, 28, 56)
    np.testing.assert_allclose(arrays["sum deep_taylor"], arrays["output"], rtol=1e-5)


def test_measures_of_known_maps(images) -> None:
    """Twice the output, all on the left, of four pairs; the last has no map."""
    samples = pyrel.data.two_digits(*images, 200, seed=0)
    left = np.flatnonzero(samples.relevant[:, 0] & ~samples.relevant[:, 1])[:2]
    right = np.flatnonzero(~samples.relevant[:, 0] & samples.relevant[:, 1])[:2]
    chosen = np.concatenate([left, right])
    few = type(samples)(*(part[chosen] for part in vars(samples).values()))
    output = np.array([1.0, 2.0, 4.0, 5.0], np.float32)
    relevance = np.zeros((4, 28, 56), np.float32)
    relevance[:, 5, 3] = 2 * output
    relevance[3] = np.nan
    found = judged(Maps(relevance, 0.5), output, few)
    assert found["found"] == 0.75
    assert found["conservation"]["slope"] == pytest.approx(2)
    assert found["conservation"]["median_error"] == pytest.approx(1)
    assert found["largest error"] == pytest.approx(0.5)
    assert (found["conservative"], found["positive"], found["against"]) == (0.0, 1.0, 0.0)
    assert found["wanted digit"] == {
        "mean": pytest.approx(2 / 3), "samples": 3, "left out": 0
    }  # fmt: skip


def test_settings_of_the_paper() -> None:
    """What section 6.1 gives, and the seeds."""
    runs = experiment_of("two-digit")(Settings(seeds=2)).runs()
    assert [run.name for run in runs] == ["seed-0", "seed-1"]
    training = runs[1].settings["training"]
    assert (training["batch_size"], training["seed"]) == (20, 1)
    assert training["layers"] == ((400, 100), (400, 1))
    assert runs[1].settings["search"]["sharpness"][-1] == 64
