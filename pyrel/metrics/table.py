# SPDX-License-Identifier: Apache-2.0
"""The numbers of a study as rows, text and CSV."""

from __future__ import annotations

import csv
import io

from pyrel.metrics.study import Study
from pyrel.metrics.summary import Summary

Row = dict[str, str | int | float | None]

_HEADINGS = ("cell", "accuracy", "method", "share", "cosine digit", "cosine step", "conservation",
             "positivity", "left out")  # fmt: skip


def table_rows(study: Study) -> list[Row]:
    """Return one row for each cell and method, the baselines last (their cell is None).

    Each measure has columns `<measure>`, `<measure>_standard_error`; `used` and `left_out` count
    the samples of the share. None stands for a number that is not defined.
    """
    return [
        _row(cell, study.cells[cell].accuracy if cell else None, method, evaluation.summaries())
        for cell, method, evaluation in study.evaluations()
    ]


def table_csv(study: Study) -> str:
    """Return the rows as CSV with a header line, numbers in full precision."""
    rows = table_rows(study)
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    return text.getvalue()


def table_text(study: Study) -> str:
    """Return the rows as aligned plain text, mean ± standard error."""
    lines = [_HEADINGS, *(_text_cells(row) for row in table_rows(study))]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEADINGS))]
    lines.insert(1, tuple("-" * width for width in widths))
    padded = ("  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) for line in lines)
    return "".join(line.rstrip() + "\n" for line in padded)


def _text_cells(row: Row) -> tuple[str, ...]:
    """Return a row as short texts, in the order of the headings."""
    return (
        str(row["cell"] or "(baseline)"),
        _plus_minus(row, "accuracy"),
        str(row["method"]),
        _plus_minus(row, "share"),
        _plus_minus(row, "cosine_digit"),
        _plus_minus(row, "cosine_step"),
        "-" if row["conservation"] is None else f"{row['conservation']:.1e}",
        "-" if row["positivity"] is None else f"{row['positivity']:.3f}",
        str(row["left_out"]),
    )


def _row(
    cell: str | None, accuracy: Summary | None, method: str, measures: dict[str, Summary | None]
) -> Row:
    row: Row = {"cell": cell, "method": method}
    for name, summary in {"accuracy": accuracy, **measures}.items():
        numbers = summary.to_dict() if summary else {}
        row[name] = numbers.get("mean")
        row[f"{name}_standard_error"] = numbers.get("standard_error")
    share = measures["share"]
    assert share is not None
    return row | {"used": share.used, "left_out": share.left_out}


def _plus_minus(row: Row, name: str) -> str:
    mean, error = row[name], row[f"{name}_standard_error"]
    if mean is None:
        return "-"
    return f"{mean:.3f}" if error is None else f"{mean:.3f} ± {error:.3f}"
