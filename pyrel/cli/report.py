# SPDX-License-Identifier: Apache-2.0
"""`pyrel report`."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Annotated

import typer

from pyrel.cli.demo import PAGE, make_writable, page_path
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
            parser=page_path,
            metavar="FILE",
            help="The page to write; in a folder, which a name without a suffix is, report.html.",
        ),
    ] = Path(PAGE),
) -> None:
    """Make a page of heatmaps and numbers from an evaluation.

    On the page you pick a sample, a class, a method and a model. It is one HTML file that needs no
    server and loads nothing from the network, and it says what each number means.
    """
    from pyrel.experiment.demo import STUDY
    from pyrel.files.places import refuse_overwriting
    from pyrel.metrics import load_study
    from pyrel.report import write

    source = study / STUDY if study.is_dir() else study
    if not source.exists():
        told = "there is no such evaluation; pyrel evaluate writes one"
        raise FileNotFoundError(errno.ENOENT, told, str(source))
    if source.suffix != ".json":
        raise ValueError(
            f"{source} is not an evaluation, which is the file {STUDY} of pyrel evaluate, or the "
            f"folder it is in"
        )
    arrays = source.with_suffix(".npz")
    refuse_overwriting(out, {"the evaluation": source, "a file of the evaluation": arrays})
    make_writable(out)
    write(out, load_study(source))
    typer.echo(f"Wrote {out}")
