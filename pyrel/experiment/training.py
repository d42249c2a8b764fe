# SPDX-License-Identifier: Apache-2.0
"""Train a cell on a problem, with the settings that were found to work unless told otherwise."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import pyrel.nn
from pyrel.experiment.problem import HIGH, LOW, Images, Problem
from pyrel.training import (
    RECIPES,
    Recipe,
    TrainingConfig,
    TrainingResult,
    evaluate,
    load_model,
    save_model,
    train,
)

MODEL = "model.safetensors"


@dataclass(frozen=True, eq=False)
class TrainedCell:
    """A trained cell, with what has to be known to judge it.

    Attributes
    ----------
    name : str
        What tables call it.
    model : pyrel.nn.Cell
        In eval mode, on the CPU.
    problem : Problem or None
        What it was trained on; None for a file that does not say.
    low, high : number, list or None
        Range of its inputs, as `pyrel.Explainer` takes it.
    training : dict
        `TrainingResult.summary()`, "draws" and "held_out" as `train_cell` takes them; empty where
        unknown.
    """

    name: str
    model: pyrel.nn.Cell
    problem: Problem | None
    low: Any
    high: Any
    training: dict[str, Any]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the cell to a file that `load_cell` and `pyrel.training.load_model` read."""
        extra = {} if self.problem is None else {"problem": vars(self.problem)}
        save_model(
            path, self.model, low=self.low, high=self.high, training=self.training, extra=extra
        )

    def facts(self) -> dict[str, str | int | float]:
        """Return the numbers that a report prints with the cell."""
        parameters = sum(value.numel() for value in self.model.parameters())
        facts: dict[str, str | int | float] = {"parameters": parameters}
        if self.training:
            facts["epochs"] = self.training["epochs"]
            facts["training seconds"] = float(self.training["seconds"])
        return facts


def load_cell(path: str | os.PathLike[str], name: str | None = None) -> TrainedCell:
    """Read a cell that `TrainedCell.save` or `pyrel.training.save_model` wrote.

    Parameters
    ----------
    path
        The file.
    name
        What tables call it; by default the kind of cell.

    Raises
    ------
    OSError, ValueError
        As `pyrel.training.load_model`.
    """
    model, metadata = load_model(path)
    return TrainedCell(
        name=name or type(model).__name__,
        model=model,
        problem=Problem.from_metadata(metadata),
        low=metadata["low"],
        high=metadata["high"],
        training=metadata["training"],
    )


def recipe(dataset: str) -> Recipe:
    """Return the settings for a data set; Fashion-MNIST, of the size of MNIST, has those of it."""
    return RECIPES.get(dataset, RECIPES["mnist"])


def new_cell(
    name: str,
    problem: Problem,
    *,
    seed: int = 0,
    sizes: Sequence[int] | None = None,
    recurrent: int | None = None,
    dropout: float | None = None,
    stationary: bool | None = None,
    convolutions: Sequence[int] | None = None,
    pooling: str | None = None,
) -> pyrel.nn.Cell:
    """Return an untrained cell for a problem; torch's random state stays as it is.

    Parameters
    ----------
    name
        A name of `pyrel.nn.names()`.
    problem
        Sets steps, shape of a step and, unless told otherwise, the sizes: those of the thesis's
        experiment 2 for majority samples, of experiment 1 for single images.
    seed
        Of the first weights, at least 0.
    sizes, recurrent, dropout, stationary, convolutions, pooling
        As the cell takes them. Dropout by default as the recipe of the data set says, 0 for
        Shallow.

    Raises
    ------
    TypeError, ValueError
        As the cell; or an argument is given that it does not take.
    """
    kind = pyrel.nn.cell_type(name)
    options: dict[str, Any] = {"step_shape": problem.step_shape}
    if kind is not pyrel.nn.Shallow:
        options["dropout"] = recipe(problem.dataset).dropout
    wishes: dict[str, Any] = {
        "sizes": sizes, "recurrent": recurrent, "dropout": dropout, "stationary": stationary,
        "convolutions": convolutions, "pooling": pooling,
    }  # fmt: skip
    given = {key: value for key, value in wishes.items() if value is not None}
    if foreign := sorted(given.keys() - pyrel.nn.arguments_of(kind)):
        raise ValueError(
            f"{foreign[0]}: given {given[foreign[0]]}, but {name} has no such argument"
        )
    options |= given
    make = kind.for_majority if problem.kind == "majority" else kind
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(problem.steps, **options)


def train_cell(
    model: pyrel.nn.Cell,
    problem: Problem,
    images: Images,
    *,
    config: TrainingConfig,
    draws: int | None = None,
    held_out: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
) -> tuple[TrainedCell, TrainingResult]:
    """Train a cell on the training images of a problem.

    Parameters
    ----------
    model
        From `new_cell`; trained in place.
    problem, config
        What to make of the images, and the settings of the run.
    images
        Pair of training images (n, 28, 28) and labels (n,).
    draws
        Majority samples of each image, by default those of the recipe. Not for `sequence`.
    held_out
        Part of the images, in [0, 0.5], to measure accuracy on after each epoch instead.
    out
        Folder for checkpoints, log and the trained model, `model.safetensors`.
    resume, progress, tensorboard
        As `pyrel.training.train`.

    Raises
    ------
    ValueError
        `held_out` is outside [0, 0.5], or leaves too few images for one of the two parts; or
        `draws` is given for a problem without draws. Others as `pyrel.training.train`.
    """
    draws = _draws(problem, draws)
    kept, validation = split(images, held_out)
    problem.refuse_few(kept[1], f"training images beside held_out = {held_out}")
    if validation is not None:
        problem.refuse_few(validation[1], f"held_out = {held_out}")
    x, y = _training_samples(problem, kept, config, draws)
    result = train(
        model,
        x,
        y,
        config=config,
        validation=None if validation is None else problem.samples(validation)[:2],
        out=out,
        resume=resume,
        progress=progress,
        tensorboard=tensorboard,
    )
    summary = result.summary() | {"draws": draws, "held_out": held_out}
    cell = TrainedCell(type(model).__name__, model.cpu(), problem, LOW, HIGH, summary)
    if out is not None:
        cell.save(Path(out) / MODEL)
    return cell, result


def _draws(problem: Problem, given: int | None) -> int | None:
    """Return how many samples are drawn for each image, None where none are."""
    if problem.kind == "majority":
        return recipe(problem.dataset).draws if given is None else given
    if given is not None:
        raise ValueError(
            f"draws: given {given}, but only majority samples are drawn; a sequence problem "
            f"has one sample for each image"
        )
    return None


def accuracy_on(cell: TrainedCell, problem: Problem, images: Images) -> float:
    """Return the part of the samples of these images that the cell gets right, in [0, 1]."""
    x, y, _ = problem.samples(images)
    return evaluate(cell.model, x, y).accuracy


def split(images: Images, held_out: float) -> tuple[Images, Images | None]:
    """Return the images to train on and those held out, None where there are none.

    Those held out lie at even distances, so that the parts are alike whatever the order.
    """
    if not 0 <= held_out <= 0.5:
        raise ValueError(f"held_out: wanted a part from 0 to 0.5, given {held_out}")
    count = len(images[1])
    chosen = np.zeros(count, dtype=np.bool_)
    chosen[np.linspace(0, count - 1, round(count * held_out)).astype(np.intp)] = True
    if not chosen.any():
        return images, None
    pixels, labels = images
    return (pixels[~chosen], labels[~chosen]), (pixels[chosen], labels[chosen])


def _training_samples(
    problem: Problem, images: Images, config: TrainingConfig, draws: int | None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    if draws is None:
        x, y, _ = problem.samples(images)
        return x, y
    wanted = dataclasses.replace(recipe(problem.dataset), config=config, draws=draws)
    samples = wanted.samples(*images, problem.steps)
    return samples.x, samples.y
