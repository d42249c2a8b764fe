# SPDX-License-Identifier: Apache-2.0
"""Figures of measures over many samples: degradation curves and histograms of relevance."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from pyrel.metrics import Degradation, RelevanceHistogram
from pyrel.plots.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    TEXT,
    WIDTH,
    log_ticks,
    new_figure,
    styled,
    wrapped,
)

_COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00")
# Where the bars of a logarithmic scale begin: below one element.
_FLOOR = 0.5
_DASHES = ("-", "--", ":", "-.")


@styled
def degradation_curves(
    curves: Mapping[str, Degradation],
    random: Degradation | None = None,
    *,
    level: float = 0.95,
    label: str = "probability of the class",
    regions: str = "patches replaced",
    title: str | None = None,
) -> Figure:
    """Draw the mean score against how many regions are replaced, with confidence bands.

    Seminar on PatternNet, figure 5; Samek et al. (2017). With the most relevant
    regions first, a curve that falls faster is that of a better explanation.

    Parameters
    ----------
    curves
        By method, from `pyrel.metrics.degradation`.
    random
        From `pyrel.metrics.random_degradation`, drawn in grey.
    level
        Of the bands.
    label, regions
        What the axes show.
    title
        Text above the figure.

    Raises
    ------
    ValueError
        If there is no curve, or the level is not between 0 and 1.
    """
    if not curves:
        raise ValueError("curves: wanted at least one, given none")
    names = [wrapped(name, 1.4, bold=False) for name in curves]
    lines = -(-(len(names) + (random is not None)) // 2) * max(n.count("\n") + 1 for n in names)
    figure = new_figure((WIDTH, 2.9 + 0.17 * lines), layout="constrained")
    axes = figure.subplots()
    if random is not None:
        _curve(axes, random, level, "random order", MUTED, "-")
    for i, (name, curve) in enumerate(zip(names, curves.values(), strict=True)):
        dash = _DASHES[i // len(_COLOURS) % len(_DASHES)]
        _curve(axes, curve, level, name, _COLOURS[i % len(_COLOURS)], dash)
    axes.set_xlabel(regions)
    axes.set_ylabel(label)
    axes.margins(x=0.02)
    figure.legend(loc="outside lower center", ncols=2, columnspacing=1.2, handletextpad=0.5)
    if title:
        figure.suptitle(wrapped(title, WIDTH), size=TEXT, weight="bold")
    return figure


def _curve(axes: Axes, curve: Degradation, level: float, name: str, colour: str, dash: str) -> None:
    low, high = curve.band(level)
    axes.fill_between(curve.removed, low, high, color=colour, alpha=0.25, linewidth=0)
    axes.plot(curve.removed, curve.mean, color=colour, linestyle=dash, linewidth=1.3, label=name)


@styled
def relevance_histograms(
    histograms: Mapping[str, RelevanceHistogram], title: str | None = None
) -> Figure:
    """Draw how often relevance takes which value, on a logarithmic scale.

    Deep Taylor paper, figure 6 (bottom): a positive method has no bars on the left of zero. All
    panels share the scale of the counts; each has its own of relevance.

    Parameters
    ----------
    histograms
        By panel title, from `pyrel.metrics.relevance_histogram`.
    title
        Text above the figure.

    Raises
    ------
    ValueError
        If there is no panel.
    """
    if not histograms:
        raise ValueError("histograms: wanted at least one panel, given none")
    columns = min(2, len(histograms))
    rows = -(-len(histograms) // columns)
    figure = new_figure((WIDTH, 0.75 + 1.6 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False).reshape(-1)
    for axes, (name, histogram) in zip(grid, histograms.items(), strict=False):
        _histogram_panel(axes, name, histogram)
    highest = max(int(histogram.counts.max()) for histogram in histograms.values())
    grid[0].set_ylim(_FLOOR, max(2.0, 2.0 * highest))
    log_ticks(grid[0].yaxis)
    for axes in grid[max(0, len(histograms) - columns) : len(histograms)]:
        axes.set_xlabel("relevance, R")
    for axes in grid[len(histograms) :]:
        axes.set_axis_off()
    handles = [Patch(color=ORANGE, label="for: R > 0"), Patch(color=BLUE, label="against: R < 0")]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    figure.supylabel("elements (log scale)", size=TEXT)
    if title:
        figure.suptitle(wrapped(title, WIDTH), size=TEXT, weight="bold")
    return figure


def _histogram_panel(axes: Axes, name: str, histogram: RelevanceHistogram) -> None:
    axes.set_title(wrapped(name, 1.4), weight="bold")
    edges, counts = histogram.edges, histogram.counts
    against = edges[1:] <= 0
    for colour, shown in ((BLUE, against), (ORANGE, ~against)):
        heights = np.where(shown, np.maximum(counts, _FLOOR), _FLOOR)
        axes.stairs(heights, edges, baseline=_FLOOR, fill=True, color=colour, linewidth=0)
    axes.axvline(0.0, color=INK, linewidth=0.6)
    axes.set_yscale("log")
    axes.locator_params(axis="x", nbins=3)
