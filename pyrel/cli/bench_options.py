# SPDX-License-Identifier: Apache-2.0
"""The options of `pyrel bench`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from pyrel.cli.choices import BENCHMARKED, BENCHMARKED_CELLS, CONTESTANTS, some_of, whole_numbers

Cells: TypeAlias = Annotated[
    str,
    typer.Option(
        callback=some_of((*BENCHMARKED_CELLS, "all")),
        metavar="NAMES",
        help=f"Some of {', '.join(BENCHMARKED_CELLS)}, divided by commas, or all; at the "
        f"thesis's sizes. ConvDeepWide is ConvDeep at its default sizes; LSTM and GRU have 200 "
        f"inputs and two layers of 300.",
    ),
]
Steps: TypeAlias = Annotated[
    str,
    typer.Option(
        callback=whole_numbers,
        metavar="NUMBERS",
        help="Steps of a sequence: divisors of 28 cut one image, of 84 three side by side. "
        "ConvDeepWide, LSTM and GRU take any number.",
    ),
]
Batches: TypeAlias = Annotated[
    str,
    typer.Option(callback=whole_numbers, metavar="NUMBERS", help="Samples in a call."),
]
Methods: TypeAlias = Annotated[
    str,
    typer.Option(
        callback=some_of((*BENCHMARKED, "all")),
        metavar="NAMES",
        help=f"Some of {', '.join(BENCHMARKED)}, divided by commas, or all. LSTM and GRU have "
        f"lrp_epsilon, ConvDeep deep_taylor.",
    ),
]
Peers: TypeAlias = Annotated[
    str,
    typer.Option(
        callback=some_of((*CONTESTANTS, "all", "none")),
        metavar="NAMES",
        help=f"Whom to measure beside pyrel: some of {', '.join(CONTESTANTS)}, all or none.",
    ),
]
Model: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="MODEL",
        help="A model that pyrel train saved, measured on test samples of its data set. "
        "--cells and --steps do not count then.",
        show_default="random weights and inputs",
    ),
]
Blocks: TypeAlias = Annotated[
    int,
    typer.Option(metavar="N", min=1, help="Rounds; in each of them the peak and all have a turn."),
]
Calls: TypeAlias = Annotated[
    int, typer.Option(metavar="N", min=1, help="Calls of a turn; the fastest counts.")
]
Pause: TypeAlias = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Silence before a turn.")
]
Threads: TypeAlias = Annotated[
    int | None,
    typer.Option(metavar="N", min=1, help="For everybody.", show_default="as many as processors"),
]
Seed: TypeAlias = Annotated[
    int, typer.Option(metavar="N", min=0, help="Of random weights and inputs.")
]
Out: TypeAlias = Annotated[
    Path,
    typer.Option(
        metavar="FILE", help="Where to write all measurements; complete after every case."
    ),
]
Plots: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder for figures (SVG).", show_default="none"),
]
Markdown: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the tables as markdown too.", show_default="none"),
]
Source: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Measure nothing: show an earlier run, from what --out wrote.",
        show_default="measure",
    ),
]
