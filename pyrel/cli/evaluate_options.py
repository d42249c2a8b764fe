# SPDX-License-Identifier: Apache-2.0
"""The options of `pyrel evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from pyrel.cli.choices import DATASETS, METHODS, one_of, some_of
from pyrel.methods.registry import elsewhere

Models: TypeAlias = Annotated[
    list[Path], typer.Argument(metavar="MODEL", help="Models that pyrel train saved.")
]
Out: TypeAlias = Annotated[
    Path, typer.Option(metavar="DIR", help="Folder to write the evaluation in.")
]
Methods: TypeAlias = Annotated[
    str,
    typer.Option(
        callback=some_of(METHODS, elsewhere),
        metavar="NAMES",
        help=f"Divided by commas; of {', '.join(METHODS)}. By default those of the "
        "thesis, in whose cells lrp_epsilon would repeat gradient_x_input.",
    ),
]
Samples: TypeAlias = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=2,
        help="Number of test samples to take, the first.",
        show_default="all",
    ),
]
Shown: TypeAlias = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Number of samples whose heatmaps the report shows."),
]
Degraded: TypeAlias = Annotated[
    int,
    typer.Option(
        metavar="N",
        min=0,
        help="Number of samples of the degradation curves, the first; 0 leaves the curves out.",
    ),
]
Dataset: TypeAlias = Annotated[
    str | None,
    typer.Option(
        callback=one_of(DATASETS),
        metavar="NAME",
        help=f"Test images to take: {', '.join(DATASETS)}.",
        show_default="what the models were trained on",
    ),
]
DataRoot: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder to look for the data set in first."),
]
