# SPDX-License-Identifier: Apache-2.0
import math
import re
from pathlib import Path

import pytest
from test_report import Page

from pyrel.report import ExplainedText, render_texts, write_texts

TEXTS = [
    ExplainedText(("not", "<b>", "good"), (-1.0, 0.0, 4.0), "Explained: good & bad"),
    ExplainedText(("the", "film"), (0.0, 0.0), "no relevance"),
]


def test_words_have_the_strength_of_their_relevance() -> None:
    page = Page(render_texts(TEXTS, title="Reviews"))
    words = [(e["text"], e["class"], e["style"], e["title"]) for e in page.elements if "title" in e]
    line = ";text-decoration:underline dotted;text-underline-offset:.2em"
    assert words == [
        ("not", "against", f"background:rgb(33 113 181 / 0.175){line}", "-1"),
        ("<b>", "for", "background:rgb(239 59 44 / 0.000)", "+0"),
        ("good", "for", "background:rgb(239 59 44 / 0.700)", "+4"),
        ("the", "for", "background:rgb(239 59 44 / 0.000)", "+0"),
        ("film", "for", "background:rgb(239 59 44 / 0.000)", "+0"),
    ]


def test_page_needs_nothing_else_and_escapes_what_it_shows() -> None:
    html = render_texts(TEXTS, title="a < b", lead="by LRP-ε & others")
    page = Page(html)
    assert not {"script", "link", "img"} & {e["tag"] for e in page.elements}
    assert "default-src 'none'" in html and "url(" not in html
    captions = [e["text"] for e in page.elements if e["tag"] == "figcaption"]
    assert captions == ["Explained: good & bad", "no relevance"]
    assert [e["text"] for e in page.elements if e["tag"] == "h1"] == ["a < b"]
    assert "by LRP-ε &amp; others" in html
    assert "<p></p>" not in re.sub(r"\s", "", render_texts([], title="t"))


def test_write_puts_the_page_there(tmp_path: Path) -> None:
    path = write_texts(tmp_path / "page.html", TEXTS, title="Reviews")
    assert path.read_text() == render_texts(TEXTS, title="Reviews")


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="wanted 2 numbers, one for each token, given shape"):
        ExplainedText(("a", "b"), (1.0,), "")
    with pytest.raises(ValueError, match="finite"):
        ExplainedText(("a",), (math.nan,), "")
