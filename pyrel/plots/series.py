# SPDX-License-Identifier: Apache-2.0
"""A series of one's own, and its relevance over time and features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from pyrel.plots.heatmaps import DIVERGING
from pyrel.plots.style import BLUE, INK, MUTED, TEXT, WIDTH, new_figure, styled, wrapped

# Height of a drawn feature and of its row of relevance, and of all of them at most, in inches.
_TRACE, _ROW, _MOST = 0.36, 0.22, 5.0
_LINE = 0.16  # of a name


@styled
def series(
    x: ArrayLike,
    relevance: ArrayLike,
    *,
    features: Sequence[str] | None = None,
    time: ArrayLike | None = None,
    time_label: str = "step",
    title: str | None = None,
) -> Figure:
    """Draw a series, and below it the relevance of each feature at each time.

    Each of several features is drawn from its least to its largest value, which stand on the right;
    a single one has an axis of its values. All relevance has one colour scale, centred at 0: red is
    for, blue against what is explained.

    Parameters
    ----------
    x
        (steps, features) values of one sample, or (steps,) of a single feature.
    relevance
        Relevance in the shape of `x`, such as ``explanation.relevance[0]``.
    features
        A name for each feature; by default their numbers.
    time
        (steps,) ascending times; by default the numbers of the steps, from 1.
    time_label
        What the times are, for the axis.
    title
        Text above the figure.

    Raises
    ------
    ValueError
        If there is no value, shapes do not fit, a number is NaN or infinite, or times do not
        ascend.

    Examples
    --------
    >>> x = np.cumsum(np.ones((6, 2)), axis=0)
    >>> relevance = np.array([[0, 0], [0, 0], [0, 1], [0, 2], [-1, 0], [0, 0]])
    >>> figure = pyrel.plots.series(x, relevance, features=["heart rate", "temperature"])
    >>> figure.savefig("series.png")
    """
    values, scores = _both(x, relevance)
    steps, count = values.shape
    names, times = _names(features, count), _times(time, steps)
    heights, every = _heights(names)
    heading = wrapped(title, 1.4 * WIDTH) if title else ""
    room = 1.2 + _LINE * (heading.count("\n") + 1)
    figure = new_figure((1.4 * WIDTH, sum(heights) + room), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=heights)
    _traces(above, times, values)
    _relevance(figure, below, times, scores)
    _name_ranges(above, values, names, every[0])
    _name_rows(below, names, every[1])
    below.set_xlabel(time_label)
    if heading:
        figure.suptitle(heading, size=TEXT, weight="bold")
    return figure


def _both(x: ArrayLike, relevance: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    values, scores = _numbers("x", x), _numbers("relevance", relevance)
    if scores.shape != values.shape:
        raise ValueError(
            f"relevance: wanted the shape of x, {np.shape(x)}, given {np.shape(relevance)}"
        )
    return values, scores


def _names(features: Sequence[str] | None, count: int) -> list[str]:
    """Return a name for each feature, broken into lines."""
    if features is None:
        return [str(i + 1) for i in range(count)] if count > 1 else [""]
    if len(features) != count:
        raise ValueError(f"features: wanted {count} names, given {len(features)}")
    return [wrapped(str(name), 1.3, bold=False) for name in features]


def _heights(names: Sequence[str]) -> tuple[list[float], list[int]]:
    """Return how tall the two panels are, and which rows have their name: each, each second one."""
    count = len(names)
    tall = _LINE * max(name.count("\n") + 1 for name in names) + 0.04
    wishes = (max(_TRACE, tall, 0.9 / count), max(_ROW, tall, 0.35 / count))
    heights = [min(count * wish, _MOST) for wish in wishes]
    return heights, [math.ceil(tall * count / height) for height in heights]


def _numbers(name: str, given: ArrayLike) -> NDArray[np.float64]:
    """Return (steps, features) finite numbers."""
    values = np.asarray(given, dtype=np.float64)
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim != 2 or not values.size:
        raise ValueError(
            f"{name}: wanted shape (steps, features) or (steps,), given {np.shape(given)}"
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name}: wanted finite numbers, given NaN or infinity")
    return values


def _times(given: ArrayLike | None, steps: int) -> NDArray[np.float64]:
    times = np.arange(1.0, steps + 1) if given is None else np.asarray(given, dtype=np.float64)
    if times.shape != (steps,):
        raise ValueError(f"time: wanted shape {(steps,)}, given {times.shape}")
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ValueError("time: wanted finite ascending numbers")
    return times


def _traces(axes: Axes, times: NDArray[Any], values: NDArray[Any]) -> None:
    """Draw features one above the other, each scaled to its own range; a single one as it is."""
    axes.tick_params(axis="x", bottom=False)
    axes.spines["bottom"].set_visible(False)
    marker = "." if len(times) == 1 else None
    count = values.shape[1]
    if count == 1:
        axes.plot(times, values[:, 0], color=BLUE, linewidth=1.0, marker=marker)
        return
    low, high = values.min(axis=0), values.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    middle = np.where(high > low, 0.0, 0.5)  # where a feature does not change
    for i in range(count):
        scaled = (values[:, i] - low[i]) / span[i] + middle[i]
        axes.plot(times, i + 0.9 - 0.8 * scaled, color=BLUE, linewidth=1.0, marker=marker)
        if i:
            axes.axhline(i, color=MUTED, linewidth=0.3)
    axes.set_ylim(count, 0)


def _relevance(figure: Figure, axes: Axes, times: NDArray[Any], scores: NDArray[Any]) -> None:
    half = np.diff(times) / 2 if len(times) > 1 else np.array([0.5])
    edges = np.concatenate([times[:1] - half[:1], times[:-1] + half[: len(times) - 1],
                            times[-1:] + half[-1:]])  # fmt: skip
    largest = float(np.abs(scores).max()) or 1.0
    count = scores.shape[1]
    drawn = axes.pcolormesh(edges, np.arange(count + 1), scores.T, cmap=DIVERGING,
                            vmin=-largest, vmax=largest, rasterized=True)  # fmt: skip
    axes.set_ylim(count, 0)
    axes.set_xlim(edges[0], edges[-1])
    for spine in axes.spines.values():
        spine.set_visible(True)
    bar = figure.colorbar(drawn, ax=axes, orientation="horizontal", aspect=40, pad=0.02)
    bar.set_label("relevance: against (blue), for (red)", size=TEXT, color=INK)
    bar.set_ticks([-largest, 0.0, largest], labels=[f"−{largest:.2g}", "0", f"{largest:.2g}"])


def _name_rows(axes: Axes, names: Sequence[str], every: int) -> None:
    shown = range(0, len(names), every)
    axes.set_yticks([i + 0.5 for i in shown], [names[i] for i in shown])
    axes.tick_params(axis="y", length=0)


def _name_ranges(axes: Axes, values: NDArray[Any], names: Sequence[str], every: int) -> None:
    """Write names, and at the right end the least and the largest value, of several features."""
    if len(names) == 1:
        return
    _name_rows(axes, names, every)
    shown = range(0, values.shape[1], every)
    ends = [(values[:, i].min(), values[:, i].max()) for i in shown]
    texts = [f"{low:.3g} to {high:.3g}" if high > low else f"{low:.3g}" for low, high in ends]
    right = axes.secondary_yaxis("right")
    right.set_yticks([i + 0.5 for i in shown], [text.replace("-", "−") for text in texts])
    right.tick_params(length=0, labelcolor=MUTED)
    right.spines["right"].set_visible(False)
