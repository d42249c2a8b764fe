# SPDX-License-Identifier: Apache-2.0
"""The measures as charts: by step, sum against output, and all cells and methods at once."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from numpy.typing import ArrayLike, NDArray

from pyrel.metrics import StepProfile, Summary
from pyrel.plots.style import (
    BLUE,
    GREEN,
    INK,
    MUTED,
    ORANGE,
    TEXT,
    WIDTH,
    new_figure,
    styled,
    wrapped,
)

_CELL_COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00")
_CELL_MARKERS = "osD^vPX*"


@styled
def step_bars(
    profiles: Mapping[str, Sequence[StepProfile]],
    pixel_mass: Sequence[StepProfile],
    title: str | None = None,
    *,
    errors: str = "standard error",
) -> Figure:
    """Draw the share of relevance at each step against the share of pixel mass.

    One column for each entry of `profiles` (a cell), one row for each arrangement of relevant
    steps. Bars are mean relevance with its error, the orange line is pixel mass, the dotted line an
    even share; steps of the majority, where some are known, have a green bar below.

    Parameters
    ----------
    profiles
        Profiles of relevance by column title, from `pyrel.metrics.step_profiles`.
    pixel_mass
        Profiles of the pixel-mass map for the same arrangements.
    title
        Text above the figure.
    errors
        What the `standard_error` of `profiles` is, for the key: an interval where it is one.

    Raises
    ------
    ValueError
        If there is nothing to draw, or the arrangements of a column are not those of `pixel_mass`.
    """
    _check_arrangements(profiles, pixel_mass)
    rows, columns = len(pixel_mass), len(profiles)
    figure = new_figure((max(WIDTH, 0.4 + 1.9 * columns), 1.3 + 1.05 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    top = _highest([*pixel_mass, *(p for column in profiles.values() for p in column)])
    for j, (name, column) in enumerate(profiles.items()):
        grid[0, j].set_title(wrapped(name, 1.5), weight="bold")
        for i, (relevance, mass) in enumerate(zip(column, pixel_mass, strict=True)):
            _step_panel(grid[i, j], relevance, mass, top)
        grid[-1, j].set_xlabel("step")
    figure.supylabel("share per step", size=TEXT)
    if title:
        figure.suptitle(wrapped(title, WIDTH), size=TEXT, weight="bold")
    figure.legend(handles=_step_key(profiles, errors), loc="outside lower center", ncols=3,
                  columnspacing=1, handlelength=1.2, handletextpad=0.5)  # fmt: skip
    return figure


def _step_key(profiles: Mapping[str, Sequence[StepProfile]], errors: str) -> list[Artist]:
    """Return the key of what is drawn: errors and marks only where there are some."""
    drawn = [profile for column in profiles.values() for profile in column]
    handles: list[Artist] = [
        Patch(color=BLUE, label="relevance"),
        Line2D([], [], color=ORANGE, marker="o", markersize=3, label="pixel mass"),
        Line2D([], [], color=MUTED, linestyle=":", label="even share"),
    ]
    if any((profile.standard_error > 0).any() for profile in drawn):
        handles.append(Line2D([], [], color=INK, marker="|", linestyle="none", label=errors))
    if any(profile.relevant.any() for profile in drawn):
        handles.append(Patch(color=GREEN, label="majority"))
    return handles


def _check_arrangements(
    profiles: Mapping[str, Sequence[StepProfile]], pixel_mass: Sequence[StepProfile]
) -> None:
    if not profiles or not pixel_mass:
        raise ValueError("profiles: wanted a column and a row at least, given none")
    wanted = [p.relevant.tolist() for p in pixel_mass]
    for name, column in profiles.items():
        if [p.relevant.tolist() for p in column] != wanted:
            raise ValueError(f"profiles: {name} has other arrangements of steps than pixel_mass")


def _highest(profiles: Sequence[StepProfile]) -> float:
    """Return the top of the highest bar or error bar; NaN counts as nothing."""
    tops = [np.nan_to_num(p.mean) + np.nan_to_num(p.standard_error) for p in profiles]
    return float(np.max(tops)) or 1.0


def _step_panel(axes: Axes, relevance: StepProfile, mass: StepProfile, top: float) -> None:
    steps = np.arange(len(relevance.mean)) + 1
    axes.bar(steps, relevance.mean, width=0.8, color=BLUE)
    axes.errorbar(steps, relevance.mean, relevance.standard_error, fmt="none", ecolor=INK,
                  elinewidth=0.8)  # fmt: skip
    axes.plot(steps, mass.mean, color=ORANGE, marker="o", markersize=2.5, linewidth=1.2)
    axes.axhline(1 / len(steps), color=MUTED, linestyle=":", linewidth=1)
    for step in steps[relevance.relevant]:
        bar = Rectangle((step - 0.45, -0.09 * top), 0.9, 0.055 * top, color=GREEN, linewidth=0)
        axes.add_patch(bar)
    axes.set(xlim=(0.4, len(steps) + 0.6), ylim=(-0.11 * top, 1.3 * top))
    axes.set_xticks(steps[:: max(1, len(steps) // 4)])
    axes.locator_params(axis="y", nbins=4)
    axes.set_yticks([t for t in axes.get_yticks() if 0 <= t <= 1.2 * top])
    averaged = f"{relevance.used:,} maps" if relevance.used else "all maps are empty"
    axes.text(0.98, 0.97, averaged, transform=axes.transAxes, ha="right",
              va="top", size=TEXT - 1.5, color=MUTED)  # fmt: skip


@styled
def conservation_scatter(
    points: Mapping[str, tuple[ArrayLike, ArrayLike]], title: str | None = None
) -> Figure:
    """Draw the sum of relevance against the output that it explains, with the identity line.

    Deep Taylor paper, figure 6: a conservative method has every sample on the line.

    Parameters
    ----------
    points
        By panel title: outputs of the explained class (n,) and sums of relevance (n,).
    title
        Text above the figure.

    Raises
    ------
    ValueError
        If there is no panel, or the two arrays of a panel differ in shape.
    """
    if not points:
        raise ValueError("points: wanted at least one panel, given none")
    columns = min(2, len(points))
    rows = -(-len(points) // columns)
    figure = new_figure((WIDTH, 0.75 + 1.75 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
    for axes, (name, (output, total)) in zip(grid, points.items(), strict=False):
        _scatter_panel(axes, name, np.asarray(output), np.asarray(total))
    for axes in grid[max(0, len(points) - columns) : len(points)]:
        axes.set_xlabel("output explained, f")
    for axes in grid[len(points) :]:
        axes.set_axis_off()
    handles = [
        Line2D([], [], color=BLUE, marker=".", linestyle="none", label="a sample"),
        Line2D([], [], color=ORANGE, linestyle="--", label="ΣR = f, all relevance conserved"),
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
    figure.supylabel("sum of relevance, ΣR", size=TEXT)
    if title:
        figure.suptitle(wrapped(title, WIDTH), size=TEXT, weight="bold")
    return figure


def _scatter_panel(axes: Axes, name: str, output: NDArray[Any], total: NDArray[Any]) -> None:
    if output.shape != total.shape or output.ndim != 1:
        raise ValueError(
            f"points: {name} wanted two arrays of shape (n,), given {output.shape}, {total.shape}"
        )
    axes.set_title(wrapped(name, 1.4), weight="bold")
    if not len(output):
        return
    ends = np.array([output.min(), output.max()], dtype=float)
    axes.plot(ends, ends, color=ORANGE, linewidth=1.2, linestyle="--", zorder=3)
    # As pixels, a thousand points take a few kilobytes, as vectors a hundred times more.
    axes.plot(output, total, ".", color=BLUE, markersize=2.5, alpha=0.5, rasterized=True)


@styled
def summary_dots(
    cells: Mapping[str, Mapping[str, Summary]], baselines: Mapping[str, Summary], label: str
) -> Figure:
    """Draw one measure for all cells and methods, with the baselines as lines.

    Parameters
    ----------
    cells
        Summaries by cell and method.
    baselines
        Summaries of the maps that need no model.
    label
        What the measure is, for the axis.

    Raises
    ------
    ValueError
        If there is no cell or no method.
    """
    methods = list(dict.fromkeys(m for summaries in cells.values() for m in summaries))
    if not methods:
        raise ValueError("cells: wanted at least one cell with one method, given none")
    # An entry of the two-column key may take two lines.
    names = [wrapped(name, 1.5) for name in (*cells, *baselines)]
    key = 0.16 * -(-len(names) // 2) * max(name.count("\n") + 1 for name in names)
    figure = new_figure((WIDTH, 0.7 + key + 0.34 * len(methods)), layout="constrained")
    axes = figure.subplots()
    for k, summaries in enumerate(cells.values()):
        spread = 0.4 * ((k + 0.5) / len(cells) - 0.5)
        present = [m for m in methods if m in summaries]
        axes.errorbar(
            [summaries[m].mean for m in present],
            [methods.index(m) + spread for m in present],
            xerr=[summaries[m].standard_error for m in present],
            fmt=_CELL_MARKERS[k % len(_CELL_MARKERS)],
            color=_CELL_COLOURS[k % len(_CELL_COLOURS)],
            markersize=5.5,
            elinewidth=1.5,
            label=names[k],
        )
    lines = zip(names[len(cells) :], baselines.values(), itertools.cycle((":", "--", "-.")))
    for name, summary, style in lines:
        axes.axvline(summary.mean, color=MUTED, lw=1.1, ls=style, zorder=0, label=name)
    axes.set_yticks(range(len(methods)), [wrapped(m, 1.3, bold=False) for m in methods])
    axes.set_ylim(len(methods) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(wrapped(label, 3.1, bold=False))
    figure.legend(loc="outside upper left", ncols=2, columnspacing=1.2, handletextpad=0.4)
    return figure
