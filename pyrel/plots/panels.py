# SPDX-License-Identifier: Apache-2.0
"""Maps of many methods on the same samples: a row for each sample, a column for each method."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from pyrel.metrics.regions import Layout
from pyrel.plots.heatmaps import as_image, colour_scale, heatmap_key
from pyrel.plots.style import MUTED, TEXT, axes_at, new_figure, styled

# In inches: width of a picture, what is between two, the names at the left, a line of text, the key
# below, and the title above. In letters: what a name above a picture may have on a line.
_PANEL, _GAP, _LEFT, _LINE, _KEY, _TITLE = 1.1, 0.08, 0.2, 0.135, 0.4, 0.24
_LETTERS = 18


@styled
def method_panels(
    samples: Sequence[tuple[str, ArrayLike]],
    maps: Mapping[str, Sequence[ArrayLike]],
    *,
    title: str | None = None,
    columns: int = 10,
    layout: Layout = "sequence",
) -> Figure:
    """Draw a row of maps for each sample: the input first, then what each method says.

    For small pictures and many methods; `heatmap_grid` draws larger ones. Each map has its own
    colour scale, so maps compare by place, not by strength.

    Parameters
    ----------
    samples
        Name and input of each, (steps, height, width) or (channels, height, width).
    maps
        By method, left to right, the maps of all samples, each of the shape of its input.
    title
        Text above the figure.
    columns
        Most pictures side by side, 2 or more; further methods go below, beside the inputs again.
    layout
        As of `HeatmapColumn`.

    Raises
    ------
    ValueError
        If there is no sample or no method, a method has not one map for each sample, or ``columns``
        is below 2.
    """
    if not samples or not maps:
        raise ValueError("wanted at least one sample and one method")
    if columns < 2:
        raise ValueError(f"columns: wanted 2 or more, given {columns}")
    for name, given in maps.items():
        if len(given) != len(samples):
            raise ValueError(f"{name}: wanted {len(samples)} maps, given {len(given)}")
    pictures = {name: [as_image(each, layout) for each in given] for name, given in maps.items()}
    inputs = [as_image(x, layout) for _, x in samples]
    blocks = [[*maps][i : i + columns - 1] for i in range(0, len(maps), columns - 1)]
    heads = [_LINE * max(_broken(name).count("\n") + 1 for name in block) for block in blocks]
    tall = _PANEL * inputs[0].shape[0] / inputs[0].shape[1]
    rows = len(samples) * (tall + _GAP) + _GAP
    across = _LEFT + min(columns, 1 + len(maps)) * (_PANEL + _GAP)
    top = _TITLE if title else _GAP
    size = (across, top + sum(heads) + len(blocks) * rows + _KEY)
    figure = new_figure(size)
    if title:
        figure.text(_LEFT / across, 1 - 0.04 / size[1], title, va="top", weight="bold")
    upper = size[1] - top
    for head, block in zip(heads, blocks, strict=True):
        upper -= head
        for i, (sample, _) in enumerate(samples):
            row = {"": inputs[i], **{name: pictures[name][i] for name in block}}
            _row(figure, sample, row, upper - i * (tall + _GAP), tall, i == 0)
        upper -= rows
    heatmap_key(figure, size, any(np.min(each) < 0 for all_ in pictures.values() for each in all_))
    return figure


def _row(
    figure: Figure,
    sample: str,
    row: Mapping[str, NDArray[Any]],
    upper: float,
    tall: float,
    is_first: bool,
) -> None:
    """Draw the input, which has no name, and maps; names of methods above the first row."""
    across, up = figure.get_size_inches()
    middle = (upper - tall / 2) / up
    figure.text(0.02 / across, middle, sample, va="center", rotation=90, size=TEXT - 1)
    for j, (name, picture) in enumerate(row.items()):
        axes = axes_at(figure, _LEFT + j * (_PANEL + _GAP), upper - tall, _PANEL, tall)
        _panel(axes, picture, is_map=j > 0)
        if is_first:
            axes.set_title(_broken(name), loc="left", pad=2, size=TEXT - 1)


def _panel(axes: Axes, picture: NDArray[Any], is_map: bool) -> None:
    axes.set_axis_off()
    height, width = picture.shape
    colours, low, high = colour_scale(picture) if is_map else ("gray", None, None)
    # "none" hands the raw pixels to the SVG, which then stay small and sharp at any size.
    axes.imshow(picture, cmap=colours, vmin=low, vmax=high, interpolation="none")
    frame = Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=MUTED, linewidth=0.6,
                      clip_on=False)  # fmt: skip
    axes.add_patch(frame)
    if is_map and not picture.any():
        axes.text(width / 2, height / 2, "empty", ha="center", va="center", color="black")


def _broken(name: str) -> str:
    """Break a name into lines at its spaces."""
    return textwrap.fill(name, _LETTERS, break_long_words=False)
