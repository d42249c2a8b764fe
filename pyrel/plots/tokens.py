# SPDX-License-Identifier: Apache-2.0
"""Words with the relevance of each as its colour, as a figure and as HTML."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import ArrayLike, NDArray

from pyrel.plots.heatmaps import DIVERGING
from pyrel.plots.style import INK, MUTED, TEXT, WIDTH, axes_at, new_figure, styled, wrapped

_ACROSS = 1.4 * WIDTH
# Width of a letter of DejaVu Sans Mono, in parts of the size of the font: 0.602, and up to 0.667
# where whole pixels are few. Height of a line in inches.
_LETTER, _LINE = 0.667, 0.26
_LETTERS = int((_ACROSS - 0.2) * 72 / (_LETTER * TEXT))
# Beyond it, dark letters cannot be read on the colour.
_DARK = 0.55


class _Piece(NamedTuple):
    """A word, or the part of a long one that fits a line, and where it stands, in letters."""

    text: str
    line: int
    start: int
    width: int
    strength: float


@styled
def tokens(words: Sequence[str], relevance: ArrayLike, *, title: str | None = None) -> Figure:
    """Draw a text with the relevance of each word, or other token, as the colour behind it.

    Red is for, blue (and underlined) against what is explained; the colour scale is centred at 0
    and ends at the largest absolute relevance of the text. Letters that the font DejaVu Sans Mono
    lacks, such as Chinese ones, are drawn as boxes, with a warning of matplotlib's; `tokens_html`
    has them all.

    Parameters
    ----------
    words
        The tokens of one sample.
    relevance
        (words,) a number for each. Of embedded tokens, the sum over the embedding.
    title
        Text above the figure.

    Raises
    ------
    ValueError
        If there is no word, there are not as many numbers as words, or one is NaN or infinite.

    Examples
    --------
    >>> figure = pyrel.plots.tokens(["not", "a", "good", "film"], [-2.0, 0.0, 1.5, 0.2])
    >>> figure.savefig("tokens.png")
    """
    scores = checked_relevance(words, relevance)
    largest = float(np.abs(scores).max()) or 1.0
    pieces = list(_laid_out(words, scores / largest))
    lines = pieces[-1].line + 1
    heading = wrapped(title, _ACROSS) if title else ""
    top = 0.08 + 0.16 * (heading.count("\n") + 1) if heading else 0.05
    size = (_ACROSS, top + lines * _LINE + 0.55)
    figure = new_figure(size)
    figure.text(0.1 / _ACROSS, 1 - 0.05 / size[1], heading, va="top", weight="bold")
    axes = axes_at(figure, 0.1, 0.5, _ACROSS - 0.2, lines * _LINE)
    axes.set(xlim=(0, _LETTERS), ylim=(lines, 0))
    axes.set_axis_off()
    for piece in pieces:
        _draw(axes, piece)
    _key(figure, size, largest)
    return figure


def tokens_html(words: Sequence[str], relevance: ArrayLike) -> str:
    """Return a text as a paragraph of HTML, with the relevance of each word as its colour.

    The colours are those of `tokens`, half transparent, so that the text can be read on light and
    dark pages. Words are escaped. The relevance is the ``title`` of a word, which shows under the
    mouse. In a notebook: ``IPython.display.HTML(tokens_html(words, relevance))``.

    Parameters
    ----------
    words, relevance
        As `tokens` takes them; there may be none.

    Raises
    ------
    ValueError
        If there are not as many numbers as words, or one is NaN or infinite.

    Examples
    --------
    >>> print(pyrel.plots.tokens_html(["<b>"], [2.0]))
    <p class="tokens" style="line-height:2">
    <span class="for" style="background:rgb(239 59 44 / 0.700)" title="+2">&lt;b&gt;</span>
    </p>
    """
    scores = checked_relevance(words, relevance, least=0)
    largest = float(np.abs(scores).max(initial=0.0)) or 1.0
    spans = [
        _span(word, score, abs(score) / largest) for word, score in zip(words, scores, strict=True)
    ]
    return "\n".join(['<p class="tokens" style="line-height:2">', *spans, "</p>"])


def checked_relevance(
    words: Sequence[str], relevance: ArrayLike, least: int = 1
) -> NDArray[np.float64]:
    """Return one finite number for each word."""
    scores = np.asarray(relevance, dtype=np.float64)
    if scores.shape != (len(words),):
        raise ValueError(
            f"relevance: wanted {len(words)} numbers, one for each token, given shape "
            f"{scores.shape}"
        )
    if len(words) < least:
        raise ValueError("words: wanted at least one, given none")
    if not np.isfinite(scores).all():
        raise ValueError("relevance: wanted finite numbers, given NaN or infinity")
    return scores


def _span(word: str, score: float, strength: float) -> str:
    colour, kind, line = "239 59 44", "for", ""
    if score < 0:
        colour, kind = "33 113 181", "against"
        line = ";text-decoration:underline dotted;text-underline-offset:.2em"
    return (
        f'<span class="{kind}" style="background:rgb({colour} / {0.7 * strength:.3f}){line}" '
        f'title="{score + 0.0:+.3g}">{html.escape(word)}</span>'
    )


def _laid_out(words: Sequence[str], strengths: NDArray[np.float64]) -> Iterator[_Piece]:
    """Set words line by line."""
    line = start = 0
    for word, strength in zip(words, strengths, strict=True):
        for part in _parts(_visible(word)):
            width = sum(map(_cells, part))
            if start and start + width > _LETTERS:
                line, start = line + 1, 0
            yield _Piece(part, line, start, width, float(strength))
            start += width + 1


def _visible(word: str) -> str:
    """Return a word with signs in the place of letters that have no shape."""
    signs = {"\n": "⏎", "\t": "⇥", "\r": "⏎"}
    shown = (signs.get(c, "·" if c.isspace() or not c.isprintable() else c) for c in word)
    return "".join(shown) or "·"


def _parts(word: str) -> Iterator[str]:
    part, width = "", 0
    for letter in word:
        if width + _cells(letter) > _LETTERS:
            yield part
            part, width = "", 0
        part, width = part + letter, width + _cells(letter)
    yield part


def _cells(letter: str) -> int:
    """Return how many letters wide a letter is: those of East Asia two, accents none."""
    if unicodedata.combining(letter):
        return 0
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


def _draw(axes: Axes, piece: _Piece) -> None:
    box = Rectangle((piece.start - 0.35, piece.line + 0.1), piece.width + 0.7, 0.8, linewidth=0,
                    color=DIVERGING(0.5 + piece.strength / 2))  # fmt: skip
    axes.add_patch(box)
    axes.text(
        piece.start + piece.width / 2,
        piece.line + 0.5,
        piece.text,
        family="monospace",
        ha="center",
        va="center_baseline",
        color="white" if abs(piece.strength) > _DARK else "black",
    )
    if piece.strength < 0:
        ends = (piece.start, piece.start + piece.width)
        axes.plot(ends, [piece.line + 0.96] * 2, color=INK, linewidth=0.8, linestyle=":")


def _key(figure: Figure, size: tuple[float, float], largest: float) -> None:
    bar = axes_at(figure, 0.35, 0.25, 0.9, 0.1)
    scale = ScalarMappable(Normalize(-largest, largest), cmap=DIVERGING)
    drawn = figure.colorbar(scale, cax=bar, orientation="horizontal")
    drawn.set_ticks([-largest, largest], labels=[f"−{largest:.2g}", f"{largest:.2g}"])
    drawn.ax.tick_params(length=0, labelcolor=MUTED)
    text = "relevance: against (blue, underlined), for (red)"
    figure.text(1.45 / size[0], 0.3 / size[1], text, va="center", size=TEXT - 0.5)
