# SPDX-License-Identifier: Apache-2.0
"""Texts with the relevance of each token as a colour, on one HTML page."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pyrel.files.atomic import write_whole
from pyrel.report.page import environment


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
        if len(self.tokens) != len(self.relevance):
            raise ValueError(
                f"relevance: wanted {len(self.tokens)} numbers, one for each token, given "
                f"{len(self.relevance)}"
            )
        if not all(map(math.isfinite, self.relevance)):
            raise ValueError("relevance: holds NaN or infinity")


@dataclass(frozen=True)
class _Token:
    """A token as the page shows it: strength is relevance over the largest of the text."""

    text: str
    relevance: float
    strength: float

    @property
    def kind(self) -> str:
        return "for" if self.relevance >= 0 else "against"


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
    shown = [(text.caption, _scaled(text)) for text in texts]
    return environment().get_template("text.html.j2").render(title=title, lead=lead, texts=shown)


def _scaled(text: ExplainedText) -> list[_Token]:
    largest = max(map(abs, text.relevance), default=0.0) or 1.0
    return [
        _Token(token, float(r), abs(float(r)) / largest)
        for token, r in zip(text.tokens, text.relevance, strict=True)
    ]
