# SPDX-License-Identifier: Apache-2.0
"""What the reader picks from: pictures and words for each shown sample, class, model and method."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyrel.metrics import Study, relevance_in_region, step_shares
from pyrel.report.pictures import PREFIX, input_png, map_png
from pyrel.report.words import label, listed


@dataclass(frozen=True)
class MapView:
    """One relevance map: its picture as base64 text, words, and the height of a bar for each step.

    Bars are in percent of the tallest.
    """

    png: str
    alt: str
    note: str
    bars: tuple[int, ...]


@dataclass(frozen=True)
class SampleView:
    """One sample: its input, what each model says, and the maps by class, model and method."""

    name: str
    png: str
    alt: str
    true: int
    marked: tuple[bool, ...]
    verdicts: tuple[str, ...]
    classes: tuple[str, ...]
    scores: tuple[tuple[str, ...], ...]
    maps: tuple[tuple[tuple[MapView | None, ...], ...], ...]


@dataclass(frozen=True)
class Explorer:
    """All that the page offers to pick; a model without a method has None for its map."""

    models: tuple[str, ...]
    methods: tuple[str, ...]
    samples: tuple[SampleView, ...]
    prefix: str = PREFIX

    def data(self) -> dict[str, Any]:
        """Return what the script of the page reads."""
        return asdict(self)


def explorer(study: Study) -> Explorer:
    """Return what a reader can pick on the page of a study."""
    samples = tuple(_sample(study, k) for k in range(len(study.shown.y)))
    return Explorer(tuple(study.cells), tuple(map(label, study.methods())), samples)


def _sample(study: Study, k: int) -> SampleView:
    shown, names = study.shown, study.class_names
    true = int(shown.y[k])
    steps = listed([str(t + 1) for t in np.flatnonzero(shown.relevant[k])])
    answers = {name: int(result.predicted[k]) for name, result in study.cells.items()}
    verdicts = tuple(
        f"answers {names[answer]}: {'right' if answer == true else 'wrong'}"
        for answer in answers.values()
    )
    return SampleView(
        name=f"Sample {shown.index[k]}",
        png=input_png(shown.x[k]),
        alt=f"Input of sample {shown.index[k]}: three images side by side, two of class "
        f"{names[true]}, in steps {steps}.",
        true=true,
        marked=tuple(bool(step) for step in shown.relevant[k]),
        verdicts=verdicts,
        classes=tuple(_class_text(study, c, true, answers) for c in range(len(names))),
        scores=tuple(
            tuple(
                f"class {names[c]}: {_score(result.outputs[k], c)}"
                for result in study.cells.values()
            )
            for c in range(len(names))
        ),
        maps=tuple(_maps_of_class(study, k, c) for c in range(len(names))),
    )


def _class_text(study: Study, c: int, true: int, answers: dict[str, int]) -> str:
    """Return the name of a class, with who gives it as an answer."""
    told = ["true class"] if c == true else []
    given = [name for name, answer in answers.items() if answer == c]
    if given:
        told.append(f"answer of {listed(given)}" if len(given) < len(answers) else "answer")
    return f"{study.class_names[c]} ({', '.join(told)})" if told else study.class_names[c]


def _score(outputs: NDArray[Any], c: int) -> str:
    """Return the output of a class, and what softmax makes of it."""
    weights = np.exp(outputs.astype(np.float64) - float(outputs.max()))
    return f"score {_number(float(outputs[c]))}, probability {weights[c] / weights.sum():.2f}"


def _number(value: float) -> str:
    return f"{value:.2f}".replace("-", "−")


def _maps_of_class(study: Study, k: int, c: int) -> tuple[tuple[MapView | None, ...], ...]:
    """Return the maps of one sample for one class, by model and method."""
    return tuple(
        tuple(
            _map(study, k, c, cell, method) if method in result.heatmaps else None
            for method in study.methods()
        )
        for cell, result in study.cells.items()
    )


def _map(study: Study, k: int, c: int, cell: str, method: str) -> MapView:
    result, relevant = study.cells[cell], study.shown.relevant[k : k + 1]
    relevance = result.heatmaps[method][k, c]
    shares = step_shares(relevance[None])[0]
    share = float(relevance_in_region(relevance[None], relevant)[0])
    who = f"{label(method)} on {cell}, class {study.class_names[c]}"
    if np.isnan(share):
        note = "no positive relevance"
        if not relevance.any():
            note, score = "empty map", float(result.outputs[k, c])
            if result.evaluations[method].propagates and score <= 0:
                note += f": the score is {_number(score)}, so there is nothing to share out"
        return MapView(map_png(relevance), f"{who}: {note}.", note, (0,) * len(shares))
    note = f"{share:.2f} in green steps"
    most = np.argsort(-shares, kind="stable")[:2]
    told = " and ".join(f"{t + 1} ({shares[t]:.2f})" for t in most)
    alt = f"{who}: {share:.2f} of the relevance in the marked steps; most in steps {told}."
    bars = tuple(int(bar) for bar in np.rint(100 * shares / shares.max()))
    return MapView(map_png(relevance), alt, note, bars)
