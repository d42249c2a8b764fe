# SPDX-License-Identifier: Apache-2.0
"""The options of `pyrel explain`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from pyrel.cli.choices import METHODS, one_of
from pyrel.methods.registry import elsewhere

Model: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL",
        help="A model that pyrel trained (.safetensors), a program of --save-program or "
        "Explainer.save, or with --trust a .pt2 of torch.export.",
    ),
]
Source: TypeAlias = Annotated[
    Path,
    typer.Argument(
        metavar="INPUT",
        help="Samples (n, ...) as floats, or token ids as integers: .npy, read part by part, "
        "or .npz, read whole.",
    ),
]
Out: TypeAlias = Annotated[Path, typer.Option(metavar="FILE", help="The .npz file to write.")]
Method: TypeAlias = Annotated[
    str | None,
    typer.Option(
        callback=one_of(METHODS, elsewhere),
        metavar="NAME",
        help=f"One of {', '.join(METHODS)}. A program has its own. deep_taylor_minmax needs a "
        "second network and is in Python alone: pyrel.experiment.DeepTaylorMinMax.",
        show_default="deep_taylor",
    ),
]
Patterns: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Patterns that pyrel.patterns.fit made of samples and Patterns.save wrote; "
        "pattern_net and pattern_attribution need them.",
    ),
]
Target: TypeAlias = Annotated[
    str,
    typer.Option(
        metavar="CLASS",
        help="The class to explain: 'predicted', a number, or an .npy file with one for each "
        "sample. For outputs of several dimensions, such as scores of each step, numbers with "
        "commas, 3,1, or an .npy file of shape (n, dimensions).",
    ),
]
Output: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Which of several outputs of a .pt2 to explain: the name or number that it has there.",
        show_default="the only one",
    ),
]
Lengths: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An .npy file with the number of steps of each sequence, integers (n). Steps "
        "beyond are not looked at, and their relevance is 0.",
        show_default="all are as long as in INPUT",
    ),
]
Low: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Smallest value that inputs take, at most 0.",
        show_default="what the model's file says",
    ),
]
High: TypeAlias = Annotated[
    float | None,
    typer.Option(
        metavar="X",
        help="Largest value that inputs take, at least 0.",
        show_default="what the model's file says",
    ),
]
Key: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Name of the array in INPUT.npz.", show_default="the only one"
    ),
]
Device: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="What explains: cpu, cuda or one of several GPUs, as cuda:1. GPUs need a pyrel "
        "built with CUDA.",
        show_default="cpu",
    ),
]
Precision: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="How products are formed: float32, bf16 or bf16_all (the products of relevance, or "
        "all, from numbers of bfloat16), on GPUs also tf32x3 or tf32.",
        show_default="float32",
    ),
]
SaveProgram: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write the compiled program too: model, method and range of the inputs in a file "
        "that is safe to load and can be given as MODEL.",
    ),
]
LimitFactor: TypeAlias = Annotated[
    float,
    typer.Option(
        metavar="X",
        min=1.0,
        help="Read a MODEL that is X times as large as pyrel reads from strangers, in every "
        "number: steps, instructions, memory and others.",
    ),
]
Trust: TypeAlias = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Load a .pt2. Loading one can execute code that is hidden in it: do so only with "
        "files of your own or of people you trust. Models that pyrel saves need no trust.",
    ),
]
