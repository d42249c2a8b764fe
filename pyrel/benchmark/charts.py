# SPDX-License-Identifier: Apache-2.0
"""Results as figures: throughput over batch size, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np

from pyrel.benchmark.contestants import PYREL
from pyrel.benchmark.results import CaseResult, Results
from pyrel.errors import part_of_extra

with part_of_extra("bench", "a figure of a benchmark", "matplotlib"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    from pyrel.plots.style import BLUE, GREEN, MUTED, ORANGE, log_ticks, new_figure, styled

_COLOURS = (BLUE, ORANGE, GREEN, "#cc79a7", "#56b4e9", "#e69f00", "#000000")
_MARKERS = "osD^vPX*<>hp"
_SIZE = (6.4, 4.2)


def figures(results: Results) -> dict[str, Figure]:
    """Return all figures by name: one for each cell and method, and the roofline."""
    if not results.cases:
        return {}
    drawn = {}
    for key, group in groupby(results.cases, lambda c: (c.cell, c.steps, c.method, c.weights)):
        name = f"throughput-{key[0].lower()}-{key[1]}-{key[2].replace('_', '-')}"
        while name in drawn:  # the same cell with other weights
            name += "-other"
        drawn[name] = throughput(results, list(group))
    drawn["roofline"] = roofline(results)
    return drawn


@styled
def throughput(results: Results, cases: Sequence[CaseResult]) -> Figure:
    """Draw samples/s of every contestant over the batch size; the limit is the peak's."""
    figure = new_figure(_SIZE, layout="constrained")
    axes = figure.subplots()
    names = list(dict.fromkeys(name for case in cases for name in case.names))
    for i, name in enumerate(names):
        rows = {c.batch: c.row(name, results.floor) for c in cases if name in c.names}
        speeds = {batch: row.samples_per_second.median for batch, row in rows.items() if row}
        axes.plot(
            list(speeds),
            list(speeds.values()),
            color=_COLOURS[i % len(_COLOURS)],
            marker=_MARKERS[i % len(_MARKERS)],
            linestyle="-" if name == PYREL else ":",
            linewidth=2 if name == PYREL else 1.2,
            markersize=5,
            label=results.titles[name],
        )
    limit = results.highest_peak / cases[0].flops
    label = "all useful FLOPs at the peak"
    axes.axhline(limit, color=MUTED, linestyle="--", linewidth=1, label=label)
    axes.set(xscale="log", yscale="log", xlabel="batch size", ylabel="samples/s")
    axes.xaxis.set_major_locator(FixedLocator([case.batch for case in cases]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    log_ticks(axes.yaxis)
    axes.set_title(f"{cases[0].cell}-{cases[0].steps}, {cases[0].method}", weight="bold")
    figure.legend(loc="outside right upper")
    return figure


@styled
def roofline(results: Results) -> Figure:
    """Draw useful GFLOP/s over the FLOPs for each byte that has to be moved.

    The roof is the bandwidth of copies in memory, then the peak of multiply-adds. Weights that fit
    into a cache come from there, so small batches may lie above the slope.
    """
    figure = new_figure(_SIZE, layout="constrained")
    axes = figure.subplots()
    cells = list(dict.fromkeys((case.cell, case.steps) for case in results.cases))
    batches = sorted({case.batch for case in results.cases})
    for i, cell in enumerate(cells):
        for case in (c for c in results.cases if (c.cell, c.steps) == cell):
            for name in case.names:
                _roofline_point(axes, results, case, name, i, batches)
        axes.plot([], [], "o", color=_COLOURS[i % len(_COLOURS)], label=f"{cell[0]}-{cell[1]}")
    axes.plot([], [], "o", color="none", markeredgecolor=MUTED, label="a peer")
    peak = results.highest_peak
    low = min(case.flops / case.bytes for case in results.cases) / 4
    high = max(case.flops / case.bytes for case in results.cases) * 2
    x = np.geomspace(low, high, 200)
    roof = np.minimum(x * results.bandwidth, peak) / 1e9
    axes.plot(x, roof, color=MUTED, linewidth=1.2, label="peak and memory bandwidth")
    axes.set(
        xscale="log",
        yscale="log",
        xlabel="useful FLOPs for each byte that has to be moved",
        ylabel="useful GFLOP/s",
    )
    for axis in (axes.xaxis, axes.yaxis):
        log_ticks(axis)
    figure.legend(loc="outside right upper")
    return figure


def _roofline_point(
    axes: Axes, results: Results, case: CaseResult, name: str, cell: int, batches: list[int]
) -> None:
    row = case.row(name, results.floor)
    if row is None:
        return
    speed = case.flops * row.samples_per_second.median / 1e9
    colour = _COLOURS[cell % len(_COLOURS)]
    ours = name == PYREL
    axes.plot(
        case.flops / case.bytes,
        speed,
        "o",
        color=colour if ours else "none",
        markeredgecolor=colour,
        markeredgewidth=0.6,
        markersize=4 + 3 * batches.index(case.batch) / max(1, len(batches) - 1) if ours else 3,
        zorder=3 if ours else 2,
    )
