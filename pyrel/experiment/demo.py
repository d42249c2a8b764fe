# SPDX-License-Identifier: Apache-2.0
"""The whole way on digits that come with the package: train two cells, explain, judge."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from pyrel.experiment.judging import METHODS, Progress, judge
from pyrel.experiment.problem import Images, Problem
from pyrel.experiment.training import TrainedCell, new_cell, recipe, train_cell
from pyrel.metrics import Study, save_study

CELLS = ("Shallow", "Deep")
STUDY = "evaluation.json"


def demo(
    *,
    seed: int = 0,
    epochs: int | None = None,
    cells: Sequence[str] = CELLS,
    methods: Sequence[str] = METHODS,
    limit: tuple[int, int] | None = None,
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
    limit
        (training images, test images) to use; by default all, 5,000 and 1,000.
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
    training, test = (
        _first(problem.images(split), limit and limit[i])
        for i, split in enumerate(("train", "test"))
    )
    trained = []
    for name in cells:
        if say is not None:
            say(f"Training {name} from scratch")
        trained.append(_train(name, problem, training, seed, epochs, training_progress))
        if keep is not None:
            trained[-1].save(Path(keep) / f"{name.lower()}.safetensors")
    if say is not None:
        say(f"Explaining {len(test[1]):,} test samples with {len(methods)} methods")
    study = judge(
        trained,
        problem,
        problem.samples(test),
        methods=methods,
        title=f"What {_and(cells)} look at in majority samples of digits",
        config={"seed": seed, "training images": len(training[1])},
        progress=progress,
    )
    if keep is not None:
        save_study(Path(keep) / STUDY, study)
    return study


def _train(
    name: str, problem: Problem, images: Images, seed: int, epochs: int | None, progress: bool
) -> TrainedCell:
    usual = recipe(problem.dataset).config
    # One thread trains these cells as fast as two, and the weights do not depend on the machine's
    # number of cores.
    config = dataclasses.replace(
        usual, seed=seed, epochs=usual.epochs if epochs is None else epochs, threads=1, device="cpu"
    )
    model = new_cell(name, problem, seed=seed)
    return train_cell(model, problem, images, config=config, progress=progress)[0]


def _first(images: Images, count: int | None) -> Images:
    return images[0][:count], images[1][:count]


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
