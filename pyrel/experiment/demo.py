# SPDX-License-Identifier: Apache-2.0
"""The whole way on digits that come with the package: train two cells, explain, judge."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pyrel.experiment.judging import METHODS, Progress, judge
from pyrel.experiment.problem import Problem
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
        Of weights, batches, dropout and the draw of the training samples. The test samples are the
        same for every seed.
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
    progress
        As `judge` takes it.
    training_progress
        Show training on standard error.

    Returns
    -------
    Study

    Raises
    ------
    ValueError, TypeError
        A setting is out of range; the message names it.
    """
    problem = Problem.of("mnist-mini", "majority")
    config = _config(problem, seed, epochs)
    untrained = {name: new_cell(name, problem, seed=seed) for name in cells}
    for method in methods:
        get_method(method)
    pixels, labels = problem.images("train")
    training = pixels[:training_images], labels[:training_images]
    problem.refuse_few(training[1], f"training_images = {training_images}")
    samples = problem.samples(problem.images("test"), count=test_samples)
    trained = []
    for name, model in untrained.items():
        if say is not None:
            say(f"Training {name} from scratch")
        trained.append(
            train_cell(model, problem, training, config=config, progress=training_progress)[0]
        )
        if keep is not None:
            trained[-1].save(_kept_model(Path(keep), name))
    if say is not None:
        say(f"Explaining {len(samples[1]):,} test samples with {len(methods)} methods")
    study = judge(
        trained,
        problem,
        samples,
        methods=methods,
        config={"seed": seed, "training images": len(training[1])},
        progress=progress,
    )
    if keep is not None:
        save_study(Path(keep) / STUDY, study)
    return study


def kept_files(keep: Path) -> list[Path]:
    """Return where `demo` leaves the models and the evaluation in its folder ``keep``."""
    study = keep / STUDY
    return [*(_kept_model(keep, name) for name in CELLS), study, study.with_suffix(".npz")]


def _kept_model(keep: Path, name: str) -> Path:
    return keep / f"{name.lower()}.safetensors"


def _config(problem: Problem, seed: int, epochs: int | None) -> TrainingConfig:
    usual = recipe(problem.dataset).config
    passes = usual.epochs if epochs is None else epochs
    return dataclasses.replace(usual, seed=seed, epochs=passes, device="cpu")
