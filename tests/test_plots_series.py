# SPDX-License-Identifier: Apache-2.0
"""Figures of one's own series and texts."""

from __future__ import annotations

import html
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle

from pyrel import plots
from pyrel.plots.heatmaps import DIVERGING

RNG = np.random.default_rng(0)
X, RELEVANCE = RNG.normal(size=(2, 9, 3))


def test_all_relevance_has_one_scale_centred_at_zero() -> None:
    figure = plots.series(X, RELEVANCE, features=["a", "b", "c"])
    above, below, *_ = figure.axes
    (mesh,) = below.collections
    np.testing.assert_array_equal(mesh.get_array(), RELEVANCE.T)
    largest = np.abs(RELEVANCE).max()
    assert mesh.get_clim() == (-largest, largest)
    assert to_hex(mesh.cmap(mesh.norm(0.0))) == "#ffffff"
    for axes in (above, below):
        assert [t.get_text() for t in axes.get_yticklabels()] == ["a", "b", "c"]
    assert above.get_ylim() == below.get_ylim() == (3, 0)  # a row stands where its name does


def test_each_feature_is_drawn_in_its_row_from_its_least_to_its_largest_value() -> None:
    flat = np.column_stack([X[:, :2], np.full(9, 4.0)])
    figure = plots.series(flat, RELEVANCE)
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 9]
    for i, line in enumerate(lines):
        drawn = np.asarray(line.get_ydata())
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 10))
        if i == 2:
            np.testing.assert_allclose(drawn, 2.5)
            continue
        assert drawn.max() == pytest.approx(i + 0.9) and drawn.min() == pytest.approx(i + 0.1)
        assert drawn.argmin() == X[:, i].argmax()  # upwards
        wanted = (X[:, i] - X[:, i].min()) / np.ptp(X[:, i])
        np.testing.assert_allclose(drawn, i + 0.9 - 0.8 * wanted, rtol=1e-12)
    (right,) = figure.axes[0].child_axes
    ends = [t.get_text().replace("−", "-") for t in right.get_yticklabels()]
    assert ends == [f"{c.min():.3g} to {c.max():.3g}" for c in X.T[:2]] + ["4"]


def test_a_single_feature_has_an_axis_of_its_values() -> None:
    figure = plots.series(X[:, 0], RELEVANCE[:, 0])
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_ydata(), X[:, 0])
    assert not figure.axes[0].child_axes


def test_relevance_stands_at_its_time() -> None:
    times = np.array([0.0, 1.0, 3.0, 4.0])
    figure = plots.series(X[:4], RELEVANCE[:4], time=times, time_label="hours")
    (mesh,) = figure.axes[1].collections
    np.testing.assert_array_equal(mesh.get_coordinates()[0, :, 0], [-0.5, 0.5, 2.0, 3.5, 4.5])
    assert figure.axes[1].get_xlabel() == "hours"
    one = plots.series(X[:1], RELEVANCE[:1])
    np.testing.assert_array_equal(one.axes[1].collections[0].get_coordinates()[0, :, 0], [0.5, 1.5])


def test_series_that_do_not_fit_are_refused() -> None:
    for given, message in [
        ((X, RELEVANCE[:4]), r"relevance: wanted the shape of x, \(9, 3\), given \(4, 3\)"),
        ((X[None], RELEVANCE), r"x: wanted shape \(steps, features\) or \(steps,\), given \(1, 9"),
        ((X[:0], RELEVANCE[:0]), "x: wanted shape"),
        ((X, np.where(RELEVANCE > 1, np.nan, RELEVANCE)), "relevance: wanted finite numbers"),
        ((np.where(X > 1, np.inf, X), RELEVANCE), "x: wanted finite numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            plots.series(*given)
    for options, message in [
        ({"features": ["a"]}, "features: wanted 3 names, given 1"),
        ({"time": [1, 2]}, r"time: wanted shape \(9,\), given \(2,\)"),
        ({"time": [0, *range(8)]}, "time: wanted finite ascending numbers"),
        ({"time": [*range(8), np.inf]}, "time: wanted finite ascending numbers"),
    ]:
        with pytest.raises(ValueError, match=message):
            plots.series(X, RELEVANCE, **options)


def test_a_word_has_the_colour_of_its_relevance() -> None:
    figure = plots.tokens(["not", "so", "good"], [-4.0, 0.0, 2.0], title="Review")
    axes = figure.axes[0]
    boxes = [p for p in axes.patches if isinstance(p, Rectangle)]
    wanted = [to_hex(DIVERGING(share)) for share in (0.0, 0.5, 0.75)]
    assert [to_hex(box.get_facecolor()) for box in boxes] == wanted
    assert [t.get_text() for t in axes.texts] == ["not", "so", "good"]
    assert [t.get_color() for t in axes.texts] == ["white", "black", "black"]
    (underline,) = axes.lines  # of what is against, for those who cannot tell colours apart
    assert list(underline.get_xdata()) == [0, 3]


def test_words_are_broken_into_lines_and_long_ones_in_parts() -> None:
    words = ["word"] * 40 + ["x" * 200, "", "日本", "\n"]
    with pytest.warns(UserWarning, match="missing from font"):
        figure = plots.tokens(words, np.ones(len(words)))
        figure.canvas.draw()
    axes = figure.axes[0]
    right = axes.get_xlim()[1]
    ends: dict[float, float] = {}
    for text in axes.texts:
        x, y = text.get_position()
        width = len(text.get_text()) + text.get_text().count("日") + text.get_text().count("本")
        assert x - width / 2 >= ends.get(y, -1) + 1
        ends[y] = x + width / 2
        assert ends[y] <= right
    shown = [t.get_text() for t in axes.texts]
    assert "".join(shown) == "word" * 40 + "x" * 200 + "·日本⏎"
    assert len(ends) > 5


def test_html_holds_the_words_as_text_and_their_numbers() -> None:
    words = ["<script>", "a&b", '"', "good"]
    made = plots.tokens_html(words, [-1.0, 0.5, -0.0, 2.0])
    found = re.findall(r'<span class="(\w+)" style="([^"]*)" title="([^"]*)">(.*?)</span>', made)
    assert [html.unescape(text) for *_, text in found] == words
    assert [kind for kind, *_ in found] == ["against", "for", "for", "for"]
    assert [title for *_, title, _ in found] == ["-1", "+0.5", "+0", "+2"]
    assert "<script" not in made
    strengths = [float(re.search(r"/ ([\d.]+)\)", style)[1]) for _, style, *_ in found]
    np.testing.assert_allclose(strengths, [0.35, 0.175, 0, 0.7], atol=5e-4)
    assert plots.tokens_html([], []).count("span") == 0


@pytest.mark.parametrize("function", [plots.tokens, plots.tokens_html])
def test_texts_that_do_not_fit_are_refused(function) -> None:
    with pytest.raises(ValueError, match=r"wanted 2 numbers, one for each token, given shape \(1,"):
        function(["a", "b"], [1.0])
    with pytest.raises(ValueError, match="finite"):
        function(["a"], [np.nan])
    with pytest.raises(ValueError, match="at least one"):
        plots.tokens([], [])
