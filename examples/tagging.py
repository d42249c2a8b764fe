# SPDX-License-Identifier: Apache-2.0
"""Explain each tag that a bidirectional LSTM gives: person, place, or neither.

The names are ambiguous (Jordan, Paris, Austin ...); one word of a clause decides what each is: "the
singer Jordan is far away", "Jordan , an old village , was there". Sentences are made from such
clauses, so the deciding words are known. `target="each step"` explains the tag of every word in one
call, and it is counted how often the deciding word has the most relevance for the tag of its name.
One HTML page shows it in colour. Needs the extra ``report``:

    python examples/tagging.py --out tags.html
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import pyrel
from pyrel.report import ExplainedText, write_texts

TAGS = ("neither", "person", "place")
PERSON, PLACE = 1, 2
NAMES = ("jordan", "paris", "austin", "florence", "georgia", "chelsea", "sydney", "madison")
DECIDING = {
    PERSON: ("friend", "singer", "doctor", "aunt", "baker", "poet"),
    PLACE: ("city", "village", "county", "harbour", "island", "borough"),
}
CLAUSES = (  # all for both: nothing but the deciding word tells them apart
    "a letter from the DECIDING NAME came today", "NAME , an old DECIDING , was there",
    "they often talk about NAME , a DECIDING with a garden", "the DECIDING NAME is far away",
    "we remember NAME , our favourite DECIDING ,", "NAME is a DECIDING , as you know",
)  # fmt: skip
PADDING = 0


@dataclass(frozen=True)
class Sentence:
    """A sentence with a tag for each word.

    Attributes
    ----------
    decided_by : dict
        For the place of each name, that of the word which decides.
    """

    words: tuple[str, ...]
    tags: tuple[int, ...]
    decided_by: dict[int, int]


def make_sentences(count: int, seed: int) -> list[Sentence]:
    """Return sentences of one to three clauses; the same arguments give the same ones."""
    rng = np.random.default_rng(seed)
    sentences = []
    for _ in range(count):
        words: list[str] = []
        tags: list[int] = []
        decided_by = {}
        for clause in range(int(rng.integers(1, 4))):
            tag = int(rng.integers(PERSON, PLACE + 1))
            start = len(words) + (clause > 0)
            own = str(rng.choice(CLAUSES)).split()
            name, decides = own.index("NAME"), own.index("DECIDING")
            own[name], own[decides] = str(rng.choice(NAMES)), str(rng.choice(DECIDING[tag]))
            decided_by[start + name] = start + decides
            words += [*(["and"] if clause else []), *own]
            tags += [0] * (len(words) - len(tags))
            tags[start + name] = tag
        sentences.append(Sentence(tuple(words), tuple(tags), decided_by))
    return sentences


def vocabulary_of(sentences: Sequence[Sentence]) -> dict[str, int]:
    """Return a number for each word, from 1 on."""
    words = sorted({word for sentence in sentences for word in sentence.words})
    return {word: number for number, word in enumerate(words, start=PADDING + 1)}


def numbers_of(
    sentences: Sequence[Sentence], vocabulary: dict[str, int]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return words and tags as numbers, (n, longest), with the lengths, (n,)."""
    lengths = np.array([len(sentence.words) for sentence in sentences])
    ids, tags = np.full((2, len(sentences), lengths.max()), PADDING)
    for row, sentence in enumerate(sentences):
        ids[row, : lengths[row]] = [vocabulary[word] for word in sentence.words]
        tags[row, : lengths[row]] = sentence.tags
    return ids, tags, lengths


class Tagger(nn.Module):
    """Word numbers (n, T) to scores (n, T, tags), by an LSTM in both directions."""

    def __init__(self, words: int, width: int = 16, units: int = 24) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words + 1, width)
        self.lstm = nn.LSTM(width, units, batch_first=True, bidirectional=True)
        self.output = nn.Linear(2 * units, len(TAGS))

    def forward(self, ids: Tensor) -> Tensor:
        """Return the scores."""
        scores: Tensor = self.output(self.lstm(self.embedding(ids))[0])
        return scores


def train(
    model: Tagger, sentences: Sequence[Sentence], words: dict[str, int], *, epochs: int, seed: int
) -> None:
    """Train with Adam on the cross-entropy of all words, on sentences of one length at a time."""
    rng = np.random.default_rng(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    by_length: dict[int, list[Sentence]] = {}
    for sentence in sentences:
        by_length.setdefault(len(sentence.words), []).append(sentence)
    for epoch in range(1, epochs + 1):
        parts = []
        for alike in by_length.values():
            order = rng.permutation(len(alike))
            parts += [[alike[i] for i in order[k : k + 50]] for k in range(0, len(alike), 50)]
        total = 0.0
        for number in rng.permutation(len(parts)):
            ids, tags, _ = (torch.from_numpy(v) for v in numbers_of(parts[number], words))
            optimizer.zero_grad()
            loss = F.cross_entropy(model(ids).flatten(0, 1), tags.flatten())
            torch.autograd.backward(loss)
            optimizer.step()
            total += loss.item()
        print(f"Epoch {epoch} of {epochs}: loss {total / len(parts):.4f}", file=sys.stderr)
    model.eval()


def explain(
    model: Tagger, sentences: Sequence[Sentence], words: dict[str, int]
) -> pyrel.Explanation:
    """Explain the tag of every word by LRP-ε: relevance (n, T, T), the explained word first."""
    ids, _, lengths = numbers_of(sentences, words)
    explainer = pyrel.Explainer(model, ids, method="lrp_epsilon", lengths=True)
    return explainer(ids, target="each step", lengths=lengths)


@dataclass(frozen=True)
class Findings:
    """How tags and explanations do.

    Attributes
    ----------
    right : float
        Share of names with the right tag.
    most : float
        Share of rightly tagged names whose deciding word has more relevance than any other word
        but the name; NaN if there is none.
    chance : float
        The same of a word drawn at random.
    """

    right: float
    most: float
    chance: float


def judge(sentences: Sequence[Sentence], e: pyrel.Explanation) -> Findings:
    """Find whether the deciding word has the most relevance for the tag of its name."""
    right, most, chance = [], [], []
    for sentence, relevance, output in zip(sentences, e.relevance, e.output, strict=True):
        for name, decides in sentence.decided_by.items():
            right.append(output[name].argmax() == sentence.tags[name])
            if not right[-1]:
                continue
            others = relevance[name, : len(sentence.words)].copy()
            others[name] = -np.inf
            most.append(others.argmax() == decides)
            chance.append(1 / (len(sentence.words) - 1))
    return Findings(
        *(float(np.mean(values)) if values else np.nan for values in (right, most, chance))
    )


def page_of(sentences: Sequence[Sentence], e: pyrel.Explanation) -> list[ExplainedText]:
    """Return a text for each name: the sentence, in the colours of the name's tag."""
    texts = []
    for sentence, relevance, output in zip(sentences, e.relevance, e.output, strict=True):
        for name in sentence.decided_by:
            tag = int(output[name].argmax())
            caption = f"Explained: “{sentence.words[name]}” is tagged as {TAGS[tag]}."
            texts.append(
                ExplainedText(
                    sentence.words, relevance[name, : len(sentence.words)].tolist(), caption
                )
            )
    return texts


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, explain every tag, print how both do, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("tags.html"), help="the page")
    parser.add_argument("--sentences", type=int, default=2000, help="to train on")
    parser.add_argument("--tested", type=int, default=200, help="to explain")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    training = make_sentences(options.sentences, options.seed)
    tested = make_sentences(options.tested, options.seed + 1)
    words = vocabulary_of([*training, *tested])
    torch.manual_seed(options.seed)
    model = Tagger(len(words))
    train(model, training, words, epochs=options.epochs, seed=options.seed)
    e = explain(model, tested, words)
    found = judge(tested, e)
    facts = (
        f"{100 * found.right:.1f} % of the names get the right tag. For {100 * found.most:.0f} % "
        f"of these the word that decides has more relevance than any other word beside the name; "
        f"of words drawn at random, {100 * found.chance:.0f} % would."
    )
    print(facts)
    lead = f"Relevance of each word for the tag of a name, by LRP-ε. {facts}"
    write_texts(options.out, page_of(tested, e)[:24], title="What decides a tag", lead=lead)
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
