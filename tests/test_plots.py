# SPDX-License-Identifier: Apache-2.0
import itertools
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from unittest import mock

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from studies import STEPS, WIDTH, make_study

from pyrel import metrics, plots
from pyrel.plots.planes import DirectionPanel, directions_grid
from pyrel.plots.style import BLUE, GREEN, ORANGE, styled


def columns(study, k=0, relevant=True, **changes):
    return [
        plots.HeatmapColumn(
            title=name,
            x=study.shown.x[k],
            relevance={m: maps[k, study.shown.y[k]] for m, maps in cell.heatmaps.items()},
            relevant=study.shown.relevant[k] if relevant else None,
            **changes,
        )
        for name, cell in study.cells.items()
    ]


def profiles(study, method="deep_taylor"):
    return {
        name: metrics.step_profiles(cell.evaluations[method].step_shares, study.relevant)
        for name, cell in study.cells.items()
    }


def mass(study):
    return metrics.step_profiles(study.baselines["pixel_mass"].step_shares, study.relevant)


def unmarked(study):
    """Profiles over all samples, in which no step is known to be relevant."""
    pixels = metrics.step_profiles(study.baselines["pixel_mass"].step_shares)
    cells = {
        name: metrics.step_profiles(cell.evaluations["deep_taylor"].step_shares)
        for name, cell in study.cells.items()
    }
    return cells, pixels


def directions(study):
    """Give panels of which the title is as long as a name."""
    x = study.shown.x[:, :2, 14, 3]
    signal, other = np.array([1.0, 0.0]), np.array([-1.0, 1.0])
    arrows = {"signal": signal, "distractor": other, "weights": signal + other, "pattern": signal}
    return [DirectionPanel(f"{name} {k}", x, x[:, 0], arrows) for name in study.cells for k in "ab"]


def points(study):
    cell = list(study.cells.values())[-1]
    return {m: (e.output, e.total) for m, e in cell.evaluations.items()}


def shares(study):
    return {n: {m: e.share for m, e in c.evaluations.items()} for n, c in study.cells.items()}


def baselines(study):
    return {m: e.share for m, e in study.baselines.items()}


def curves(study, methods=("sensitivity", "deep_taylor")):
    """Curves that fall from the outputs to nothing, each in its own way."""
    removed = np.arange(6)
    output = list(study.cells.values())[-1].evaluations["deep_taylor"].output
    return {
        f"{cell}, {method}": metrics.Degradation(
            removed, output[:, None] * (1 - removed / 5) ** (1 + i)
        )
        for cell in study.cells
        for i, method in enumerate(methods)
    }


def random_curve(study):
    return next(iter(curves(study).values()))


def histograms(study):
    return {
        f"{cell}, {method}": metrics.relevance_histogram(maps)
        for cell, result in study.cells.items()
        for method, maps in result.heatmaps.items()
    }


def many_histograms(study):
    """Counts up to millions, and relevance of all sizes, as a whole data set gives."""
    rng = np.random.default_rng(0)
    name = next(iter(study.cells))
    return {
        f"{name}, {scale:g}": metrics.RelevanceHistogram(
            scale * np.arange(-shift, 41 - shift), np.sort(10 ** rng.uniform(0, 6.5, 40))[::-1], 0
        )
        for shift, scale in ((0, 6.0), (2, 2e-7), (20, 0.01), (0, 3e4), (7, 0.3))
    }


def one_series(study):
    """Give a series of three features and its relevance."""
    maps = study.cells[next(iter(study.cells))].heatmaps["sensitivity"]
    return study.shown.x[1].mean(axis=1)[:, :3], maps[1, study.shown.y[1]].sum(axis=1)[:, :3]


FIGURES = {
    "heatmaps": lambda s: plots.heatmap_grid(
        columns(s, notes={"deep_taylor": "0.71"}), "Sample 1", "number: share in them"
    ),
    "heatmaps, one cell": lambda s: plots.heatmap_grid(columns(s)[:1], "Sample 1", "number: share"),
    "step bars": lambda s: plots.step_bars(profiles(s), mass(s), "Deep Taylor"),
    "step bars, one cell": lambda s: plots.step_bars(dict([profiles(s).popitem()]), mass(s)),
    "step bars, unmarked": lambda s: plots.step_bars(
        *unmarked(s), "Class 1, 3 seeds", errors="95 % interval over seeds"
    ),
    "scatter": lambda s: plots.conservation_scatter(points(s), list(s.cells)[-1]),
    "scatter, three": lambda s: plots.conservation_scatter(
        points(s) | {"LRP alpha beta, textbook": points(s)["deep_taylor"]}
    ),
    "dots": lambda s: plots.summary_dots(shares(s), baselines(s), "share in the majority steps"),
    "degradation": lambda s: plots.degradation_curves(curves(s), random_curve(s), title="Deep"),
    "degradation, many": lambda s: plots.degradation_curves(
        curves(s, [f"LRP of a long name, {i}" for i in range(7)])
    ),
    "histograms": lambda s: plots.relevance_histograms(histograms(s), "Relevance of the pixels"),
    "histograms, many": lambda s: plots.relevance_histograms(many_histograms(s)),
    "directions": lambda s: directions_grid(directions(s), "A signal and what reads it"),
    "series": lambda s: plots.series(
        *one_series(s), features=[*s.cells, *s.cells][:3], time_label="hours", title="Class 3"
    ),
    "series, one feature": lambda s: plots.series(*(a[:, 0] for a in one_series(s))),
    "series, many features": lambda s: plots.series(
        *(np.tile(a, 30) for a in one_series(s)), features=[list(s.cells)[0]] * 90
    ),
    "tokens": lambda s: plots.tokens([*s.cells, "a", "\n"] * 8, np.linspace(-1, 2, 32), title="A"),
    "tokens, one": lambda s: plots.tokens(["".join(s.cells) * 5], [-1e-9]),
    "histograms, one": lambda s: plots.relevance_histograms(dict([histograms(s).popitem()])),
}


LONG = ("Deep with stationary dropout", "ConvDeep with literal connections")


@pytest.fixture(scope="module", params=FIGURES.values(), ids=FIGURES.keys())
def build(request):
    return request.param


@pytest.fixture(
    scope="module", params=[("Shallow", "Deep"), LONG], ids=["short names", "long names"]
)
def figure(request, build):
    return build(make_study(signed=True, names=request.param))


@pytest.fixture(scope="module")
def texts(figure):
    return visible_texts(figure)


def visible_texts(figure):
    """Give each text that is drawn and its box in pixels."""
    drawn = []
    original = Text.draw

    def record(text, renderer, *args, **kwargs):
        original(text, renderer, *args, **kwargs)
        if text.get_visible() and text.get_text().strip():
            drawn.append((text.get_text(), text.get_window_extent(renderer)))

    with mock.patch.object(Text, "draw", record):
        styled(figure.canvas.draw)()  # as in an SVG: matplotlib makes ticks when it draws
    return drawn


def test_no_text_leaves_its_figure(figure, texts):
    width, height = figure.get_size_inches() * figure.dpi
    for text, box in texts:
        # A pixel of antialiasing.
        assert box.x0 >= -1 and box.x1 <= width + 1, text
        assert box.y0 >= -1 and box.y1 <= height + 1, text


def test_no_two_texts_overlap(texts):
    for i, (first, a) in enumerate(texts):
        for second, b in texts[:i]:
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            up = min(a.y1, b.y1) - max(a.y0, b.y0)
            # Boxes hold the font's full height, which neighbouring lines may share in part.
            assert across <= 1 or up <= 0.25 * min(a.height, b.height), (first, second)


def test_numbers_of_an_axis_stand_apart_and_its_panel_is_large_enough(figure):
    """Numbers without a space of the font between them read as one."""
    styled(figure.canvas.draw)()
    for axes in figure.axes:
        for axis, other, least in ((axes.xaxis, "x", 0.9), (axes.yaxis, "y", 0.4)):
            labels = [label for label in axis.get_ticklabels() if label.get_text()]
            boxes = [label.get_window_extent() for label in labels if label.get_visible()]
            if not axes.axison or not boxes:
                continue
            ends = sorted((getattr(b, f"{other}0"), getattr(b, f"{other}1")) for b in boxes)
            # Boxes hold the font's full height, so that lines one above the other may touch.
            space = 0.3 * labels[0].get_fontsize() / 72 * figure.dpi if other == "x" else 0
            gaps = [after[0] - before[1] for before, after in itertools.pairwise(ends)]
            assert all(gap >= space for gap in gaps), [label.get_text() for label in labels]
            size = axes.get_window_extent().width if other == "x" else axes.bbox.height
            assert size >= least * figure.dpi


def test_text_is_large_enough_to_read(figure):
    for text in figure.findobj(Text):
        if text.get_visible() and text.get_text():
            assert text.get_fontsize() >= 7.5, text.get_text()


def test_svg_is_well_formed_and_the_same_every_time(build):
    svg = plots.to_svg(build(make_study()))
    ET.fromstring(svg)
    assert svg == plots.to_svg(build(make_study()))
    # The style shows a formula as it is written, so that none may be in what pyrel writes itself.
    assert not re.search(r"mathdefault|\$", svg)


def test_caller_settings_stay_and_pyplot_is_not_needed():
    before = dict(matplotlib.rcParams)
    plots.to_svg(plots.heatmap_grid(columns(make_study())))
    assert dict(matplotlib.rcParams) == before
    code = "import sys, pyrel.plots, pyrel.report; sys.exit('matplotlib.pyplot' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_steps_are_put_side_by_side_as_the_picture_they_were_cut_from():
    picture = np.arange(28 * 84).reshape(28, 84)
    steps = np.stack(np.split(picture, 12, axis=1))
    np.testing.assert_array_equal(plots.as_image(steps), picture)
    with pytest.raises(
        ValueError, match=r"wanted shape \(steps, height, width\), given \(28, 84\)"
    ):
        plots.as_image(picture)


def test_channels_are_added_up():
    rng = np.random.default_rng(0)
    x, relevance = rng.random((3, 5, 4)), rng.normal(size=(3, 5, 4))
    np.testing.assert_allclose(plots.as_image(relevance, "channels"), relevance.sum(axis=0))
    column = plots.HeatmapColumn(
        "a", x, {"r": relevance, "s": np.abs(relevance)}, layout="channels"
    )
    figure = plots.heatmap_grid([column])
    drawn = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    for picture, given in zip(drawn, (x, relevance, np.abs(relevance)), strict=False):
        np.testing.assert_allclose(picture, given.sum(axis=0))
    # The key is that of the sums: each is above 0, some channels are not.
    above = np.stack([np.full((5, 4), 3.0), *np.full((2, 5, 4), -1.0)])
    key = plots.heatmap_grid([plots.HeatmapColumn("a", x, {"r": above}, layout="channels")])
    assert "relevance: none to most" in [text.get_text() for text in key.findobj(Text)]
    panels = plots.method_panels([("a", x)], {"r": [relevance]}, layout="channels")
    drawn = [axes.images[0].get_array() for axes in panels.axes if axes.images]
    np.testing.assert_allclose(drawn[1], relevance.sum(axis=0))
    with pytest.raises(ValueError, match="layout: wanted 'sequence' or 'channels', given 'rows'"):
        plots.as_image(x, "rows")


@pytest.mark.parametrize(
    ("relevance", "low", "high"),
    [([0.0, 4.0], 0, 4), ([-1.0, 3.0], -3, 3), ([-5.0, 3.0], -5, 5), ([0.0, 0.0], 0, 1)],
    ids=["nonnegative", "signed", "mostly negative", "empty"],
)
def test_signed_maps_are_centred_at_zero_and_zero_is_white(relevance, low, high):
    colours, lower, upper = plots.colour_scale(relevance)
    assert (lower, upper) == (low, high)
    assert to_hex(colours((0.0 - lower) / (upper - lower))) == "#ffffff"
    dark = [sum(colours((v - lower) / (upper - lower))[:3]) for v in np.linspace(0, upper, 50)]
    assert (np.diff(dark) <= 1e-9).all()


def test_grid_shows_each_map_unclipped_below_its_input():
    study = make_study(signed=True)
    figure = plots.heatmap_grid(columns(study))
    pictures = [axes.images[0] for axes in figure.axes if axes.images]
    cells = list(study.cells.values())
    wanted = [
        image
        for cell in cells
        for image in (
            study.shown.x[0],
            *(maps[0, study.shown.y[0]] for maps in cell.heatmaps.values()),
        )
    ]
    assert len(pictures) == len(wanted)
    for picture, image in zip(pictures, wanted, strict=True):
        np.testing.assert_array_equal(picture.get_array(), plots.as_image(image))
    signed = cells[0].heatmaps["sensitivity"][1, study.shown.y[1]]
    figure = plots.heatmap_grid(columns(study, k=1))
    largest = np.abs(signed).max()
    assert figure.axes[1].images[0].get_clim() == (-largest, largest)


def test_green_bars_are_below_the_majority_steps_and_nowhere_else():
    study = make_study()
    figure = plots.heatmap_grid(columns(study))
    for axes in figure.axes[:3]:
        bars = [p for p in axes.patches if isinstance(p, Rectangle) and p.get_fill()]
        marked = [int((bar.get_x() + bar.get_width() / 2) // WIDTH) for bar in bars]
        assert marked == np.flatnonzero(study.shown.relevant[0]).tolist()
        assert {to_hex(bar.get_facecolor()) for bar in bars} == {GREEN}
        assert all(bar.get_y() > 28 for bar in bars)
    unmarked = plots.heatmap_grid(columns(study, relevant=False))
    assert not [p for a in unmarked.axes for p in a.patches if p.get_fill()]
    assert "steps of the majority" not in [t for t, _ in visible_texts(unmarked)]


def test_empty_map_says_so_and_a_missing_method_leaves_a_gap():
    study = make_study()
    texts = [t for t, _ in visible_texts(plots.heatmap_grid(columns(study)))]
    assert texts.count("empty: all relevance is 0") == 2
    first, second = columns(study, k=1)
    second.relevance.pop("sensitivity")
    figure = plots.heatmap_grid([first, second])
    assert [bool(axes.images) for axes in figure.axes[:6]] == [True, True, True, True, False, True]
    assert [t for t, _ in visible_texts(figure)].count("sensitivity") == 1


def test_notes_stand_above_their_maps():
    figure = plots.heatmap_grid(columns(make_study(), k=1, notes={"deep_taylor": "0.71"}))
    titles = [(axes.get_title("left"), axes.get_title("right")) for axes in figure.axes[:3]]
    assert titles == [("Shallow", ""), ("sensitivity", ""), ("deep_taylor", "0.71")]


def test_bars_are_the_mean_shares_and_the_majority_is_marked():
    study = make_study()
    wanted, pixels = profiles(study), mass(study)
    figure = plots.step_bars(wanted, pixels)
    panels = np.array(figure.axes).reshape(len(pixels), len(wanted))
    for j, column in enumerate(wanted.values()):
        for i, profile in enumerate(column):
            patches = panels[i, j].patches
            bars = [p for p in patches if to_hex(p.get_facecolor()) == BLUE]
            np.testing.assert_array_equal([b.get_height() for b in bars], profile.mean)
            marks = [p for p in patches if to_hex(p.get_facecolor()) == GREEN]
            steps = [round(m.get_x() + m.get_width() / 2) - 1 for m in marks]
            assert steps == np.flatnonzero(profile.relevant).tolist()
            lines = [line.get_ydata() for line in panels[i, j].lines]
            assert any(np.array_equal(line, pixels[i].mean) for line in lines)
            assert any(np.array_equal(line, [1 / STEPS] * 2) for line in lines)


def test_bars_have_a_key_of_what_is_drawn_alone():
    study = make_study()
    base = ["relevance", "pixel mass", "even share"]
    marked = plots.step_bars(profiles(study), mass(study))
    assert key_of(marked) == [*base, "standard error", "majority"]
    cells, pixels = unmarked(study)
    assert key_of(plots.step_bars(cells, pixels, errors="interval")) == [*base, "interval"]
    exact = {n: [replace(p, standard_error=np.full(STEPS, np.nan))] for n, (p,) in cells.items()}
    assert key_of(plots.step_bars(exact, pixels)) == base


def key_of(figure):
    (legend,) = figure.legends
    return [text.get_text() for text in legend.get_texts()]


def test_bars_say_of_how_many_maps_they_are_the_mean_and_leave_room_for_it():
    study = make_study()
    figure = plots.step_bars(profiles(study), mass(study))
    figure.canvas.draw()
    column = [profile for of in zip(*profiles(study).values(), strict=True) for profile in of]
    for axes, profile in zip(figure.axes, column, strict=True):
        (text,) = axes.texts
        assert text.get_text() == f"{profile.used} maps"
        lowest = text.get_window_extent().y0
        assert all(bar.get_window_extent().y1 < lowest for bar in axes.patches)


def test_scatter_has_every_sample_and_the_identity_line():
    study = make_study()
    output, total = points(study)["sensitivity"]
    axes = plots.conservation_scatter(points(study)).axes[0]
    identity, dots = axes.lines
    np.testing.assert_array_equal(identity.get_xdata(), identity.get_ydata())
    assert identity.get_xdata().tolist() == [output.min(), output.max()]
    np.testing.assert_array_equal(dots.get_xdata(), output)
    np.testing.assert_array_equal(dots.get_ydata(), total)


def test_dots_have_a_mark_for_each_cell_and_method_and_a_line_for_each_baseline():
    study = make_study()
    (axes,) = plots.summary_dots(shares(study), baselines(study), "share").axes
    marks = [c.lines[0].get_xdata() for c in axes.containers]
    np.testing.assert_array_equal(
        marks, [[s.mean for s in methods.values()] for methods in shares(study).values()]
    )
    lines = [line.get_xdata()[0] for line in axes.lines if len(set(line.get_xdata())) == 1]
    assert {s.mean for s in baselines(study).values()} <= set(lines)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["sensitivity", "deep_taylor"]


def test_curves_are_the_means_inside_their_bands():
    study = make_study()
    wanted = curves(study)
    (axes,) = plots.degradation_curves(wanted, random_curve(study), level=0.5).axes
    random, *lines = axes.lines
    assert random.get_label() == "random order"
    np.testing.assert_array_equal(random.get_ydata(), random_curve(study).mean)
    bands = axes.collections[1:]
    for curve, line, band in zip(wanted.values(), lines, bands, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), curve.removed)
        np.testing.assert_array_equal(line.get_ydata(), curve.mean)
        heights = band.get_paths()[0].vertices[:, 1]
        low, high = curve.band(0.5)
        assert set(heights) == {*low, *high}
    many = plots.degradation_curves(curves(study, range(9)))
    looks = {(line.get_color(), line.get_linestyle()) for line in many.axes[0].lines}
    assert len(looks) == 18


def test_histograms_have_a_bar_for_each_bin_and_a_colour_for_each_sign():
    study = make_study(signed=True)
    histogram = histograms(study)["Deep, sensitivity"]
    (axes,) = plots.relevance_histograms({"Deep": histogram}).axes
    assert axes.get_yscale() == "log"
    against, positive = axes.patches
    assert [to_hex(bars.get_facecolor()) for bars in axes.patches] == [BLUE, ORANGE]
    below = histogram.edges[1:] <= 0
    assert 0 < below.sum() < len(below)
    for bars, shown in ((against, below), (positive, ~below)):
        heights, edges, floor = bars.get_data()
        np.testing.assert_array_equal(edges, histogram.edges)
        drawn = np.where(heights > floor, heights, 0)
        np.testing.assert_array_equal(drawn, np.where(shown, histogram.counts, 0))


def test_names_are_taken_as_they_are():
    study = make_study(names=("$\\frac{$", "a_b^c & <b>"))
    for build in (FIGURES["heatmaps"], FIGURES["step bars"], FIGURES["dots"]):
        texts = "".join(ET.fromstring(plots.to_svg(build(study))).itertext())
        assert "$\\frac{$" in texts
        assert "a_b^c & <b>" in texts


def test_bad_input_is_named():
    study = make_study()
    column = columns(study)[0]
    with pytest.raises(ValueError, match="columns: wanted at least one"):
        plots.heatmap_grid([])
    column.relevance["deep_taylor"] = np.zeros((12, 28, 6))
    with pytest.raises(ValueError, match=r"Shallow, deep_taylor: wanted .* given \(12, 28, 6\)"):
        plots.heatmap_grid([column])
    with pytest.raises(ValueError, match="Deep has other arrangements"):
        plots.step_bars({"Deep": profiles(study)["Deep"][:2]}, mass(study))
    with pytest.raises(ValueError, match="at least, given none"):
        plots.step_bars({}, mass(study))
    with pytest.raises(ValueError, match="at least one panel"):
        plots.conservation_scatter({})
    with pytest.raises(ValueError, match=r"x wanted two arrays .* given \(2,\), \(3,\)"):
        plots.conservation_scatter({"x": (np.ones(2), np.ones(3))})
    with pytest.raises(ValueError, match="curves: wanted at least one"):
        plots.degradation_curves({})
    with pytest.raises(ValueError, match="level: wanted a number between 0 and 1"):
        plots.degradation_curves(curves(study), level=95)
    with pytest.raises(ValueError, match="histograms: wanted at least one panel"):
        plots.relevance_histograms({})
    with pytest.raises(ValueError, match="at least one cell with one method"):
        plots.summary_dots({"Deep": {}}, {}, "share")


def test_method_panels_put_methods_beyond_the_width_below() -> None:
    rng = np.random.default_rng(0)
    samples = [(name, rng.random((2, 6, 3))) for name in "ab"]
    maps = {name: list(rng.normal(size=(2, 2, 6, 3))) for name in "pqrst"}
    maps["t"][1] = np.zeros((2, 6, 3))
    figure = plots.method_panels(samples, maps, columns=4)
    pictures = [axes for axes in figure.axes if axes.images]
    inputs = [axes.images[0].get_array() for axes in pictures[0:4:4]]
    np.testing.assert_array_equal(inputs[0], plots.as_image(samples[0][1]))
    # Three methods and the input side by side, then the other two, for each of two samples.
    assert len(pictures) == 2 * 4 + 2 * 3
    assert [axes.get_title(loc="left") for axes in pictures if axes.get_title(loc="left")] == [
        *"pqrst"
    ]
    np.testing.assert_array_equal(pictures[-2].images[0].get_array(), plots.as_image(maps["s"][1]))
    assert [text.get_text() for text in pictures[-1].texts] == ["empty"]
    names = [text.get_text() for text in figure.texts]
    assert names.count("a") == names.count("b") == 2
    with pytest.raises(ValueError, match="p: wanted 1 maps, given 2"):
        plots.method_panels(samples[:1], maps)
    with pytest.raises(ValueError, match="columns"):
        plots.method_panels(samples, maps, columns=1)
    with pytest.raises(ValueError, match="at least one"):
        plots.method_panels(samples, {})
