# SPDX-License-Identifier: Apache-2.0
"""Prints what the stages of tools/gpu_check.sh have written: versions, what passed, tables."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read(folder: Path, name: str) -> list[Row]:
    """Return the rows of a stage; a last line that is cut off, as of a killed run, is left out."""
    path, rows = folder / f"{name}.jsonl", []
    for line in path.read_text("utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            break
    return rows


def table(rows: Sequence[Sequence[object]]) -> Iterator[str]:
    """Lay out rows in columns."""
    texts = [[shown(value) for value in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for row in texts:
        yield "  ".join(f"{text:{width}}" for text, width in zip(row, widths, strict=True)).rstrip()


def shown(value: object) -> str:
    """Return a value as tables have it."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def stages(folder: Path) -> Iterator[str]:
    """Say what there is, and which stages passed."""
    for row in read(folder, "versions"):
        if row["emulated"]:
            yield "EMULATED: tiny sizes, no GPU; no time below says anything about one."
        yield from (f"{key}: {value}" for key, value in row.items() if value is not None)
    ended = {0: "passed", 124: "stopped at its limit", 137: "killed at its limit"}
    last = {row["stage"]: row for row in read(folder, "stages")}
    for row in last.values():
        result = ended.get(row["status"], f"FAILED ({row['status']})")
        where = ", EMULATED" if row["emulated"] else ""
        yield f"{row['stage']}: {result}, {row['seconds']} of {row['limit']} s{where}"
    for row in read(folder, "sanitizer"):
        yield f"{row['tool']}: {ended.get(row['status'], 'FAILED')}"


def probes(folder: Path) -> Iterator[str]:
    """List the probes."""
    rows = read(folder, "probes")
    yield from table(
        [
            [r["probe"], r["value"], r["unit"] if r["failure"] is None else r["failure"]]
            for r in rows
        ]
    )


def agreement(folder: Path) -> Iterator[str]:
    """Count what agrees, by check and precision; list what does not."""
    rows = read(folder, "agreement")
    lines: list[list[object]] = [["check", "precision", "right", "same bits", "largest difference"]]
    for key in dict.fromkeys((row["check"], row["precision"]) for row in rows):
        own = [row for row in rows if (row["check"], row["precision"]) == key]
        bits = [row["same_bits"] for row in own if row["same_bits"] is not None]
        differences = [row["difference"] for row in own if row["difference"] is not None]
        same = f"{sum(bits)} of {len(bits)}" if bits else None
        right = f"{sum(bool(row['right']) for row in own)} of {len(own)}"
        lines.append([*key, right, same, max(differences, default=None)])
    if rows:
        yield from table(lines)
    for row in rows:
        if not row["right"]:
            why = row["failure"] or row["note"] or f"{row['difference']}, allowed {row['allowed']}"
            yield f"WRONG: {row['check']}, {row['case']}, {row['precision']}: {why}"


def timing(folder: Path) -> Iterator[str]:
    """Make a table for each cell, method and batch size."""
    rows = read(folder, "timing")
    heads = [
        "contestant",
        "precision",
        "groups",
        "team",
        "by steps",
        "in parts",
        "median ms",
        "least ms",
    ]
    heads += ["× pyrel's time", "GFLOP/s", "error", ""]
    for key in dict.fromkeys((r["cell"], r["steps"], r["method"], r["batch"]) for r in rows):
        cell, steps, method, batch = key
        own = [r for r in rows if (r["cell"], r["steps"], r["method"], r["batch"]) == key]
        yield ""
        yield f"{cell}-{steps}, {method}, batch {batch:,}"
        lines: list[list[object]] = [[*heads]]
        for r in own:
            choice = [r["groups"] or None, r["team"] or None, r["by_steps"], r["in_parts"]]
            times = [r["median_ms"], r["least_ms"], r["ratio"], r["useful_gflops"], r["error"]]
            fault = r["failure"] or ("WRONG" if r["right"] is False else "")
            lines.append([r["contestant"], r["precision"], *choice, *times, fault])
        yield from table(lines)


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path, help="what tools/gpu_check.sh was given as --out")
    folder = parser.parse_args().folder
    for part in (stages, probes, agreement, timing):
        if lines := [*part(folder)]:
            print(f"\n## {part.__name__}")
            print("\n".join(lines))


if __name__ == "__main__":
    main()
