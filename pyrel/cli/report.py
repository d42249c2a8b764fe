# SPDX-License-Identifier: Apache-2.0
"""`pyrel report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pyrel.cli.demo import writable_page
from pyrel.cli.refusals import refusing

EXAMPLES = """\b
Examples:
  pyrel report evaluation
  pyrel report evaluation/evaluation.json --out shallow-and-deep.html
"""


@refusing
def report(
    study: Annotated[
        Path,
        typer.Argument(
            metavar="STUDY", help="evaluation.json of pyrel evaluate, or the folder it is in."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="The page to write, or the folder to write report.html in."
        ),
    ] = Path("report.html"),
) -> None:
    """Make a page of numbers and figures from a saved evaluation.

    The page is one HTML file that loads nothing from the network. It says what each number means.
    """
    from pyrel import report as pages
    from pyrel.experiment.demo import STUDY
    from pyrel.metrics import load_study

    page = writable_page(out)
    pages.write(page, load_study(study / STUDY if study.is_dir() else study))
    typer.echo(f"Wrote {page}")
