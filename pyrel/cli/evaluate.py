# SPDX-License-Identifier: Apache-2.0
"""`pyrel evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyrel.cli.choices import DATASETS, METHODS, one_of, some_of
from pyrel.cli.refusals import refusing

if TYPE_CHECKING:
    from pyrel.experiment import Problem, TrainedCell


EXAMPLES = """\b
Examples:
  pyrel evaluate runs/shallow/model.safetensors runs/deep/model.safetensors
  pyrel evaluate runs/deep/model.safetensors --methods deep_taylor,sensitivity --samples 200
"""


@refusing
def evaluate(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL", help="Models that pyrel train saved.")
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder to write the evaluation in.")
    ] = Path("evaluation"),
    methods: Annotated[
        str,
        typer.Option(
            callback=some_of(METHODS),
            metavar="NAMES",
            help=f"Divided by commas; of {', '.join(METHODS)}. By default without lrp_epsilon, "
            f"which is gradient_x_input, but for ε, in Shallow, Deep and DeepV2.",
        ),
    ] = "sensitivity,guided_backprop,gradient_x_input,deep_taylor",
    samples: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=2,
            help="Number of test samples to take, the first.",
            show_default="all",
        ),
    ] = None,
    shown: Annotated[
        int,
        typer.Option(metavar="N", min=1, help="Number of samples whose heatmaps the report shows."),
    ] = 6,
    dataset: Annotated[
        str | None,
        typer.Option(
            callback=one_of(DATASETS),
            metavar="NAME",
            help=f"Test images to take: {', '.join(DATASETS)}.",
            show_default="what the models were trained on",
        ),
    ] = None,
    data_root: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder to look for the data set in first."),
    ] = None,
) -> None:
    """Judge the explanations of trained models by numbers.

    Every test sample of the majority problem is explained for its true class. Since it is known
    which steps show the two equal images, it can be measured how much of the relevance is there.
    The models have to be trained on the majority problem, with the same number of steps.

    Prints a table, and writes evaluation.json (numbers and settings, to read) and evaluation.npz
    (arrays); pyrel report makes a page of them.
    """
    from pyrel.cli.display import bar, print_table
    from pyrel.experiment import judge
    from pyrel.experiment.demo import STUDY
    from pyrel.files.places import refuse_overwriting
    from pyrel.metrics import save_study

    for written in (out / STUDY, (out / STUDY).with_suffix(".npz")):
        refuse_overwriting(written, {f"the model {path}": path for path in models})
    cells = _load(models)
    problem = _problem(cells, models, dataset)
    judged = problem.samples(problem.images("test", data_root), count=samples)
    out.mkdir(parents=True, exist_ok=True)
    with bar() as progress:
        study = judge(
            cells,
            problem,
            judged,
            methods=methods.split(","),
            shown=shown,
            progress=progress,
        )
    path = save_study(out / STUDY, study)
    print_table(study)
    typer.echo(f"\nWrote {path}; a page of it: pyrel report {out}")


def _load(paths: list[Path]) -> list[TrainedCell]:
    """Load models; those of one kind are told apart by their folder, or by their file."""
    from pyrel.experiment import load_cell

    kinds = [load_cell(path) for path in paths]
    names = [cell.name for cell in kinds]
    cells = []
    for path, cell in zip(paths, kinds, strict=True):
        if names.count(cell.name) > 1:
            others = [p for p, c in zip(paths, kinds, strict=True) if c.name == cell.name]
            folders = {p.resolve().parent for p in others}
            part = path.resolve().parent.name if len(folders) == len(others) else path.stem
            cell = load_cell(path, f"{cell.name} ({part})")
        cells.append(cell)
    return cells


def _problem(cells: list[TrainedCell], paths: list[Path], dataset: str | None) -> Problem:
    """Return the problem that all models have in common."""
    from pyrel.experiment import Problem

    found = []
    for cell, path in zip(cells, paths, strict=True):
        if cell.problem is None and dataset is None:
            raise ValueError(f"{path} does not say what it was trained on; give --dataset")
        known = cell.problem or Problem.of(str(dataset), "majority", cell.model.steps)
        if known.kind != "majority":
            raise ValueError(
                f"{path} was trained on single images, in which every step counts; what can be "
                f"judged are models of pyrel train --problem majority"
            )
        found.append(Problem.of(dataset or known.dataset, known.kind, known.steps))
    for problem, path in zip(found, paths, strict=True):
        if problem != found[0]:
            raise ValueError(
                f"{path} was trained on {_words(problem)}, {paths[0]} on {_words(found[0])}; "
                f"evaluate them apart"
            )
    return found[0]


def _words(problem: Problem) -> str:
    return f"{problem.dataset} in {problem.steps} steps"
