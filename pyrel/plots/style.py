# SPDX-License-Identifier: Apache-2.0
"""Colours, sizes and settings that all figures share."""

from __future__ import annotations

import functools
import io
import math
import textwrap
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import matplotlib
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

INK, MUTED = "#1f2328", "#59636e"
BLUE, ORANGE, GREEN = "#0072b2", "#d55e00", "#009e73"

# Sizes in inches and points: narrow enough that a telephone shows a figure with readable text.
WIDTH, TEXT = 4.0, 9.0

_STYLE: Any = {
    "font.size": TEXT,
    "axes.titlesize": TEXT,
    "axes.labelsize": TEXT,
    "xtick.labelsize": TEXT - 1,
    "ytick.labelsize": TEXT - 1,
    "legend.fontsize": TEXT,
    "legend.frameon": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.edgecolor": MUTED,
    "axes.facecolor": "none",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    # Names come from users; "$" in one is a dollar. Axes of a log scale need `log_ticks` then.
    "text.parse_math": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "pyrel",  # the same figure is the same text, run after run
}

_P = ParamSpec("_P")
_R = TypeVar("_R")


def styled(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Run a function under this module's style, and leave the caller's settings as they were."""

    @functools.wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with matplotlib.rc_context(_STYLE):
            return function(*args, **kwargs)

    return run


@styled
def to_svg(figure: Figure) -> str:
    """Return a figure as SVG with its text as text; the same drawing gives the same SVG."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=200)
    return buffer.getvalue()


def wrapped(text: str, inches: float, bold: bool = True) -> str:
    """Break a text into lines that fit a width; names come from users and may be long."""
    # How wide a letter is on average, in parts of the font's size.
    letter = 0.7 if bold else 0.6
    return textwrap.fill(text, max(8, int(inches * 72 / (letter * TEXT))))


def new_figure(size: tuple[float, float], layout: Any = None) -> Figure:
    """Return an empty figure of a size in inches, with a background that lets the page through."""
    figure = Figure(figsize=size, layout=layout)
    figure.patch.set_alpha(0.0)
    FigureCanvasAgg(figure)
    return figure


def axes_at(figure: Figure, left: float, bottom: float, width: float, height: float) -> Axes:
    """Add axes at a place given in inches."""
    across, up = figure.get_size_inches()
    return figure.add_axes((left / across, bottom / up, width / across, height / up))


def log_ticks(axis: Axis, most: int = 5) -> None:
    """Label a few numbers of an axis that has a logarithmic scale and its limits already.

    matplotlib's own labels there are formulas, which the style of this module shows as they are
    written.
    """
    low, high = sorted(axis.get_view_interval())
    subs = (1.0,) if high >= 100 * low else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=most))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))


def _number(value: float) -> str:
    """Return a tick's number: 0.01, 1,000, 10⁶ or 2 × 10⁶."""
    exponent = math.floor(math.log10(value) + 1e-9)
    if -3 < exponent < 4:
        return f"{value:,g}"
    times = f"{value / 10**exponent:.3g}"
    raised = f"10{str(exponent).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    return raised if times == "1" else f"{times} × {raised}"
