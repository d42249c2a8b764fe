# SPDX-License-Identifier: Apache-2.0
"""Cells that are trained for an experiment, up to the minimum accuracy of the thesis."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyrel.nn
from pyrel.experiment.problem import Images, Problem
from pyrel.experiment.reproduce.experiment import Settings
from pyrel.experiment.training import TrainedCell, accuracy_on, recipe, train_cell
from pyrel.training import TrainingConfig

# Thesis, table 4.3. What comes with pyrel has no minimum: it only shows the way.
MINIMUM = {"mnist": 0.98, "fashion-mnist": 0.85}
_MOST_EPOCHS = 200  # of the thesis


@dataclass(frozen=True, eq=False)
class Trained:
    """A trained cell and what the training gave.

    Attributes
    ----------
    cell : TrainedCell
    accuracy : float
        Fraction of the test samples classified correctly.
    epochs : int
    seconds : float
        Of all epochs, also of trainings that ended below the minimum.
    """

    cell: TrainedCell
    accuracy: float
    epochs: int
    seconds: float

    def numbers(self) -> dict[str, Any]:
        """Return what is kept of it."""
        facts = self.cell.facts()
        return {
            "accuracy": self.accuracy,
            "epochs": self.epochs,
            "training seconds": round(self.seconds, 1),
            "parameters": facts["parameters"],
        }


def training_config(problem: Problem, seed: int, quick: bool) -> TrainingConfig:
    """Return the settings of the recipe; one epoch for the quick way."""
    usual = recipe(problem.dataset).config
    epochs = 1 if quick else usual.epochs
    return dataclasses.replace(usual, seed=seed, epochs=epochs, device="cpu")


def images_of(problem: Problem, settings: Settings, quick_count: int) -> tuple[Images, Images]:
    """Return the images of training, the first few for the quick way, and those of test."""
    pixels, labels = problem.images("train", settings.data_root)
    count = quick_count if settings.quick else None
    return (pixels[:count], labels[:count]), problem.images("test", settings.data_root)


def train_to_minimum(
    make: Callable[[], pyrel.nn.Cell],
    problem: Problem,
    images: tuple[Images, Images],
    config: TrainingConfig,
    folder: Path,
    *,
    draws: int | None = None,
) -> Trained:
    """Train a cell; where it stays below the minimum accuracy, a new one for twice the epochs.

    Parameters
    ----------
    make
        Returns the untrained cell, always the same.
    problem
    images
        Of training and of test.
    config
    folder
        For checkpoints and models, by number of epochs.
    draws
        As of `train_cell`.
    """
    seconds = 0.0
    while True:
        out = folder / f"{config.epochs}-epochs"
        cell, result = train_cell(
            make(),
            problem,
            images[0],
            config=config,
            draws=draws,
            out=out,
            resume=True,
            progress=False,
        )
        seconds += sum(record.seconds for record in result.history)
        accuracy = accuracy_on(cell, problem, images[1])
        enough = accuracy >= MINIMUM.get(problem.dataset, 0.0)
        if enough or config.epochs >= _MOST_EPOCHS:
            return Trained(cell, accuracy, config.epochs, seconds)
        more = min(2 * config.epochs, _MOST_EPOCHS)
        config = dataclasses.replace(config, epochs=more)


def first_of_each_class(labels: Any, classes: Sequence[int]) -> list[int]:
    """Return the position of the first sample of each class."""
    return [int((labels == c).argmax()) for c in classes]
