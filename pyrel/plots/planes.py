# SPDX-License-Identifier: Apache-2.0
"""Functions of two variables and data in a plane, with arrows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pyrel.plots.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    TEXT,
    WIDTH,
    new_figure,
    styled,
    wrapped,
)

# Light enough to show a black line upon the darkest.
_SAMPLES = LinearSegmentedColormap.from_list("pyrel_samples", ["#ffffff", "#8f959c"])
# Colour, dashes, width and size of the head. Arrows that lie upon each other are all seen: a thin
# one is drawn over a wide one.
_ARROWS: tuple[tuple[str, Any, float, float], ...] = (
    ("#f4b183", "-", 5.0, 13.0),
    (BLUE, "-.", 1.8, 9.0),
    (GREEN, "-", 2.8, 11.0),
    (INK, "--", 1.2, 7.0),
)


@styled
def vector_fields(
    x: NDArray[Any],
    value: NDArray[Any],
    fields: Mapping[str, NDArray[Any]],
    title: str | None = None,
) -> Figure:
    """Draw explanations of a function of two variables as arrows over its contours.

    Deep Taylor paper, figure 1. All arrows of a panel have one scale.

    Parameters
    ----------
    x
        (m², 2) points of a square grid, the first variable changing last.
    value
        (m², ) function at the points.
    fields
        By panel title: (m², 2) explanation at the points.
    title
        Text above the figure.

    Raises
    ------
    ValueError
        If there is no panel, or shapes do not fit.
    """
    side = round(len(x) ** 0.5)
    if not fields or side * side != len(x) or value.shape != (len(x),):
        raise ValueError(
            f"x, value, fields: wanted a square grid, a value at each point and one panel at "
            f"least, given shapes {x.shape} and {value.shape} and {len(fields)} panels"
        )
    columns = len(fields)
    figure = new_figure((max(WIDTH, 2 * columns), 2.5), layout="constrained")
    grid = figure.subplots(1, columns, sharey=True, squeeze=False)[0]
    planes = [part.reshape(side, side) for part in (x[:, 0], x[:, 1], value)]
    for axes, (name, arrows) in zip(grid, fields.items(), strict=True):
        if arrows.shape != x.shape:
            raise ValueError(f"fields: {name} wanted shape {x.shape}, given {arrows.shape}")
        axes.contour(*planes, levels=8, colors=MUTED, linewidths=0.6)
        axes.quiver(*x.T, *arrows.T, color=BLUE, angles="xy", pivot="tail", width=0.008)
        axes.set_title(wrapped(name, 1.6), weight="bold")
        axes.set_xlabel("first input")
        axes.set_aspect("equal")
    grid[0].set_ylabel("second input")
    if title:
        figure.suptitle(wrapped(title, WIDTH), size=TEXT, weight="bold")
    return figure


@dataclass(frozen=True, eq=False)
class DirectionPanel:
    """Data of a linear model in a plane, and directions in it.

    Attributes
    ----------
    title
        Text above the panel.
    x
        (n, 2) samples.
    y
        (n,) target, which the colour shows.
    directions
        (2,) vectors by name, drawn from the origin.
    """

    title: str
    x: NDArray[Any]
    y: NDArray[Any]
    directions: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@styled
def directions_grid(panels: Sequence[DirectionPanel], title: str | None = None) -> Figure:
    """Draw linear signal-distractor models, one panel for each direction of the distractor.

    Kindermans et al. 2017, figure 2. Arrows have unit length: they show directions. The first is
    wide and pale, and the others are drawn over it. Samples are dots, darker for a larger target.

    Parameters
    ----------
    panels
        All with the same names of directions, four at most.
    title
        Text above the figure.

    Raises
    ------
    ValueError
        If there is no panel, a panel has other directions than the first, or more than four.
    """
    if not panels:
        raise ValueError("panels: wanted one at least, given none")
    names = list(panels[0].directions)
    if len(names) > len(_ARROWS):
        raise ValueError(f"panels: wanted {len(_ARROWS)} directions at most, given {len(names)}")
    for panel in panels:
        if list(panel.directions) != names:
            raise ValueError(f"panels: {panel.title} has other directions than {panels[0].title}")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    figure = new_figure((WIDTH, 0.7 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).reshape(-1)
    end = 1.05 * max([1.0, *(float(np.quantile(np.abs(p.x), 0.99)) for p in panels)])
    for axes, panel in zip(grid, panels, strict=False):
        _directions_panel(axes, panel, end)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    handles = [
        Line2D([], [], color=colour, linestyle=style, linewidth=width, label=name)
        for name, (colour, style, width, _) in zip(names, _ARROWS, strict=False)
    ]
    handles.append(
        Line2D([], [], color="none", marker="o", markersize=4, markerfacecolor=_SAMPLES(0.7),
               markeredgecolor=MUTED, label="sample, darker: larger y")
    )  # fmt: skip
    figure.legend(handles=handles, loc="outside lower center", ncols=2, columnspacing=1.0,
                  handlelength=1.8, handletextpad=0.5)  # fmt: skip
    if title:
        figure.suptitle(wrapped(title, WIDTH), size=TEXT, weight="bold")
    return figure


def _directions_panel(axes: Axes, panel: DirectionPanel, end: float) -> None:
    axes.scatter(panel.x[:, 0], panel.x[:, 1], c=panel.y, cmap=_SAMPLES, edgecolors=MUTED,
                 linewidths=0.2, s=6, rasterized=True)  # fmt: skip
    for vector, look in zip(panel.directions.values(), _ARROWS, strict=False):
        colour, style, width, head = look
        across, up = vector / np.linalg.norm(vector)
        axes.annotate("", (across, up), (0, 0), zorder=4 - width / 10, arrowprops={
            "arrowstyle": "->", "color": colour, "linewidth": width, "linestyle": style,
            "mutation_scale": head, "shrinkA": 0, "shrinkB": 0})  # fmt: skip
    axes.axhline(0, color=INK, linewidth=0.3, zorder=0)
    axes.axvline(0, color=INK, linewidth=0.3, zorder=0)
    axes.set(xlim=(-end, end), ylim=(-end, end), aspect="equal")
    axes.set_title(wrapped(panel.title, 1.8), weight="bold")
