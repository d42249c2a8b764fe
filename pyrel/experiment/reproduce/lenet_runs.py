# SPDX-License-Identifier: Apache-2.0
"""LeNet at several dropout rates, trained by Adam and by gradient descent (thesis, figure 4.15)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.experiment.problem import HIGH, LOW, Problem
from pyrel.experiment.reproduce.experiment import Settings
from pyrel.experiment.reproduce.majority_runs import PICTURES, datasets
from pyrel.experiment.reproduce.pictures import in_bytes, scaled
from pyrel.experiment.reproduce.runs import Found, Run
from pyrel.experiment.reproduce.trained import (
    first_of_each_class,
    images_of,
    train_to_minimum,
    training_config,
)
from pyrel.experiment.training import new_cell
from pyrel.explainer import Explainer
from pyrel.metrics import pixel_mass_map
from pyrel.training import TrainingConfig
from pyrel.training.config import Optimizer

Net = tuple[Optimizer, float]  # and the dropout rate

RATES = (0.0, 0.25, 0.5, 0.75)
OPTIMIZERS: dict[Optimizer, float] = {"adam": 2e-3, "sgd": 5e-2}  # and their highest learning rates
COMPARED = 0.5  # the thesis's rate, at which both optimisers are compared
SHOWN = (0, 1, 5, 9)  # classes of the heatmaps
_EPOCHS, _QUICK_IMAGES, _EXPLAINED = 6, 300, 1000


def settings_of(settings: Settings) -> list[Net]:
    """Return (optimiser, dropout rate) of each net."""
    rates = (0.0, COMPARED) if settings.quick else RATES
    return [*(("adam", rate) for rate in rates), ("sgd", COMPARED)]


def name(dataset: str, optimizer: str, rate: float, seed: int) -> str:
    """Return the name of a run."""
    return f"{dataset}-LeNet-{optimizer}-dropout-{rate:g}-seed-{seed}"


def runs(settings: Settings) -> list[Run]:
    """Return a run for each net, data set and seed."""
    return [
        _run(dataset, optimizer, rate, seed, settings)
        for seed in range(settings.seeds)
        for dataset in datasets(settings)
        for optimizer, rate in settings_of(settings)
    ]


def _run(dataset: str, optimizer: Optimizer, rate: float, seed: int, settings: Settings) -> Run:
    problem = Problem(dataset, "sequence", 1)
    usual = training_config(problem, seed, settings.quick)
    config = dataclasses.replace(
        usual,
        optimizer=optimizer,
        learning_rate=OPTIMIZERS[optimizer],
        epochs=usual.epochs if settings.quick else _EPOCHS,
    )
    told = {
        **{"cell": "LeNet", "dropout": rate, "data": vars(problem), "quick": settings.quick},
        **{"training": config.to_dict(), "methods": list(PICTURES), "explained": _EXPLAINED},
    }
    work = partial(_work, problem, rate, config, settings)
    return Run(name(dataset, optimizer, rate, seed), told, work)


def _work(
    problem: Problem, rate: float, config: TrainingConfig, settings: Settings, folder: Path
) -> Found:
    images = images_of(problem, settings, _QUICK_IMAGES)
    trained = train_to_minimum(
        partial(new_cell, "LeNet", problem, seed=config.seed, dropout=rate),
        problem,
        images,
        config,
        folder,
    )
    x, y, _ = problem.samples(images[1], count=_QUICK_IMAGES if settings.quick else _EXPLAINED)
    index = first_of_each_class(y, SHOWN)
    told = {}
    arrays: dict[str, npt.NDArray[Any]] = {"x": in_bytes(x[index])}
    for method in PICTURES:
        relevance = Explainer(trained.cell.model, x[:1], method, low=LOW, high=HIGH)(x, y).relevance
        told[method] = _noise(relevance, x)
        arrays[method] = scaled(relevance[index])
    numbers = trained.numbers() | {"noise": told, "samples": len(x)}
    return Found(numbers, arrays if config.seed == 0 else {})


def _noise(relevance: npt.NDArray[np.float32], x: npt.NDArray[np.float32]) -> Mapping[str, Any]:
    """Return what can be counted of "noisy", as means over samples.

    ``outside``: share of the positive relevance on pixels that are empty. ``variation``: total
    variation of the map over pixels side by side, by its sum: how much neighbours differ.
    """
    maps = np.maximum(relevance, 0).astype(np.float64)
    total = maps.sum(axis=(1, 2, 3))
    used = total > 0
    maps, total, empty = maps[used], total[used], pixel_mass_map(x[used], LOW) == 0
    varied = sum(np.abs(np.diff(maps, axis=axis)).sum(axis=(1, 2, 3)) for axis in (2, 3))
    return {
        "outside": float(((maps * empty).sum(axis=(1, 2, 3)) / total).mean()),
        "variation": float((varied / total).mean()),
        "left out": int((~used).sum()),
    }
