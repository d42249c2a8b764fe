# SPDX-License-Identifier: Apache-2.0
"""The text example, tiny."""

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from example_modules import example_module


@pytest.fixture(scope="module")
def text() -> ModuleType:
    return example_module("text")


def test_reviews_name_the_words_that_decide(text: ModuleType) -> None:
    reviews = text.make_reviews(300, 3)
    assert reviews == text.make_reviews(300, 3)
    negations = {"not", "never", "hardly"}
    opinions = [
        {*text.ADJECTIVES[i], *text.VERBS[i], *text.INFINITIVES[i]}
        for i in range(len(text.CLASSES))
    ]
    for review in reviews:
        decisive = {w for w, d in zip(review.words, review.decisive, strict=True) if d}
        said = [bool(decisive & opinion) for opinion in opinions]
        assert said.count(True) == 1
        negated = bool(decisive & negations)
        assert said.index(True) == (1 - review.label if negated else review.label)
    assert {r.label for r in reviews} == {0, 1}


def test_every_word_of_every_review_is_explained(text: ModuleType) -> None:
    reviews = text.make_reviews(6, 5)
    vocabulary = text.Vocabulary(reviews)
    torch.manual_seed(0)
    model = text.ReviewLSTM(len(vocabulary), width=4, units=5).eval()
    explained = text.explain(model, reviews, vocabulary)
    assert [one.review for one in explained] == reviews
    for one in explained:
        ids = torch.from_numpy(vocabulary.ids([one.review]))
        scores = model(ids)[0].detach()
        assert one.predicted == scores.argmax()
        # 31 steps of sums of ten terms below 1, in float32: 400 roundings of 2^-24 make 2.4e-5.
        assert one.score == pytest.approx(scores.max().item(), abs=2.4e-5)
        assert one.relevance.shape == (len(one.review.words),)
        assert np.isfinite(one.relevance).all() and one.relevance.any()
        assert one.attention.shape == one.relevance.shape
        assert one.attention.sum() == pytest.approx(1.0)


def test_only_what_is_positive_is_shared(text: ModuleType) -> None:
    reviews = [
        text.Review(("a", "b", "c", "d"), 0, (False, True, True, False)),
        text.Review(("a", "b"), 1, (True, False)),
        text.Review(("a", "b"), 1, (True, False)),
    ]
    values = [np.array([1.0, 2.0, -5.0, 1.0]), np.array([3.0, 0.0]), np.array([-1.0, 0.0])]
    assert text.share_of_decisive_words(reviews, values) == pytest.approx((0.5 + 1.0) / 2)


def test_example_writes_a_page(
    text: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "reviews.html"
    state = torch.random.get_rng_state()
    text.main(["--out", str(page), "--reviews", "60", "--epochs", "1", "--tested", "6"])
    torch.random.set_rng_state(state)
    said, shown = capsys.readouterr()
    assert shown.startswith("epoch 1/1  loss ")
    assert "of 6 reviews that it has not seen" in said and f"Wrote {page}" in said
    assert page.read_text().count("<figure>") == 6
