# SPDX-License-Identifier: Apache-2.0
"""The linear model: what estimators find of the signal."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import same_color

from pyrel.experiment import (
    LinearModel,
    angle,
    linear_model_figure,
    root_mean_square_angles,
)

DISTRACTORS = [(1.0, 1.0), (0.0, 1.0), (-1.0, 2.0), (3.0, 0.5)]


@pytest.mark.parametrize("distractor", DISTRACTORS)
def test_weights_read_the_signal_alone(distractor: tuple[float, float]) -> None:
    model = LinearModel(distractor=distractor)
    x, y = model.draw(1000, np.random.default_rng(0))
    np.testing.assert_allclose(x @ model.weight, y, atol=1e-13)
    assert np.abs(y).max() <= 1


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [100, 1_000, 10_000])
def test_the_linear_estimator_is_off_by_what_sampling_allows(count: int, seed: int) -> None:
    """Root of the mean of 200 squares: within three standard errors of what is expected.

    The mean of φ² has the variance (E φ⁴ − (E φ²)²) / 200, its root 1 / (2 √E φ²) of the deviation.
    """
    model = LinearModel()
    square, fourth = (model.moment_of_angle(count, order) for order in (2, 4))
    error = np.sqrt((fourth - square**2) / 200) / (2 * np.sqrt(square))
    found = root_mean_square_angles(model, count, draws=200, seed=seed)["linear"]
    assert abs(found - np.sqrt(square)) <= 3 * error


@pytest.mark.parametrize("distractor", DISTRACTORS)
@pytest.mark.parametrize("deviation", [0.5, 1.0])
def test_the_moment_is_that_of_many_draws(
    distractor: tuple[float, float], deviation: float
) -> None:
    """S_a by its formula, of 20,000 draws: within four standard errors, some 2 % of the root."""
    model, n, draws = LinearModel((0.5, 1.0), distractor, deviation), 60, 20_000
    random = np.random.default_rng(1)
    x, y = model.draw(n * draws, random)
    x, y = x.reshape(draws, n, 2), y.reshape(draws, n)
    y -= y.mean(axis=1, keepdims=True)
    a = np.einsum("dni,dn->di", x, y) / (y**2).sum(axis=1)[:, None]
    squares = np.array([angle(each, model.signal) for each in a]) ** 2
    error = squares.std() / np.sqrt(draws)
    assert abs(squares.mean() - model.moment_of_angle(n)) <= 4 * error


def test_the_moment_is_that_of_the_first_order_for_many_samples() -> None:
    """E φ² = s² (1 + 7 s²) to the next order for these directions, and 1.8 / n of var(y)."""
    model, n = LinearModel(), 100_000
    s = model.first_order_angle(n)
    assert s == pytest.approx(np.sqrt(3.0 / n))
    # The next terms are of s⁴, by its coefficients less than 1000 s⁴.
    ratio = model.moment_of_angle(n) / s**2
    assert abs(ratio - 1 - 7 * s**2 - 1.8 / n) <= 1000 * s**4


def test_random_directions_are_drawn_by_seed_and_draw() -> None:
    one, other = (root_mean_square_angles(LinearModel(), 20, 50, seed) for seed in (0, 1))
    assert one["random"] != other["random"]
    assert one == root_mean_square_angles(LinearModel(), 20, 50, 0)


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
    for given in ((9,), (10.5,), (np.nan,), (100, 0)):
        with pytest.raises(ValueError, match="count, order: wanted a whole number from 10 on"):
            LinearModel().moment_of_angle(*given)


def test_arrows_of_the_figure_point_where_they_should() -> None:
    """The signal stays, the weights are across each distractor, the pattern is at the signal."""
    distractors = ((1.0, 1.0), (-1.0, 1.0))
    figure = linear_model_figure(distractors, count=400)
    assert [axes.get_title() for axes in figure.axes] == [
        "distractor (1, 1)", "distractor (−1, 1)"
    ]  # fmt: skip
    (legend,) = figure.legends
    *arrows, dots = legend.get_lines()
    assert dots.get_label() == "sample, darker: larger y"
    colours = {line.get_label(): line.get_color() for line in arrows}
    off = LinearModel(deviation=0.5).first_order_angle(400)
    for axes, distractor in zip(figure.axes, distractors, strict=True):
        assert all(arrow.xyann == (0, 0) for arrow in axes.texts)
        drawn = [
            next(np.array(a.xy) for a in axes.texts if same_color(a.arrow_patch.get_edgecolor(), c))
            for c in colours.values()
        ]
        np.testing.assert_allclose(np.linalg.norm(drawn, axis=1), 1.0, rtol=1e-12)
        signal, other, weights, pattern = drawn
        np.testing.assert_array_equal(signal, [1.0, 0.0])
        np.testing.assert_allclose(other, np.array(distractor) / np.sqrt(2), rtol=1e-12)
        assert abs(weights @ other) <= 1e-12
        assert weights @ signal > 0
        assert angle(pattern, signal) <= 4 * off  # of one draw, normal to first order
        assert pattern @ signal > 0
        # The pattern lies upon the signal, and both are seen: it is thinner, and drawn over it.
        below, above = (
            next(a for a in axes.texts if same_color(a.arrow_patch.get_edgecolor(), colours[name]))
            for name in ("signal", "pattern a of S_a")
        )
        assert below.arrow_patch.get_linewidth() > 2 * above.arrow_patch.get_linewidth()
        assert below.get_zorder() < above.get_zorder()


def test_a_figure_needs_a_distractor() -> None:
    with pytest.raises(ValueError, match="one at least"):
        linear_model_figure(())
