# SPDX-License-Identifier: Apache-2.0
"""`pyrel demo`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from pyrel.cli.refusals import refusing

PAGE = "report.html"
EXAMPLES = """\b
Examples:
  pyrel demo
  pyrel demo --seed 1 --out seed1.html --keep seed1
"""


def page_path(text: str | Path) -> Path:
    """Read --out of a page; in a folder, or for a name without a suffix, it is report.html."""
    path = Path(text)
    names_one = not path.suffix and not path.is_file()
    is_folder = str(text).endswith(("/", os.sep)) or path.is_dir() or names_one
    return path / PAGE if is_folder else path


@refusing
def demo(
    out: Annotated[
        Path,
        typer.Option(
            parser=page_path,
            metavar="FILE",
            help="The page to write; in a folder, which a name without a suffix is, report.html.",
        ),
    ] = Path(PAGE),
    seed: Annotated[
        int, typer.Option(metavar="N", min=0, help="Of weights, batches and training samples.")
    ] = 0,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=1, help="Passes over the training samples.", show_default="5"
        ),
    ] = None,
    keep: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder to leave the trained models and the evaluation in.",
            show_default="they are not kept",
        ),
    ] = None,
    training_images: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
    test_samples: Annotated[int | None, typer.Option(min=1, hidden=True)] = None,
) -> None:
    """Train two recurrent cells, explain and judge them.

    Takes a few minutes and no network. The task: three digits side by side, read strip by strip;
    which digit is there twice? The cells Shallow and Deep learn it from scratch on digits that come
    with pyrel. Then four methods explain what they answer for test samples, and the explanations
    are measured: how much of the relevance is where the two equal digits are? Prints a table and
    leaves a page with heatmaps.
    """
    from pyrel.cli.display import bar, print_table
    from pyrel.experiment import demo as run
    from pyrel.experiment.demo import kept_files
    from pyrel.files.places import refuse_overwriting
    from pyrel.report import write
    from pyrel.training import TrainingInterrupted

    if keep is not None:
        refuse_overwriting(out, {f"{path.name} of --keep": path for path in kept_files(keep)})
    make_writable(out)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
    try:
        with bar() as progress:
            study = run(
                seed=seed,
                epochs=epochs,
                training_images=training_images,
                test_samples=test_samples,
                keep=keep,
                say=lambda text: typer.echo(f"{text} …", err=True),
                progress=progress,
                training_progress=True,
            )
    except TrainingInterrupted as stop:
        raise KeyboardInterrupt(f"interrupted in epoch {stop.epoch}; no report written") from None
    write(out, study)
    print_table(study)
    typer.echo(f"\nThe report, with heatmaps: {out}")


def make_writable(out: Path) -> None:
    """Make the folder of a page; refused now rather than after the work.

    Raises
    ------
    OSError
        If nothing can be written there.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(13, "no permission to write there; give another --out", str(out))
