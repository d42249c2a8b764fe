# SPDX-License-Identifier: Apache-2.0
"""Explain, word by word, what an LSTM with attention makes of short film reviews.

The reviews are made from templates, so that it is known which words decide: a judgement, sometimes
negated, sometimes conceded ("although the plot was dull , the ending was brilliant"), between
sentences that say nothing. An LSTM over embedded words, whose states are summed with the weights of
an attention, learns whether the judgement is good or bad; LRP-ε then tells how much each word
contributed to its answer, which the weights alone do not: a state holds the words before it, too.
One HTML page shows the words in colour. Needs the extra ``report``:

    python examples/text.py --out reviews.html
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import pyrel
from pyrel.report import ExplainedText, write_texts
from pyrel.training import EpochRecord
from pyrel.training.progress import Reporter

CLASSES = ("bad", "good")
NOUNS = ("film", "plot", "acting", "music", "ending", "script", "cast", "story", "dialogue")
ADJECTIVES = (
    ("dull", "boring", "clumsy", "awful", "tedious", "silly", "predictable", "ugly", "weak"),
    ("brilliant", "moving", "funny", "clever", "wonderful", "charming", "gripping", "witty"),
)
VERBS = (("hated", "disliked", "regretted"), ("loved", "enjoyed", "admired"))
INFINITIVES = (("hate", "dislike", "regret"), ("love", "enjoy", "admire"))
ADVERBS = ("really", "simply", "truly", "rather", "quite")
NEUTRAL = (
    "we saw it on a rainy sunday", "a friend had two tickets", "it runs for two hours",
    "the cinema was half full", "my sister came along", "it is based on a novel",
    "the director is new to me", "we talked about it on the way home",
)  # fmt: skip


@dataclass(frozen=True)
class Review:
    """A review: its words, its class, and which of its words decide the class."""

    words: tuple[str, ...]
    label: int
    decisive: tuple[bool, ...]


def make_reviews(count: int, seed: int) -> list[Review]:
    """Return reviews drawn from the templates; the same arguments give the same reviews."""
    rng = np.random.default_rng(seed)
    return [_review(rng) for _ in range(count)]


def _review(rng: np.random.Generator) -> Review:
    label = int(rng.integers(2))
    parts = [(_judgement(label, rng), True)]
    kind = rng.integers(4)
    if kind == 0:
        parts = [("although", False), (_judgement(1 - label, rng), False), (",", False), *parts]
    elif kind == 1:
        parts = [*parts, (", although", False), (_judgement(1 - label, rng), False)]
    before, after = rng.choice(NEUTRAL, 2, replace=False)
    if rng.random() < 0.6:
        parts = [(f"{before} .", False), *parts]
    if rng.random() < 0.6:
        parts = [*parts, (f". {after}", False)]
    words = [(word, decisive) for text, decisive in [*parts, (".", False)] for word in text.split()]
    return Review(tuple(w for w, _ in words), label, tuple(d for _, d in words))


def _judgement(label: int, rng: np.random.Generator) -> str:
    """Return a clause that says good or bad of something, in half of the cases by a negation."""
    noun, adverb = rng.choice(NOUNS), rng.choice(ADVERBS)
    match rng.integers(4):
        case 0:
            return f"the {noun} was {adverb} {rng.choice(ADJECTIVES[label])}"
        case 1:
            return f"i {adverb} {rng.choice(VERBS[label])} the {noun}"
        case 2:
            negation = rng.choice(["not", "never", "hardly"])
            return f"the {noun} was {negation} {rng.choice(ADJECTIVES[1 - label])}"
        case _:
            return f"i did not {rng.choice(INFINITIVES[1 - label])} the {noun}"


class Vocabulary:
    """Numbers for words."""

    def __init__(self, reviews: Sequence[Review]) -> None:
        self._numbers = {
            word: i for i, word in enumerate(sorted({w for r in reviews for w in r.words}))
        }

    def __len__(self) -> int:
        """Return how many words there are."""
        return len(self._numbers)

    def ids(self, reviews: Sequence[Review]) -> npt.NDArray[np.int64]:
        """Return the words of reviews of one length as numbers: (n, words)."""
        return np.array([[self._numbers[word] for word in r.words] for r in reviews], np.int64)


class ReviewLSTM(nn.Module):
    """Words to scores: embedding, LSTM, additive attention over its states, linear layer.

    The attention is that of Bahdanau et al. (2015), whose query is a parameter here.
    """

    def __init__(self, words: int, width: int = 16, units: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.lstm = nn.LSTM(width, units, batch_first=True)
        self.key = nn.Linear(units, units)
        self.query = nn.Linear(units, 1, bias=False)
        self.output = nn.Linear(units, len(CLASSES))

    def attend(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return the states (n, words, units) and the weights of the attention (n, words)."""
        states, _ = self.lstm(self.embedding(ids))
        return states, torch.softmax(self.query(torch.tanh(self.key(states)))[:, :, 0], dim=1)

    def forward(self, ids: Tensor) -> Tensor:
        """Return scores (n, classes) of word numbers (n, words)."""
        states, weights = self.attend(ids)
        scores: Tensor = self.output((weights[:, :, None] * states).sum(dim=1))
        return scores


def batches(reviews: Sequence[Review], size: int) -> Iterator[list[Review]]:
    """Return reviews in batches of one length each, so that none has to be padded."""
    for length in sorted({len(r.words) for r in reviews}):
        alike = [r for r in reviews if len(r.words) == length]
        yield from (alike[i : i + size] for i in range(0, len(alike), size))


def train(
    model: ReviewLSTM, reviews: Sequence[Review], vocabulary: Vocabulary, *, epochs: int, seed: int
) -> None:
    """Train with Adam on the cross-entropy, in an order drawn for each epoch; show how it goes."""
    rng = np.random.default_rng(seed)
    rate = 5e-3
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    with Reporter(epochs, len(list(batches(reviews, 50))), [], shown=True) as reporter:
        for epoch in range(1, epochs + 1):
            start, loss_sum, right, seen = time.monotonic(), 0.0, 0, 0
            shuffled = [reviews[i] for i in rng.permutation(len(reviews))]
            parts = list(batches(shuffled, 50))
            for number, i in enumerate(rng.permutation(len(parts)), start=1):
                ids = torch.from_numpy(vocabulary.ids(parts[i]))
                labels = torch.tensor([r.label for r in parts[i]])
                optimizer.zero_grad()
                scores = model(ids)
                loss = F.cross_entropy(scores, labels)
                torch.autograd.backward(loss)
                optimizer.step()
                loss_sum += loss.item() * len(labels)
                right += int((scores.argmax(dim=1) == labels).sum())
                seen += len(labels)
                if reporter.due():
                    reporter.batch(epoch, number, loss_sum / seen)
            seconds = time.monotonic() - start
            means = loss_sum / seen, right / seen
            reporter.epoch(EpochRecord(epoch, rate, *means, None, None, seconds))
    model.eval()


@dataclass(frozen=True)
class Explained:
    """A review, its class by the model, each word's relevance for that and weight of attention."""

    review: Review
    predicted: int
    score: float
    relevance: npt.NDArray[np.float32]
    attention: npt.NDArray[np.float32]


def explain(
    model: ReviewLSTM, reviews: Sequence[Review], vocabulary: Vocabulary
) -> list[Explained]:
    """Explain the predicted class of every review by LRP-ε, all reviews in one call."""
    lengths = np.array([len(review.words) for review in reviews])
    ids = np.zeros((len(reviews), lengths.max()), np.int64)  # what follows the end is not read
    for row, review in zip(ids, reviews, strict=True):
        row[: len(review.words)] = vocabulary.ids([review])[0]
    explainer = pyrel.Explainer(model, ids, method="lrp_epsilon", lengths=True)
    e = explainer(ids, lengths=lengths)
    scores = np.take_along_axis(e.output, e.target[:, None], axis=1)[:, 0]
    explained = []
    for number, review in enumerate(reviews):
        own = slice(int(lengths[number]))
        with torch.no_grad():
            _, weights = model.attend(torch.from_numpy(ids[number : number + 1, own]))
        target, relevance = int(e.target[number]), e.relevance[number, own]
        explained.append(
            Explained(review, target, float(scores[number]), relevance, weights[0].numpy())
        )
    return explained


def share_of_decisive_words(
    reviews: Sequence[Review], values: Sequence[npt.NDArray[np.float32]]
) -> float:
    """Return the mean part that the decisive words have of what is positive, word by word."""
    shares = []
    for review, of_words in zip(reviews, values, strict=True):
        positive = np.maximum(of_words, 0)
        if positive.sum() > 0:
            shares.append(positive[np.array(review.decisive)].sum() / positive.sum())
    return float(np.mean(shares))


def page_of(explained: Sequence[Explained]) -> list[ExplainedText]:
    """Return what the page shows of explained reviews."""
    return [
        ExplainedText(
            one.review.words,
            one.relevance.tolist(),
            f"Explained: {CLASSES[one.predicted]}, score {one.score:+.2f}; "
            f"the review is {CLASSES[one.review.label]}.",
        )
        for one in explained
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, explain, print how the model and its explanations do, write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("reviews.html"), help="the page")
    parser.add_argument("--reviews", type=int, default=4000, help="to train on")
    parser.add_argument("--tested", type=int, default=200, help="to explain")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    training = make_reviews(options.reviews, options.seed)
    tested = make_reviews(options.tested, options.seed + 1)
    vocabulary = Vocabulary([*training, *tested])
    torch.manual_seed(options.seed)
    model = ReviewLSTM(len(vocabulary))
    train(model, training, vocabulary, epochs=options.epochs, seed=options.seed)
    explained = explain(model, tested, vocabulary)
    accuracy = np.mean([one.predicted == one.review.label for one in explained])
    words = np.mean([np.mean(one.review.decisive) for one in explained])
    share = share_of_decisive_words(tested, [one.relevance for one in explained])
    attended = share_of_decisive_words(tested, [one.attention for one in explained])
    facts = (
        f"The LSTM is right about {100 * accuracy:.1f} % of {len(tested)} reviews that it has not "
        f"seen. The clauses that decide have {100 * share:.0f} % of the positive relevance, "
        f"{100 * attended:.0f} % of the attention and {100 * words:.0f} % of the words."
    )
    print(facts)
    lead = f"Relevance of each word by LRP-ε, for the class that the LSTM predicts. {facts}"
    write_texts(options.out, page_of(explained[:30]), title="What decides a review", lead=lead)
    print(f"Wrote {options.out}")


if __name__ == "__main__":
    main()
