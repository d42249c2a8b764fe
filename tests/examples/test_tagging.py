# SPDX-License-Identifier: Apache-2.0
"""The example of tags, tiny."""

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from example_modules import example_module


@pytest.fixture(scope="module")
def tagging() -> ModuleType:
    return example_module("tagging")


def test_nothing_but_the_deciding_word_tells_a_tag(tagging: Any) -> None:
    sentences = tagging.make_sentences(400, 3)
    assert sentences == tagging.make_sentences(400, 3)
    beside: dict[int, set[str]] = {tagging.PERSON: set(), tagging.PLACE: set()}
    for sentence in sentences:
        assert len(sentence.words) == len(sentence.tags)
        assert [p for p, tag in enumerate(sentence.tags) if tag] == list(sentence.decided_by)
        for name, decides in sentence.decided_by.items():
            tag = sentence.tags[name]
            assert sentence.words[name] in tagging.NAMES
            assert sentence.words[decides] in tagging.DECIDING[tag]
            if len(sentence.decided_by) == 1:
                own = {p for p in range(len(sentence.words)) if p != decides}
                beside[tag] |= {sentence.words[p] for p in own}
    assert beside[tagging.PERSON] == beside[tagging.PLACE]


def test_every_tag_is_explained(tagging: Any) -> None:
    sentences = tagging.make_sentences(6, 5)
    words = tagging.vocabulary_of(sentences)
    torch.manual_seed(0)
    model = tagging.Tagger(len(words), width=4, units=5).eval()
    e = tagging.explain(model, sentences, words)
    longest = max(len(sentence.words) for sentence in sentences)
    assert e.relevance.shape == (6, longest, longest)
    for row, sentence in enumerate(sentences):
        ids = torch.from_numpy(tagging.numbers_of([sentence], words)[0])
        with torch.no_grad():
            scores = model(ids)[0].numpy()
        own = len(sentence.words)
        # 30 steps of sums of ten terms below 1, in float32: 400 roundings of 2^-24 make 2.4e-5.
        np.testing.assert_allclose(e.output[row, :own], scores, atol=2.4e-5)
        total = e.relevance[row].sum(axis=1) + e.absorbed[row]
        np.testing.assert_allclose(total[:own], scores.max(axis=1), atol=1e-4)
    found = tagging.judge(sentences, e)
    assert 0 <= found.right <= 1


def test_the_word_with_the_most_relevance_is_counted(tagging: Any) -> None:
    (sentence,) = tagging.make_sentences(1, 1)
    many = len(sentence.words)
    relevance, output = np.zeros((1, many, many)), np.zeros((1, many, 3))
    for number, (name, decides) in enumerate(sentence.decided_by.items()):
        output[0, name, sentence.tags[name]] = 1
        relevance[0, name, name] = 2
        relevance[0, name, decides if number == 0 else name - 1] = 1
    e = type("Explained", (), {"relevance": relevance, "output": output})
    found = tagging.judge([sentence], e)
    assert found.right == 1
    assert found.most == 1 / len(sentence.decided_by)
    assert found.chance == pytest.approx(1 / (many - 1))


def test_example_writes_a_page(
    tagging: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tags.html"
    tagging.main(["--out", str(path), "--sentences", "60", "--tested", "4", "--epochs", "1"])
    assert "get the right tag" in capsys.readouterr().out
    assert "Explained: “" in path.read_text()
