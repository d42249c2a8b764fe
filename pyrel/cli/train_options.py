# SPDX-License-Identifier: Apache-2.0
"""The options of `pyrel train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from pyrel.cli.choices import (
    CELLS,
    DATASETS,
    OPTIMIZERS,
    POOLINGS,
    PROBLEMS,
    SCHEDULES,
    one_of,
    whole_numbers,
)

Cell: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="CELL", callback=one_of(CELLS), help=f"The kind of cell: {', '.join(CELLS)}."
    ),
]
Out: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Folder for model.safetensors, checkpoint and log.csv.",
        show_default="runs/deep for Deep",
    ),
]
Dataset: TypeAlias = Annotated[
    str,
    typer.Option(
        callback=one_of(DATASETS),
        metavar="NAME",
        help=f"{', '.join(DATASETS)}. The first comes with pyrel, the others are looked for "
        f"and else downloaded.",
    ),
]
DataRoot: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder to look for the data set in first."),
]
Problem: TypeAlias = Annotated[
    str,
    typer.Option(
        callback=one_of(PROBLEMS),
        metavar="NAME",
        help="majority: three images side by side, which class is there twice? sequence: one "
        "image.",
    ),
]
Steps: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Into how many strips a sample is cut.",
        show_default="majority 12, sequence 4",
    ),
]
Sizes: TypeAlias = Annotated[
    str | None,
    typer.Option(
        callback=whole_numbers,
        metavar="N,...",
        help="Widths of the layers in the order of the data: before the recurrence, the "
        "recurrent cell, after it.",
        show_default="those of the thesis",
    ),
]
Recurrent: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Width of what is handed on from step to step; not for RLSTM, which hands on its "
        "cells.",
        show_default="majority 256, sequence 128",
    ),
]
Dropout: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=0.0,
        max=0.99,
        help="Probability that a unit is dropped.",
        show_default="mnist-mini 0.15, others 0.3, Shallow 0",
    ),
]
Stationary: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--stationary", help="Draw one dropout mask for each sequence, not one at each step."
    ),
]
Convolutions: TypeAlias = Annotated[
    str | None,
    typer.Option(
        callback=whole_numbers,
        metavar="N,N",
        help="RLSTM: numbers of maps of two convolutions before it.",
        show_default="no convolutions",
    ),
]
Pooling: TypeAlias = Annotated[
    str | None,
    typer.Option(
        callback=one_of(POOLINGS),
        metavar="NAME",
        help="What pools of convolutions make of their windows: max, sum.",
        show_default="max",
    ),
]
Epochs: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Passes over the training samples.",
        show_default="mnist-mini 5, others 18",
    ),
]
Draws: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="Majority samples made of each training image; not for sequence.",
        show_default="mnist-mini 6, others 2",
    ),
]
Batch: TypeAlias = Annotated[int, typer.Option(metavar="N", min=1, help="Samples in a batch.")]
LearningRate: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="The highest one of a schedule.",
        show_default="mnist-mini 0.004, others 0.002",
    ),
]
Optimizer: TypeAlias = Annotated[
    str,
    typer.Option(
        callback=one_of(OPTIMIZERS),
        metavar="NAME",
        help="adam, or sgd: stochastic gradient descent with momentum 0.9, which needs a "
        "learning rate of its own.",
    ),
]
Schedule: TypeAlias = Annotated[
    str,
    typer.Option(
        callback=one_of(SCHEDULES),
        metavar="NAME",
        help=f"How the learning rate changes: {', '.join(SCHEDULES)}.",
    ),
]
Warmup: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="one-cycle: part of the run in which the learning rate rises.",
        show_default="0.3",
    ),
]
DecayEpochs: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="step: after how many epochs the learning rate falls, again and again.",
        show_default="a third of the epochs",
    ),
]
DecayFactor: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="X", help="step: what it is multiplied by then.", show_default="0.1"),
]
Seed: TypeAlias = Annotated[
    int, typer.Option(metavar="N", min=0, help="Of weights, batches, dropout and draws.")
]
TargetAccuracy: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=0.0,
        max=1.0,
        help="Stop after the epoch in which the accuracy on held-out samples reaches it, such "
        "as 0.98.",
        show_default="train all epochs",
    ),
]
HeldOut: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        min=0.0,
        max=0.5,
        help="Part of the training images that accuracy is measured on instead of training.",
        show_default="0, with --target-accuracy 0.1",
    ),
]
Resume: TypeAlias = Annotated[
    bool,
    typer.Option("--resume", help="Go on where the same command was interrupted or killed."),
]
Device: TypeAlias = Annotated[
    str,
    typer.Option(metavar="NAME", help="auto (CUDA where torch finds it), cpu, cuda, cuda:1 ..."),
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        help="CPU threads; for these sizes one is as fast as two.",
        show_default="1",
    ),
]
Tensorboard: TypeAlias = Annotated[
    bool, typer.Option("--tensorboard", help="Write a log for TensorBoard too.")
]
