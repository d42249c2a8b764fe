# SPDX-License-Identifier: Apache-2.0
"""The figures of the report, as SVG elements that take the colours of the page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

from pyrel import plots
from pyrel.metrics import DegradationCurves, Study, step_profiles
from pyrel.plots.style import INK, MUTED
from pyrel.report.words import label, plus_minus_text, size

# More columns would make the text of a figure too small for a telephone.
_CELLS_PER_FIGURE = 2


def overview(study: Study) -> Markup:
    """Draw the share of relevance in the majority for all cells and methods."""
    shares = {
        cell: {label(m): e.share for m, e in result.evaluations.items()}
        for cell, result in study.cells.items()
    }
    baselines = {label(m): e.share for m, e in study.baselines.items()}
    figure = plots.summary_dots(shares, baselines, "share of relevance in the majority steps")
    numbers = [
        f"{label(method)}{f' on {cell}' if cell else ''} {plus_minus_text(e.share)}"
        for cell, method, e in study.evaluations()
    ]
    alt = f"Share of relevance in the majority steps. {'; '.join(numbers)}."
    return inline_svg(figure, "overview", alt)


def degradation(made: Mapping[str, DegradationCurves]) -> list[Markup]:
    """Draw the degradation curves, one figure for each cell."""
    drawn = []
    for number, (cell, curves) in enumerate(made.items()):
        areas = {label(method): curves.area(method) for method in curves.curves}
        told = [f"{name} {plus_minus_text(area)}" for name, area in areas.items()]
        alt = (
            f"{cell}: mean probability of the true class against the number of patches replaced. "
            f"Area under the curve: {'; '.join(told)}; random order "
            f"{plus_minus_text(curves.random_area())}."
        )
        figure = plots.degradation_curves(
            {label(method): curve for method, curve in curves.curves.items()},
            curves.random,
            label="probability of the true class",
            title=cell,
        )
        figure.axes[0].set_ylim(0, 1)  # the same for all cells
        drawn.append(inline_svg(figure, f"degradation{number}", alt))
    return drawn


def steps(study: Study) -> list[Markup]:
    """Draw the relevance of each step against its pixel mass, one figure for each method."""
    mass = step_profiles(study.baselines["pixel_mass"].step_shares, study.relevant)
    figures = []
    for number, method in enumerate(study.methods()):
        cells = [c for c, result in study.cells.items() if method in result.evaluations]
        for group in _groups(cells):
            profiles = {
                c: step_profiles(study.cells[c].evaluations[method].step_shares, study.relevant)
                for c in group
            }
            told = [
                f"{cell}, majority in steps {', '.join(str(t + 1) for t in where)}: "
                f"{' '.join(f'{share:.2f}' for share in profile.mean)}"
                for cell, column in profiles.items()
                for profile in column
                for where in [np.flatnonzero(profile.relevant)]
            ]
            alt = f"{label(method)}, mean share of relevance at each step. {'; '.join(told)}."
            figure = plots.step_bars(profiles, mass, label(method))
            key = f"steps{number}-{cells.index(group[0])}"
            figures.append(inline_svg(figure, key, alt))
    return figures


def scatters(study: Study) -> list[Markup]:
    """Draw the sum of relevance against the output, one figure for each cell."""
    figures = []
    for number, (cell, result) in enumerate(study.cells.items()):
        known = {m: e for m, e in result.evaluations.items() if e.output is not None}
        if not known:
            continue
        points = {label(m): (e.output, e.total) for m, e in known.items()}
        told = [
            f"{label(m)} {size(e.conservation.mean)}" for m, e in known.items() if e.conservation
        ]
        alt = (
            f"{cell}: sum of relevance against the output it explains, a dot for each sample. "
            f"Mean conservation error: {'; '.join(told)}."
        )
        figure = plots.conservation_scatter(points, cell)  # type: ignore[arg-type]
        figures.append(inline_svg(figure, f"sums{number}", alt))
    return figures


def inline_svg(figure: Figure, key: str, alt: str) -> Markup:
    """Return a figure as an SVG element for an HTML page.

    Its ids begin with `key`, for a page must not have one twice, and its ink takes the colours of
    the page. matplotlib has escaped all texts.
    """
    svg = plots.to_svg(figure)
    view_box = re.search(r'viewBox="([\d. -]+)"', svg)
    assert view_box, "matplotlib writes a viewBox into every SVG"
    body = svg[svg.index(">", svg.index("<svg")) + 1 :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", body, flags=re.DOTALL)
    used = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r"<[^>]+>", lambda tag: _page_tag(tag[0], key, used), body)
    width = float(view_box[1].split()[2])
    return Markup(
        f'<svg role="img" aria-label="{escape(alt)}" viewBox="{view_box[1]}" '
        f'style="max-width:{width * 1.75:.0f}px" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">{body}'
    )


def _page_tag(tag: str, key: str, used: set[str]) -> str:
    """Rewrite ids and colours inside one tag; text between tags is left alone."""
    # matplotlib gives equal pictures equal ids; those that nothing refers to can go.
    tag = re.sub(r' id="([^"]*)"', lambda i: f' id="{key}-{i[1]}"' if i[1] in used else "", tag)
    tag = re.sub(r"url\(#", f"url(#{key}-", tag)
    tag = re.sub(r'href="#', f'href="#{key}-', tag)
    for colour, name in ((INK, "ink"), (MUTED, "muted")):
        tag = tag.replace(f": {colour}", f": var(--{name}, {colour})")
    return tag


def _groups(names: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(names), _CELLS_PER_FIGURE):
        yield names[start : start + _CELLS_PER_FIGURE]
