# SPDX-License-Identifier: Apache-2.0
"""Results as tables: in a terminal, and as markdown for documents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import groupby

from pyrel.benchmark.contestants import PROPAGATION
from pyrel.benchmark.results import CaseResult, Results, Row
from pyrel.errors import part_of_extra

with part_of_extra("bench", "a table of a benchmark", "rich"):
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

HEADINGS = ("batch", "", "samples/s", "× pyrel's time", "% of peak", "error")


def print_results(results: Results, console: Console | None = None) -> None:
    """Print all cases, and what a reader has to know about them."""
    console = console or Console(highlight=False)
    for title, facts, cases in _groups(results):
        table = Table(box=None, pad_edge=False, header_style="bold")
        for name in HEADINGS:
            table.add_column(name, justify="left" if name == "" else "right")
        for row in _rows(results, cases):
            table.add_row(*row)
        console.print(Text.assemble("\n", (title, "bold")))
        console.print(Text(facts, "dim"))
        console.print(table)
    console.print(Text("\n".join(["", *_remarks(results)]), "dim"))


def markdown(results: Results) -> str:
    """Return the same as `print_results` as markdown."""
    parts = []
    for title, facts, cases in _groups(results):
        lines = [
            "| " + " | ".join(HEADINGS) + " |",
            "|" + "|".join("---" if name == "" else "---:" for name in HEADINGS) + "|",
        ]
        lines += ["| " + " | ".join(row) + " |" for row in _rows(results, cases)]
        parts += [f"**{title}**", facts, "\n".join(lines)]
    parts += [_machine(results), "\n".join(f"- {remark}" for remark in _remarks(results))]
    return "\n\n".join(parts) + "\n"


def _groups(results: Results) -> Iterator[tuple[str, str, list[CaseResult]]]:
    """Give title, facts and cases of each cell and method."""
    for _, group in groupby(results.cases, lambda c: (c.cell, c.steps, c.method, c.weights)):
        cases = list(group)
        yield f"{cases[0].cell}-{cases[0].steps}, {cases[0].method}", _facts(results, cases), cases


def _facts(results: Results, cases: Sequence[CaseResult]) -> str:
    first = cases[0]
    blocks = ", ".join(
        f"{len(c.blocks) - len(c.kept(results.floor))} of {len(c.blocks)} (batch {c.batch:,})"
        for c in cases
    )
    return (
        f"Sizes {first.sizes}; {first.flops / 1e6:.2f} MFLOP a sample. "
        f"Weights: {first.weights}; inputs: {first.inputs}. "
        f"Zero are {100 * first.zeros['input']:.0f} % of the inputs and "
        f"{100 * first.zeros['activations']:.0f} % of the activations. Blocks dropped: {blocks}."
    )


def _rows(results: Results, cases: Sequence[CaseResult]) -> Iterator[tuple[str, ...]]:
    for case in cases:
        for i, name in enumerate(case.names):
            batch = f"{case.batch:,}" if i == 0 else ""
            row = case.row(name, results.floor)
            mark = "*" if name in results.notes and case.method in PROPAGATION else ""
            yield (batch, results.titles[name] + mark, *_numbers(row))


def _numbers(row: Row | None) -> tuple[str, ...]:
    if row is None:  # no block was kept
        return ("–",) * 4
    ratio = row.ratio
    spread = f" ({_short(ratio.lower)}–{_short(ratio.upper)})" if ratio.lower < ratio.upper else ""
    error = f"{row.error:.0e}" if math.isfinite(row.error) else "∞"
    return (
        f"{row.samples_per_second.median:,.0f}",
        f"{_short(ratio.median)}{spread}",
        f"{100 * row.share_of_peak.median:.0f} %",
        error,
    )


def _short(value: float) -> str:
    """Return a number with three digits or more."""
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def _machine(results: Results) -> str:
    facts = ", ".join(f"{name} {value}" for name, value in results.machine.items())
    used = {name: v for versions in results.versions.values() for name, v in versions.items()}
    return f"Machine: {facts}. Packages: {', '.join(f'{n} {v}' for n, v in used.items())}."


def _remarks(results: Results) -> list[str]:
    """Return sentences on the columns, on who did not take part, and whose answers differ."""
    protocol = results.protocol
    remarks = [
        f"Medians over {protocol.blocks} blocks; blocks whose peak of multiply-adds was under "
        f"{100 * protocol.least_peak:.0f} % of the highest are dropped, and repeated, up to as "
        "many again. In parentheses: quartiles.",
        f"% of peak: useful FLOP/s, of the peak of {protocol.threads} threads; who skips zeros may "
        "exceed 100 %.",
        "Error: worst relative L2 error of a timed answer against float64.",
    ]
    remarks += [f"* {results.titles[name]}: {note}" for name, note in results.notes.items()]
    remarks += [f"Without {name}: {reason}." for name, reason in results.skipped.items()]
    return remarks
