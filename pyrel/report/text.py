# SPDX-License-Identifier: Apache-2.0
"""Texts with the relevance of each token as a colour, on one HTML page."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyrel.files.atomic import write_whole
from pyrel.report.page import environment  # says so where a package of the extra is missing

# isort: split
from markupsafe import Markup

from pyrel.plots import tokens_html
from pyrel.plots.tokens import checked_relevance


@dataclass(frozen=True)
class ExplainedText:
    """A text and what its tokens contributed to a class.

    Attributes
    ----------
    tokens : sequence of str
    relevance : sequence of float
        One finite number for each token; above 0 for the class that is explained.
    caption : str
        What the page says about the text, such as the class that is explained and its score.

    Raises
    ------
    ValueError
        There are not as many numbers as tokens, or one is NaN or infinite.
    """

    tokens: Sequence[str]
    relevance: Sequence[float]
    caption: str

    def __post_init__(self) -> None:
        """Check the numbers."""
        checked_relevance(self.tokens, self.relevance)


def write_texts(
    path: str | os.PathLike[str], texts: Sequence[ExplainedText], *, title: str, lead: str = ""
) -> Path:
    """Write explained texts as one HTML file that needs nothing else, whole or not at all.

    Parameters
    ----------
    path
        The file.
    texts : sequence of ExplainedText
        Colours are scaled for each text by itself.
    title, lead : str
        Heading, and a paragraph under it.

    Returns
    -------
    The path written.
    """
    path = Path(path)
    write_whole(path, render_texts(texts, title=title, lead=lead).encode())
    return path


def render_texts(texts: Sequence[ExplainedText], *, title: str, lead: str = "") -> str:
    """Return explained texts as HTML text; see `write_texts`."""
    shown = [(text.caption, Markup(tokens_html(text.tokens, text.relevance))) for text in texts]
    return environment().get_template("text.html.j2").render(title=title, lead=lead, texts=shown)
