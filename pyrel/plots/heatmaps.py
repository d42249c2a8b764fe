# SPDX-License-Identifier: Apache-2.0
"""Inputs with their relevance maps below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from pyrel.metrics import channel_sum
from pyrel.metrics.regions import Layout
from pyrel.plots.style import GREEN, MUTED, TEXT, WIDTH, axes_at, new_figure, styled, wrapped

# Each side darkens evenly away from a white zero, so the order holds without colour vision too, and
# a map without negative relevance looks the same in both. The odd number makes zero the white one.
_FOR = ["#ffffff", "#fcbba1", "#ef3b2c", "#67000d"]
_AGAINST = ["#053061", "#2171b5", "#9ecae1"]
# Smallest width of a picture, and what is between two, in inches.
_PANEL, _GAP = 1.86, 0.14
# Height of a line of text and of the key, width of a note.
_LINE, _KEY, _NOTE = 0.145, 0.5, 0.5
SEQUENTIAL = LinearSegmentedColormap.from_list("pyrel_sequential", _FOR)
DIVERGING = LinearSegmentedColormap.from_list("pyrel_diverging", _AGAINST + _FOR, N=257)


@dataclass(frozen=True, eq=False)
class HeatmapColumn:
    """One column of a heatmap grid: an input and what the methods say about it.

    Attributes
    ----------
    title
        Text above the column.
    x
        (steps, height, width) input, or (channels, height, width).
    relevance
        Relevance maps of the shape of `x` by name, top to bottom.
    relevant
        (steps,) boolean, the steps to mark; None marks none.
    notes
        Short texts at the right end above maps, by the names in `relevance`; see `note` of
        `heatmap_grid`.
    layout
        What the first axis is: "sequence", the steps, or "channels", which are added up. As of
        `pyrel.metrics.patch_regions`.
    """

    title: str
    x: NDArray[Any]
    relevance: Mapping[str, NDArray[Any]]
    relevant: NDArray[np.bool_] | None = None
    notes: Mapping[str, str] = field(default_factory=dict)
    layout: Layout = "sequence"


def as_image(values: ArrayLike, layout: Layout = "sequence") -> NDArray[Any]:
    """Make one picture of a sample, or of its relevance.

    Parameters
    ----------
    values
        Shape (steps, height, width), or (channels, height, width).
    layout
        As of `HeatmapColumn`: steps are put side by side, channels are added up (deep Taylor paper,
        section 6.2).

    Returns
    -------
    Shape (height, steps * width), 28×84 for a majority sample; of channels (height, width).

    Raises
    ------
    ValueError
        If there are not three axes, or no such layout.

    Examples
    --------
    >>> pyrel.plots.as_image(np.zeros((4, 28, 7))).shape
    (28, 28)
    >>> pyrel.plots.as_image(np.ones((3, 2, 2)), "channels")
    array([[3., 3.],
           [3., 3.]])
    """
    array = np.asarray(values)
    if layout not in get_args(Layout):
        raise ValueError(f"layout: wanted 'sequence' or 'channels', given {layout!r}")
    if array.ndim != 3:
        first = "channels" if layout == "channels" else "steps"
        raise ValueError(f"values: wanted shape ({first}, height, width), given {array.shape}")
    if layout == "channels":
        summed: NDArray[Any] = channel_sum(array[None])[0]
        return summed
    return np.concatenate(list(array), axis=1)


def colour_scale(relevance: ArrayLike) -> tuple[LinearSegmentedColormap, float, float]:
    """Return the colour map and its lower and upper end for a relevance map.

    A signed map gets the diverging map centred at 0 (red for, blue against); one without negative
    relevance the sequential map from 0. Zero is white in both. Raw relevances are never clipped.
    """
    array = np.asarray(relevance)
    largest = float(np.abs(array).max(initial=0.0)) or 1.0
    if array.size and array.min() < 0:
        return DIVERGING, -largest, largest
    return SEQUENTIAL, 0.0, largest


@styled
def heatmap_grid(
    columns: Sequence[HeatmapColumn], title: str | None = None, note: str | None = None
) -> Figure:
    """Draw inputs with their relevance maps below, one column each.

    The steps of a sample are drawn side by side as the picture they were cut from, or its channels
    added up (see `HeatmapColumn`); a green bar below marks the relevant steps. Each map has its own
    colour scale, so maps compare by place, not by strength. A column that lacks a method of another
    one has a gap there.

    Parameters
    ----------
    columns
        Left to right.
    title
        Text above the figure.
    note
        What the notes of the columns are, for the key.

    Raises
    ------
    ValueError
        If there is no column, or a map has not the shape of its input.
    """
    if not columns:
        raise ValueError("columns: wanted at least one column, given none")
    methods = list(dict.fromkeys(name for column in columns for name in column.relevance))
    height, width = as_image(columns[0].x, columns[0].layout).shape
    panel = max(_PANEL, WIDTH / len(columns) - _GAP)
    tall = panel * (height + 5) / width
    across = len(columns) * (panel + _GAP)
    heading = wrapped(title, across) if title else ""
    labels = [[wrapped(column.title, panel) for column in columns]]
    labels += [[wrapped(name, panel - _NOTE, bold=False)] * len(columns) for name in methods]
    rows = [0.06 + tall + _LINE * (max(map(_lines, row))) for row in labels]
    top = 0.08 + _LINE * _lines(heading) if heading else 0.02
    size = (across, top + sum(rows) + _KEY)
    figure = new_figure(size)
    for i, column in enumerate(columns):
        for j, name in enumerate([None, *methods]):
            bottom = size[1] - top - sum(rows[: j + 1]) + 0.02
            axes = axes_at(figure, _GAP / 2 + i * (panel + _GAP), bottom, panel, tall)
            _heatmap_panel(axes, column, name, labels[j][i])
    figure.text(_GAP / 2 / size[0], 1 - 0.05 / size[1], heading, va="top", weight="bold")
    signed = any(
        as_image(m, column.layout).min() < 0
        for column in columns
        for m in column.relevance.values()
    )
    marked = any(column.relevant is not None for column in columns)
    heatmap_key(figure, size, signed, marked, note)
    return figure


def _lines(text: str) -> int:
    return text.count("\n") + 1


def _heatmap_panel(axes: Axes, column: HeatmapColumn, name: str | None, text: str) -> None:
    axes.set_axis_off()
    if name is not None and name not in column.relevance:
        return
    values = column.x if name is None else column.relevance[name]
    if np.shape(values) != np.shape(column.x):
        raise ValueError(
            f"{column.title}, {name}: wanted relevance of shape {np.shape(column.x)}, "
            f"given {np.shape(values)}"
        )
    image = as_image(values, column.layout)
    height, width = image.shape
    colours, low, high = ("gray", None, None) if name is None else colour_scale(image)
    # "none" hands the raw pixels to the SVG, which then stay small and sharp at any size.
    axes.imshow(image, cmap=colours, vmin=low, vmax=high, interpolation="none",
                extent=(0, width, height, 0))  # fmt: skip
    axes.add_patch(Rectangle((0, 0), width, height, fill=False, edgecolor=MUTED, linewidth=0.6))
    if column.relevant is not None:
        _mark_steps(axes, column.relevant, width / len(column.relevant), height + 1.2, 2.2)
    axes.set(xlim=(-0.5, width + 0.5), ylim=(height + 4, -1))
    axes.set_title(text, loc="left", pad=2, weight="bold" if name is None else "normal")
    if name is not None and name in column.notes:
        axes.set_title(column.notes[name], loc="right", pad=2, size=TEXT - 1, color=MUTED)
    if name is not None and not image.any():
        axes.text(width / 2, height / 2, "empty: all relevance is 0", ha="center", va="center",
                  color="black")  # fmt: skip


def _mark_steps(
    axes: Axes, relevant: NDArray[np.bool_], width: float, top: float, thickness: float
) -> None:
    for step in np.flatnonzero(relevant):
        bar = Rectangle((step * width + 0.5, top), width - 1, thickness, color=GREEN, linewidth=0)
        axes.add_patch(bar)


def heatmap_key(
    figure: Figure,
    size: tuple[float, float],
    signed: bool,
    marked: bool = False,
    note: str | None = None,
) -> None:
    """Draw what the colours mean into the lower half inch of a figure."""
    bar = axes_at(figure, 0.07, 0.23, 0.62, 0.09)
    colours, low = (DIVERGING, -1) if signed else (SEQUENTIAL, 0)
    scale = ScalarMappable(Normalize(low, 1), cmap=colours)
    figure.colorbar(scale, cax=bar, orientation="horizontal", ticks=[])
    label = "relevance: against (blue), for (red)" if signed else "relevance: none to most"
    figure.text(0.76 / size[0], 0.275 / size[1], label, va="center", size=TEXT - 0.5)
    if marked:
        mark = axes_at(figure, 0.07, 0.08, 0.62, 0.05)
        mark.set_axis_off()
        _mark_steps(mark, np.ones(4, dtype=np.bool_), 7, 0, 2)
        mark.set(xlim=(0, 28), ylim=(0, 2))
        text = f"steps of the majority{f'; {note}' if note else ''}"
        figure.text(0.76 / size[0], 0.1 / size[1], text, va="center", size=TEXT - 0.5)
