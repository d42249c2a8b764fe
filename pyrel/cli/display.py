# SPDX-License-Identifier: Apache-2.0
"""Progress bar (standard error) and table of a study (standard output) of the commands."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pyrel.metrics import CellResult, Evaluation, Study, Summary
from pyrel.report import words

_HEADINGS = ("", "share in\nmajority", "cosine\nby digit", "cosine\nby step", "conservation\nerror")
_WIDTHS = (19, 13, 13, 13, 12)
_NOTE = (
    "Means over {samples:,} samples ± standard error; the true class is explained. Share: fraction "
    "of the relevance in the steps of the two equal images, of three. Cosine: 1 if all of it is "
    "there, evenly. Conservation error: how far the relevances are from adding up to the output, "
    "relative to their size; in parentheses where the method does not claim that they do."
)


@contextmanager
def bar() -> Iterator[Callable[[str, int, int], None]]:
    """Yield a function (what, done, total) that moves a progress bar; no bar without a terminal.

    The bar appears with the first call: a terminal has room for one bar at a time.
    """
    shown = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.percentage:3.0f} %"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=Console(stderr=True),
        transient=True,
    )
    task = shown.add_task("starting", total=None)
    shown.disable = not shown.console.is_terminal

    def show(what: str, done: int, total: int) -> None:
        shown.start()
        shown.update(task, description=what, completed=done, total=total)

    try:
        yield show
    finally:
        shown.stop()


def print_table(study: Study, console: Console | None = None) -> None:
    """Print the numbers of a study, cell by cell, the baselines last."""
    console = console or Console(highlight=False)
    console.print(_table(_HEADINGS))
    groups = {name: (_facts(result), result.evaluations) for name, result in study.cells.items()}
    for name, (facts, evaluations) in {**groups, "No model": ("", study.baselines)}.items():
        console.print(Text.assemble((name, "bold"), facts))
        for method, evaluation in evaluations.items():
            console.print(_table(("  " + words.label(method), *_numbers(evaluation))))
    console.print(Text(_NOTE.format(samples=len(study.relevant)) + _left_out(study), "dim"))


def _left_out(study: Study) -> str:
    counts = [
        f"{words.label(method)}{f' on {cell}' if cell else ''} {evaluation.share.left_out}"
        for cell, method, evaluation in study.evaluations()
        if evaluation.share.left_out
    ]
    return (
        f" Samples left out because nothing in their map is positive: {', '.join(counts)}."
        if counts
        else ""
    )


def _table(row: Sequence[str]) -> Table:
    """Return one line of the table; lines share their widths, so headings can stand between."""
    line = Table.grid(padding=(0, 2, 0, 0))
    for i, width in enumerate(_WIDTHS):
        line.add_column(justify="right" if i else "left", width=width, vertical="bottom")
    line.add_row(*map(Text, row))
    return line


def _facts(result: CellResult) -> str:
    facts = f"  accuracy {_plus_minus(result.accuracy)}"
    count = result.facts.get("parameters")
    return facts if count is None else f"{facts}, {count:,} parameters"


def _numbers(evaluation: Evaluation) -> tuple[str, ...]:
    places = (evaluation.share, evaluation.cosine_digit, evaluation.cosine_step)
    return (*map(_plus_minus, places), _conservation(evaluation))


def _plus_minus(summary: Summary) -> str:
    return "–" if not summary.used else str(summary)


def _conservation(evaluation: Evaluation) -> str:
    error = evaluation.conservation
    if error is None or not error.used:
        return "–"
    return f"{error.mean:.1e}" if evaluation.propagates else f"({error.mean:.1e})"
