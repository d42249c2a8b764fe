# SPDX-License-Identifier: Apache-2.0
"""`pyrel reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyrel.cli.choices import EXPERIMENTS, one_of
from pyrel.cli.refusals import refusing

EXAMPLES = """\b
Examples:
  pyrel reproduce sequence --quick
  pyrel reproduce sequence --data-root data
"""


@refusing
def reproduce(
    name: Annotated[
        str,
        typer.Argument(
            metavar="NAME", callback=one_of(EXPERIMENTS), help=f"One of {', '.join(EXPERIMENTS)}."
        ),
    ],
    seeds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Trainings of each setting, with the seeds 0, 1, ...",
            show_default="3, or 5 where one takes under 8 minutes",
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="The whole way in seconds, on the shipped digits; the numbers say nothing.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for the page and its figures.",
            show_default="docs/results; with --quick runs/quick",
        ),
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for checkpoints and trained models.",
            show_default="runs/reproduce; with --quick runs/quick/models",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to look for the data sets in first."),
    ] = None,
) -> None:
    """Run an experiment of the sources, from training to a page.

    Trains, explains, measures, and writes NAME.md with tables and figures, the source's own numbers
    beside. A full run takes hours. It may be stopped at any time: the same command goes on with the
    run that was not finished.
    """
    from pyrel.cli.display import bar
    from pyrel.experiment.reproduce import reproduce as run
    from pyrel.training import TrainingInterrupted

    usual = Path("runs/quick") if quick else Path("docs/results")
    pages = out or usual
    kept = models or (usual / "models" if quick else Path("runs/reproduce"))
    try:
        with bar() as progress:
            page = run(
                name,
                seeds=seeds,
                quick=quick,
                data_root=data_root,
                out=pages,
                models=kept,
                say=progress,
            )
    except TrainingInterrupted as stop:
        raise KeyboardInterrupt(
            f"interrupted in epoch {stop.epoch}; the same command goes on from there"
        ) from None
    typer.echo(f"Wrote {page}")
