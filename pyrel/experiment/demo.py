# SPDX-License-Identifier: Apache-2.0
"""The whole way on digits that come with the package: train two cells, explain, judge."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pyrel.experiment.judging import METHODS, Progress, judge
from pyrel.experiment.problem import Images, Problem
from pyrel.experiment.training import new_cell, recipe, train_cell
from pyrel.methods import get as get_method
from pyrel.metrics import Study, save_study
from pyrel.training import TrainingConfig

CELLS = ("Shallow", "Deep")
STUDY = "evaluation.json"


def demo(
    *,
    seed: int = 0,
    epochs: int | None = None,
    cells: Sequence[str] = CELLS,
    methods: Sequence[str] = METHODS,
    training_images: int | None = None,
    test_samples: int | None = None,
    keep: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
    training_progress: bool = False,
) -> Study:
    """Train cells on majority samples of mnist-mini, explain the test samples and judge.

    Parameters
    ----------
    seed
        Of weights, batches, dropout and the draw of the training samples, not of the test samples.
    epochs
        By default those of the recipe for mnist-mini.
    cells, methods
        By name.
    training_images, test_samples
        How many to use, the first; by default all, 5,000 and 1,000.
    keep
        Folder to leave the trained models and the evaluation in.
    say
        Called with a line on what comes next.
    progress, training_progress
        As `judge` takes it; show training on standard error.

    Raises
    ------
    ValueError, TypeError
        A setting is out of range; the message names it.
    """
    say = say or _say_nothing
    problem = Problem.of("mnist-mini", "majority")
    config = _config(problem, seed, epochs)
    untrained = {name: new_cell(name, problem, seed=seed) for name in cells}
    list(map(get_method, methods))
    training = _first_images(problem, training_images)
    samples = problem.samples(problem.images("test"), count=test_samples)
    trained = []
    for name, model in untrained.items():
        say(f"Training {name} from scratch")
        cell, _ = train_cell(model, problem, training, config=config, progress=training_progress)
        trained.append(cell)
        if keep is not None:
            cell.save(_kept_model(Path(keep), name))
    say(f"Explaining {len(samples[1]):,} test samples with {len(methods)} methods")
    settings = {"seed": seed, "training images": len(training[1])}
    study = judge(trained, problem, samples, methods=methods, config=settings, progress=progress)
    if keep is not None:
        save_study(Path(keep) / STUDY, study)
    return study


def kept_files(keep: Path) -> list[Path]:
    """Return where `demo` leaves the models and the evaluation in its folder ``keep``."""
    study = keep / STUDY
    return [*(_kept_model(keep, name) for name in CELLS), study, study.with_suffix(".npz")]


def _say_nothing(text: str) -> None:
    """Take the place of `say` where nobody listens."""


def _first_images(problem: Problem, count: int | None) -> Images:
    pixels, labels = problem.images("train")
    problem.refuse_few(labels[:count], f"training_images = {count}")
    return pixels[:count], labels[:count]


def _kept_model(keep: Path, name: str) -> Path:
    return keep / f"{name.lower()}.safetensors"


def _config(problem: Problem, seed: int, epochs: int | None) -> TrainingConfig:
    usual = recipe(problem.dataset).config
    passes = usual.epochs if epochs is None else epochs
    return dataclasses.replace(usual, seed=seed, epochs=passes, device="cpu")
