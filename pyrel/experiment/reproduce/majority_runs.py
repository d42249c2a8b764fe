# SPDX-License-Identifier: Apache-2.0
"""Cells trained on majority samples and what their explanations come to, for two experiments."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.experiment.judging import choose_shown, judge
from pyrel.experiment.problem import HIGH, LOW, Problem
from pyrel.experiment.reproduce.experiment import Settings
from pyrel.experiment.reproduce.pictures import in_bytes, scaled
from pyrel.experiment.reproduce.runs import Found, Kept, Run
from pyrel.experiment.reproduce.trained import images_of, train_to_minimum, training_config
from pyrel.experiment.training import TrainedCell, new_cell
from pyrel.explainer import Explainer
from pyrel.metrics import Evaluation, step_profiles
from pyrel.training import TrainingConfig, predict

METHODS = ("sensitivity", "guided_backprop", "gradient_x_input", "deep_taylor", "lrp_epsilon")
PICTURES = ("sensitivity", "guided_backprop", "deep_taylor")  # of the thesis's heatmaps
MEASURES = ("share", "cosine_digit", "cosine_step")
# Convolutions cost more and learn in fewer epochs: docs/results/majority-mnist.md.
_EPOCHS = {"ConvDeep": 10, "ConvDeepPlus": 8}
_EPOCHS_ON_CONVOLUTIONS = 10  # of cells that have them as an option
SHOWN, FAILED = 4, 2
QUICK_IMAGES, QUICK_SAMPLES = 400, 100


@dataclass(frozen=True)
class Variant:
    """A cell as one row of a table.

    Attributes
    ----------
    label : str
        What tables call it.
    cell : str
        A name of `pyrel.nn.names()`.
    options : dict
        Arguments of `pyrel.experiment.new_cell`.
    training : dict
        Settings of `TrainingConfig` that are not those of the recipe.
    draws : int, optional
        Sequences of each image, where not as many as in the recipe.
    """

    label: str
    cell: str
    options: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    draws: int | None = None

    def name(self, dataset: str, seed: int) -> str:
        """Return the name of its run."""
        told = "".join(f"-{key}" for key in (*self.options, *self.training))
        return f"{dataset}-{self.cell}{told}-seed-{seed}"


# Table 4.1 of the thesis; it leaves the learning rate open. An epoch has one sequence of an image.
# With the recipe's 0.002 the loss rises from epoch 40 on and all units die at epoch 70; 0.0005 is
# about the rate up to which it fell: docs/results/majority-mnist.md.
AS_IN_THESIS = Variant(
    "Deep, trained as in the thesis",
    "Deep",
    {"dropout": 0.5},
    {"epochs": 200, "batch_size": 50, "learning_rate": 5e-4},
    draws=1,
)


def datasets(settings: Settings) -> tuple[str, ...]:
    """Return those of the thesis, or the one of the quick way."""
    return ("mnist-mini",) if settings.quick else ("mnist", "fashion-mnist")


def runs(variants: Sequence[Variant], settings: Settings) -> list[Run]:
    """Return a run for each variant, data set and seed."""
    return [
        run_of(variant, dataset, seed, settings)
        for seed in range(settings.seeds)
        for dataset in datasets(settings)
        for variant in variants
    ]


def of_seeds(
    results: Mapping[str, Kept], variant: Variant, dataset: str, settings: Settings
) -> list[dict[str, Any]]:
    """Return the numbers of a variant, seed by seed."""
    return [results[variant.name(dataset, seed)].numbers for seed in range(settings.seeds)]


def run_of(variant: Variant, dataset: str, seed: int, settings: Settings) -> Run:
    """Return the run of a variant."""
    problem = Problem.of(dataset, "majority")
    config = training_config(problem, seed, settings.quick)
    if not settings.quick:
        usual = _EPOCHS_ON_CONVOLUTIONS if "convolutions" in variant.options else config.epochs
        epochs = {"epochs": _EPOCHS.get(variant.cell, usual)}
        config = dataclasses.replace(config, **{**epochs, **variant.training})
    told = {
        **{"cell": variant.cell, "options": dict(variant.options), "data": vars(problem)},
        **{"training": config.to_dict(), "methods": list(METHODS), "quick": settings.quick},
        **({} if variant.draws is None else {"draws": variant.draws}),
    }
    work = partial(_work, variant, problem, config, settings)
    return Run(variant.name(dataset, seed), told, work)


def _work(
    variant: Variant, problem: Problem, config: TrainingConfig, settings: Settings, folder: Path
) -> Found:
    images = images_of(problem, settings, QUICK_IMAGES)
    trained = train_to_minimum(
        partial(new_cell, variant.cell, problem, seed=config.seed, **variant.options),
        problem,
        images,
        config,
        folder,
        draws=variant.draws,
    )
    samples = problem.samples(images[1], count=QUICK_SAMPLES if settings.quick else None)
    study = judge([trained.cell], problem, samples, methods=METHODS, shown=1)
    relevant = study.relevant
    numbers = trained.numbers() | {
        "samples": len(relevant),
        "methods": {
            name: _measures(evaluation, relevant)
            for name, evaluation in study.cells[trained.cell.name].evaluations.items()
        },
        "baselines": {n: _measures(e, relevant) for n, e in study.baselines.items()},
    }
    return Found(numbers, _arrays(trained.cell, samples) if config.seed == 0 else {})


def _measures(evaluation: Evaluation, relevant: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """Return the measures, and by place of the odd image the mean share of each step."""
    profiles = step_profiles(evaluation.step_shares, relevant)
    told = {name: s and s.to_dict() for name, s in evaluation.summaries().items()}
    return told | {
        "steps": [
            {
                "relevant": profile.relevant.tolist(),
                "mean": [round(float(share), 5) for share in profile.mean],
                "samples": profile.used,
            }
            for profile in profiles
        ]
    }


def _arrays(cell: TrainedCell, samples: Any) -> dict[str, npt.NDArray[Any]]:
    """Return heatmaps of samples that are the same for all cells, and of the first failures."""
    x, y, relevant = samples
    wrong = predict(cell.model, x).numpy().argmax(axis=1) != y
    shown = choose_shown(y, relevant, np.zeros((1, len(y)), np.bool_), SHOWN)
    index = np.concatenate([shown, np.flatnonzero(wrong)[:FAILED]])
    predicted = predict(cell.model, x[index]).numpy().argmax(axis=1)
    found = {
        "x": in_bytes(x[index]),
        "y": y[index],
        "predicted": predicted,
        "relevant": relevant[index],
    }
    for method in PICTURES:
        explainer = Explainer(cell.model, x[:1], method, low=LOW, high=HIGH)
        found[method] = scaled(explainer(x[index], y[index]).relevance)
    return found
