# SPDX-License-Identifier: Apache-2.0
"""Experiment 1 of the thesis: images cut into T strips, Shallow and Deep (section 4.4)."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.experiment.problem import HIGH, LOW, Problem
from pyrel.experiment.reproduce.experiment import Experiment, Page
from pyrel.experiment.reproduce.pictures import in_bytes, scaled
from pyrel.experiment.reproduce.runs import Found, Kept, Run
from pyrel.experiment.reproduce.sequence_page import CELLS, EVIDENCE, SHOWN, page, steps_of
from pyrel.experiment.reproduce.trained import (
    first_of_each_class,
    images_of,
    train_to_minimum,
    training_config,
)
from pyrel.experiment.training import new_cell
from pyrel.explainer import Explainer
from pyrel.metrics import pixel_mass_map, step_shares

METHODS = ("sensitivity", "guided_backprop", "deep_taylor")
MORE = 4  # further samples of the evidence class
QUICK_IMAGES = 500

_Floats = npt.NDArray[np.float32]


class Reproduced(Experiment):
    """Accuracy, heatmaps and the share of relevance by step, for T = 1, 4 and 7."""

    name = "sequence"
    seeds = 5

    @property
    def datasets(self) -> tuple[str, ...]:
        """Those of the thesis."""
        return ("mnist-mini",) if self.settings.quick else ("mnist", "fashion-mnist")

    def runs(self) -> Sequence[Run]:
        """Return a run for each cell, T, data set and seed."""
        every = itertools.product(
            range(self.settings.seeds), self.datasets, steps_of(self.settings), CELLS
        )
        return [self._run(*one) for one in every]

    def _run(self, seed: int, dataset: str, steps: int, cell: str) -> Run:
        problem = Problem(dataset, "sequence", steps)
        config = training_config(problem, seed, self.settings.quick)
        settings = {
            **{"cell": cell, "data": vars(problem), "training": config.to_dict()},
            **{"methods": list(METHODS), "quick": self.settings.quick},
        }
        work = partial(self._work, seed, problem, cell)
        return Run(f"{dataset}-{cell}-{steps}-seed-{seed}", settings, work)

    def _work(self, seed: int, problem: Problem, cell: str, folder: Path) -> Found:
        images = images_of(problem, self.settings, QUICK_IMAGES)
        trained = train_to_minimum(
            partial(new_cell, cell, problem, seed=seed),
            problem,
            images,
            training_config(problem, seed, self.settings.quick),
            folder,
        )
        x, y, _ = problem.samples(images[1])
        evidence = np.flatnonzero(y == EVIDENCE)
        chosen = [*first_of_each_class(y, SHOWN), *map(int, evidence[1 : 1 + MORE])]
        shares, maps = {}, {}
        for method in METHODS:
            bounds = {"low": LOW, "high": HIGH}
            explainer = Explainer(trained.cell.model, x[:1], method, **bounds)  # type: ignore[arg-type]
            shares[method] = _shares(explainer(x[evidence], y[evidence]).relevance)
            maps[method] = explainer(x[chosen], y[chosen]).relevance
        numbers = trained.numbers() | {
            "shares": shares,
            "pixel mass": _shares(pixel_mass_map(x[evidence], LOW)),
        }
        return Found(numbers, _arrays(seed, x[chosen], maps))

    def page(self, results: Mapping[str, Kept]) -> Page:
        """Return table 4.5 and figures 4.7 to 4.10."""
        return page(results, self.datasets, self.settings)


def _shares(maps: Any) -> dict[str, Any]:
    """Return the mean share of each step over samples, and how many maps were empty."""
    shares = step_shares(maps)
    used = ~np.isnan(shares[:, 0])
    mean = shares[used].mean(axis=0) if used.any() else np.full(shares.shape[1], np.nan)
    return {
        "mean": [round(float(share), 6) for share in mean],
        "samples": int(used.sum()),
        "left out": int((~used).sum()),
    }


def _arrays(seed: int, x: _Floats, maps: Mapping[str, _Floats]) -> dict[str, npt.NDArray[Any]]:
    """Return the heatmaps of the first seed, as pictures whose largest relevance is 1."""
    if seed != 0:
        return {}
    found: dict[str, npt.NDArray[Any]] = {"x": in_bytes(_pictures(x))}
    for method, relevance in maps.items():
        found[method] = scaled(_pictures(relevance))
    return found


def _pictures(x: _Floats) -> _Floats:
    """Put the strips of samples side by side: (n, steps, height, width) to (n, height, …)."""
    return np.concatenate(list(np.moveaxis(x, 1, 0)), axis=2)
