# SPDX-License-Identifier: Apache-2.0
"""`pyrel evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pyrel.cli import evaluate_options as options
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
    models: options.Models,
    out: options.Out = Path("evaluation"),
    methods: options.Methods = "sensitivity,guided_backprop,gradient_x_input,deep_taylor",
    samples: options.Samples = None,
    shown: options.Shown = 6,
    degraded: options.Degraded = 200,
    dataset: options.Dataset = None,
    data_root: options.DataRoot = None,
) -> None:
    """Judge the explanations of trained models by numbers.

    Every test sample of the majority problem is explained for its true class. Since it is known
    which steps show the two equal images, it can be measured how much of the relevance is there.
    For some samples the patches that a method calls most relevant are replaced, to see how fast the
    probability of the class falls.
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
            degraded=degraded,
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
