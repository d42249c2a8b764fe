# SPDX-License-Identifier: Apache-2.0
"""What the thesis says of experiment 2 (section 4.5), as differences between cells."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from pyrel.experiment.reproduce.claims import Claim
from pyrel.experiment.reproduce.majority_runs import PICTURES
from pyrel.experiment.reproduce.numbers import Interval
from pyrel.report import words

# Table 4.6 of the thesis: accuracy in percent.
THESIS = {
    "mnist": {"Shallow": "98.39", "Deep": "98.42", "DeepV2": "98.38", "ConvDeep": "99.07"},
    "fashion-mnist": {"Shallow": "90.15", "Deep": "90.60", "DeepV2": "90.43", "ConvDeep": "92.43"},
}
CRITERIA = """Compared are shares of the relevance in the majority digits, of the thesis's three
methods; in the last claim of a data set, accuracies. A gain is what a cell has more than Shallow
has."""
_BASE, _MOST = "Shallow", "ConvDeep"
_BY_DEPTH = (_BASE, "Deep", "DeepV2")  # those that differ in nothing but layers
_LITTLE = "guided_backprop"  # the method that gains least from depth

Runs = Mapping[str, Sequence[Mapping[str, Any]]]


def claims(dataset: str, runs: Runs) -> list[Claim]:
    """Return what can be decided by the cells that there are.

    Parameters
    ----------
    dataset
    runs
        Cell -> numbers of its runs, seed by seed.
    """
    found = [
        *(_deeper(runs, method) for method in PICTURES),
        *(_most(runs, method) for method in PICTURES),
        *(_gains(runs, method) for method in PICTURES if method != _LITTLE),
        _order(runs, THESIS.get(dataset, {})),
    ]
    return [claim for claim in found if claim.measured]


def _deeper(runs: Runs, method: str) -> Claim:
    cells = [cell for cell in _BY_DEPTH if cell in runs]
    measured = {
        f"{after} − {before}": Interval.of_differences(
            _shares(runs, after, method), _shares(runs, before, method)
        )
        for before, after in itertools.pairwise(cells)
    }
    return Claim(f"{words.label(method)}: more with each further layer", "4.5.2", measured)


def _most(runs: Runs, method: str) -> Claim:
    measured = {
        f"{_MOST} − {cell}": Interval.of_differences(
            _shares(runs, _MOST, method), _shares(runs, cell, method)
        )
        for cell in runs
        if cell != _MOST and _MOST in runs
    }
    return Claim(f"{words.label(method)}: most with {_MOST}", "4.5.2", measured)


def _gains(runs: Runs, method: str) -> Claim:
    measured = {
        f"gain of {cell}": Interval.of_differences(
            _gain(runs, cell, method), _gain(runs, cell, _LITTLE)
        )
        for cell in runs
        if cell != _BASE
    }
    says = f"{words.label(method)} gains more from depth than {words.label(_LITTLE).lower()}"
    return Claim(says, "4.5.2, 4.5.3", measured)


def _order(runs: Runs, accuracies: Mapping[str, str]) -> Claim:
    cells = sorted((c for c in accuracies if c in runs), key=lambda c: -float(accuracies[c]))
    measured = {
        f"{better} − {worse}": Interval.of_differences(
            *([run["accuracy"] for run in runs[cell]] for cell in (better, worse))
        )
        for better, worse in itertools.pairwise(cells)
    }
    return Claim(f"Accuracy in the order {', '.join(cells)}", "table 4.6", measured)


def _shares(runs: Runs, cell: str, method: str) -> list[float]:
    return [run["methods"][method]["share"]["mean"] for run in runs[cell]]


def _gain(runs: Runs, cell: str, method: str) -> list[float]:
    base = _shares(runs, _BASE, method)
    return [share - of_base for share, of_base in zip(_shares(runs, cell, method), base,
                                                      strict=True)]  # fmt: skip
