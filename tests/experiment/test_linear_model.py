# SPDX-License-Identifier: Apache-2.0
"""The linear model: what estimators find of the signal."""

from __future__ import annotations

import numpy as np
import pytest

from pyrel.experiment import LinearModel, angle, root_mean_square_angles

DISTRACTORS = [(1.0, 1.0), (0.0, 1.0), (-1.0, 2.0), (3.0, 0.5)]


@pytest.mark.parametrize("distractor", DISTRACTORS)
def test_weights_read_the_signal_alone(distractor: tuple[float, float]) -> None:
    model = LinearModel(distractor=distractor)
    x, y = model.draw(1000, np.random.default_rng(0))
    np.testing.assert_allclose(x @ model.weight, y, atol=1e-13)
    assert np.abs(y).max() <= 1


@pytest.mark.parametrize("count", [100, 1000])
@pytest.mark.parametrize("deviation", [0.5, 1.0])
def test_the_linear_estimator_is_off_by_what_sampling_allows(count: int, deviation: float) -> None:
    model = LinearModel(deviation=deviation)
    wanted = deviation * np.sqrt(3.0) / np.sqrt(count)
    assert model.expected_angle(count) == pytest.approx(wanted)
    assert root_mean_square_angles(model, count)["linear"] == pytest.approx(wanted, rel=0.15)


@pytest.mark.parametrize("distractor", DISTRACTORS)
def test_gradient_and_filter_turn_with_the_distractor(distractor: tuple[float, float]) -> None:
    """They are across the distractor, whatever was drawn."""
    model = LinearModel(distractor=distractor)
    found = root_mean_square_angles(model, 50, draws=5)
    across = np.pi / 2 - angle(model.signal, distractor)
    assert found["gradient"] == pytest.approx(across, abs=1e-9)
    assert found["filter"] == pytest.approx(across, abs=1e-9)
    assert root_mean_square_angles(model, 5000, draws=5)["linear"] < 0.1


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(ValueError, match="parallel"):
        LinearModel(distractor=(-2.0, 0.0))
    with pytest.raises(ValueError, match="two numbers each"):
        LinearModel(signal=(1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="deviation: wanted 0 or more"):
        LinearModel(deviation=-1.0)
