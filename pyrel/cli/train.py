# SPDX-License-Identifier: Apache-2.0
"""`pyrel train`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyrel.cli.choices import (
    CELLS,
    DATASETS,
    POOLINGS,
    PROBLEMS,
    SCHEDULES,
    one_of,
    whole_numbers,
)
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
    cell: Annotated[
        str,
        typer.Argument(
            metavar="CELL", callback=one_of(CELLS), help=f"The kind of cell: {', '.join(CELLS)}."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for model.safetensors, checkpoint and log.csv.",
            show_default="runs/deep for Deep",
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            callback=one_of(DATASETS),
            metavar="NAME",
            help=f"{', '.join(DATASETS)}. The first comes with pyrel, the others are looked for "
            f"and else downloaded.",
        ),
    ] = "mnist-mini",
    data_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to look for the data set in first."),
    ] = None,
    problem: Annotated[
        str,
        typer.Option(
            callback=one_of(PROBLEMS),
            metavar="NAME",
            help="majority: three images side by side, which class is there twice? sequence: one "
            "image.",
        ),
    ] = "majority",
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Into how many strips a sample is cut.",
            show_default="majority 12, sequence 4",
        ),
    ] = None,
    sizes: Annotated[
        str | None,
        typer.Option(
            callback=whole_numbers,
            metavar="N,...",
            help="Widths of the layers in the order of the data: before the recurrence, the "
            "recurrent cell, after it.",
            show_default="those of the thesis",
        ),
    ] = None,
    recurrent: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Width of what is handed on from step to step; not for RLSTM, which hands on its "
            "cells.",
            show_default="majority 256, sequence 128",
        ),
    ] = None,
    dropout: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0.0,
            max=0.99,
            help="Probability that a unit is dropped.",
            show_default="mnist-mini 0.15, others 0.3, Shallow 0",
        ),
    ] = None,
    stationary: Annotated[
        bool,
        typer.Option(
            "--stationary", help="Draw one dropout mask for each sequence, not one at each step."
        ),
    ] = False,
    convolutions: Annotated[
        str | None,
        typer.Option(
            callback=whole_numbers,
            metavar="N,N",
            help="RLSTM: numbers of maps of two convolutions before it.",
            show_default="no convolutions",
        ),
    ] = None,
    pooling: Annotated[
        str | None,
        typer.Option(
            callback=one_of(POOLINGS),
            metavar="NAME",
            help="What pools of convolutions make of their windows: max, sum.",
            show_default="max",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Passes over the training samples.",
            show_default="mnist-mini 5, others 18",
        ),
    ] = None,
    draws: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Majority samples made of each training image; not for sequence.",
            show_default="mnist-mini 6, others 2",
        ),
    ] = None,
    batch: Annotated[int, typer.Option(metavar="N", min=1, help="Samples in a batch.")] = 100,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Of Adam; the highest one of a schedule.",
            show_default="mnist-mini 0.004, others 0.002",
        ),
    ] = None,
    schedule: Annotated[
        str,
        typer.Option(
            callback=one_of(SCHEDULES),
            metavar="NAME",
            help=f"How the learning rate changes: {', '.join(SCHEDULES)}.",
        ),
    ] = "one-cycle",
    warmup: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="one-cycle: part of the run in which the learning rate rises.",
            show_default="0.3",
        ),
    ] = None,
    decay_epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="step: after how many epochs the learning rate falls, again and again.",
            show_default="a third of the epochs",
        ),
    ] = None,
    decay_factor: Annotated[
        float | None,
        typer.Option(metavar="X", help="step: what it is multiplied by then.", show_default="0.1"),
    ] = None,
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of weights, batches, dropout and draws.")
    ] = 0,
    target_accuracy: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0.0,
            max=1.0,
            help="Stop after the epoch in which the accuracy on held-out samples reaches it, such "
            "as 0.98.",
            show_default="train all epochs",
        ),
    ] = None,
    held_out: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            min=0.0,
            max=0.5,
            help="Part of the training images that accuracy is measured on instead of training.",
            show_default="0, with --target-accuracy 0.1",
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where the same command was interrupted or killed."),
    ] = False,
    device: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="auto (CUDA where torch finds it), cpu, cuda, cuda:1 ..."
        ),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="CPU threads; for these sizes one is as fast as two.",
            show_default="1",
        ),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write a log for TensorBoard too.")
    ] = False,
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
    if held_out is None:
        held_out = 0.0 if target_accuracy is None else 0.1
    if target_accuracy is not None and held_out == 0:
        raise ValueError("--target-accuracy is measured on held-out images: give --held-out 0.1")
    _refuse_ineffective(schedule, warmup, decay_epochs, decay_factor)
    usual = recipe(dataset).config
    passes = usual.epochs if epochs is None else epochs
    if schedule == "step" and decay_epochs is None:
        decay_epochs = math.ceil(passes / 3)
    if tensorboard and find_spec("tensorboard") is None:
        raise ValueError(
            "--tensorboard needs the package tensorboard: pip install 'pyrel[tensorboard]'"
        )
    config = _config(
        usual,
        epochs=passes,
        batch_size=batch,
        learning_rate=learning_rate,
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
