# SPDX-License-Identifier: Apache-2.0
"""`pyrel train`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from pyrel.cli import train_options as options
from pyrel.cli.refusals import refusing
from pyrel.cli.stopping import Stopped

if TYPE_CHECKING:
    from pyrel.training import TrainingConfig


EXAMPLES = """\b
Examples:
  pyrel train Deep
  pyrel train Deep --dataset mnist --target-accuracy 0.98 --out runs/deep-mnist
  pyrel train Shallow --problem sequence --steps 7 --sizes 768 --recurrent 128
"""


@refusing
def train(
    cell: options.Cell,
    out: options.Out = None,
    dataset: options.Dataset = "mnist-mini",
    data_root: options.DataRoot = None,
    problem: options.Problem = "majority",
    steps: options.Steps = None,
    sizes: options.Sizes = None,
    recurrent: options.Recurrent = None,
    dropout: options.Dropout = None,
    stationary: options.Stationary = False,
    convolutions: options.Convolutions = None,
    pooling: options.Pooling = None,
    epochs: options.Epochs = None,
    draws: options.Draws = None,
    batch: options.Batch = 100,
    learning_rate: options.LearningRate = None,
    optimizer: options.Optimizer = "adam",
    schedule: options.Schedule = "one-cycle",
    warmup: options.Warmup = None,
    decay_epochs: options.DecayEpochs = None,
    decay_factor: options.DecayFactor = None,
    seed: options.Seed = 0,
    target_accuracy: options.TargetAccuracy = None,
    held_out: options.HeldOut = None,
    resume: options.Resume = False,
    device: options.Device = "auto",
    threads: options.Threads = None,
    tensorboard: options.Tensorboard = False,
) -> None:
    """Train a recurrent cell.

    Ends with the accuracy on the test images, and the model in a file. A checkpoint is saved after
    every epoch: after Ctrl-C or a crash, the same command with --resume goes on and ends with the
    same weights. Settings that are not given are those found to work for the data set.
    """
    from pyrel.experiment import Problem, accuracy_on, new_cell, recipe, train_cell
    from pyrel.experiment.training import MODEL
    from pyrel.training.loop import CHECKPOINT

    folder = out or Path("runs") / cell.lower()
    task = Problem.of(dataset, problem, steps)  # type: ignore[arg-type]
    if draws is not None and problem == "sequence":
        raise typer.BadParameter(
            "has no effect on --problem sequence, which takes each image once",
            param_hint="--draws",
        )
    held_out = _held_out(held_out, target_accuracy)
    _refuse_ineffective(schedule, warmup, decay_epochs, decay_factor)
    if tensorboard and find_spec("tensorboard") is None:
        raise ValueError(
            "--tensorboard needs the package tensorboard: pip install 'pyrel[tensorboard]'"
        )
    config = _config(
        recipe(dataset).config,
        epochs=epochs,
        batch_size=batch,
        learning_rate=learning_rate,
        optimizer=optimizer,
        schedule=schedule,
        warmup=warmup,
        decay_epochs=decay_epochs,
        decay_factor=decay_factor,
        seed=seed,
        target_accuracy=target_accuracy,
        device=device,
        threads=threads,
    )
    model = new_cell(
        cell,
        task,
        seed=seed,
        sizes=_numbers(sizes),
        recurrent=recurrent,
        dropout=dropout,
        stationary=stationary or None,
        convolutions=_numbers(convolutions),
        pooling=pooling,
    )
    images = task.images("train", data_root)
    test_images = task.images("test", data_root)
    if resume and not (folder / CHECKPOINT).exists():
        typer.echo(f"{folder} has no run to go on with: starting a new one")
    with _in_words_of_options(folder):
        trained, _ = train_cell(
            model,
            task,
            images,
            config=config,
            draws=draws,
            held_out=held_out,
            out=folder,
            resume=resume,
            tensorboard=tensorboard,
        )
    accuracy = accuracy_on(trained, task, test_images)
    typer.echo(f"Accuracy on {len(test_images[1]):,} test samples: {100 * accuracy:.2f} %")
    typer.echo(f"Wrote {folder / MODEL}")


def _numbers(value: str | None) -> list[int] | None:
    return None if value is None else [int(number) for number in value.split(",")]


def _held_out(given: float | None, target_accuracy: float | None) -> float:
    """Return the part of the images to measure accuracy on; a target needs some."""
    if target_accuracy is not None and given == 0:
        raise ValueError("--target-accuracy is measured on held-out images: give --held-out 0.1")
    return (0.0 if target_accuracy is None else 0.1) if given is None else given


def _refuse_ineffective(
    schedule: str, warmup: float | None, decay_epochs: int | None, decay_factor: float | None
) -> None:
    """Refuse settings of a schedule other than the one that is used."""
    for option, value, of in (
        ("--warmup", warmup, "one-cycle"),
        ("--decay-epochs", decay_epochs, "step"),
        ("--decay-factor", decay_factor, "step"),
    ):
        if value is not None and schedule != of:
            raise typer.BadParameter(
                f"has no effect on --schedule {schedule}, only on {of}", param_hint=option
            )


def _config(usual: TrainingConfig, **given: Any) -> TrainingConfig:
    """Return the usual settings with those that were given in their place."""
    changes = {name: value for name, value in given.items() if value is not None}
    if given["schedule"] == "step" and given["decay_epochs"] is None:
        changes["decay_epochs"] = math.ceil(changes.get("epochs", usual.epochs) / 3)
    return dataclasses.replace(usual, **changes)


@contextmanager
def _in_words_of_options(folder: Path) -> Iterator[None]:
    """Say what to do next as options of the command, where the library names its arguments."""
    from pyrel.training import TrainingInterrupted
    from pyrel.training.loop import CHECKPOINT

    try:
        yield
    except FileExistsError:
        if not (folder / CHECKPOINT).exists():
            raise
        raise ValueError(
            f"{folder} has a run already; add --resume to go on with it, or give another --out"
        ) from None
    except TrainingInterrupted as stop:
        kept = _kept(stop.checkpoint)
        raise KeyboardInterrupt(f"interrupted in epoch {stop.epoch}; {kept}") from None
    except Stopped as stopped:
        checkpoint = folder / CHECKPOINT
        kept = _kept(checkpoint if checkpoint.exists() else None)
        stopped.text = f"stopped by {stopped.name}; {kept}"
        raise


def _kept(checkpoint: Path | None) -> str:
    if checkpoint is None:
        return "nothing is saved yet, for a checkpoint is written after each epoch"
    return f"{checkpoint} is whole; the same command with --resume goes on from there"
