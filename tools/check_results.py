# SPDX-License-Identifier: Apache-2.0
"""Check that the pages of `pyrel reproduce` are what the kept runs give."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from pyrel.experiment.reproduce import names
from pyrel.experiment.reproduce.experiment import plain, with_usual_settings
from pyrel.experiment.reproduce.runs import read_kept

RESULTS = Path(__file__).resolve().parents[1] / "docs" / "results"


def wrong_with(name: str) -> str | None:
    """Say what of an experiment's page is not what its kept runs give; None if nothing."""
    experiment = with_usual_settings(name)
    runs = RESULTS / experiment.home / "runs"
    read = {run.name: read_kept(runs, run) for run in experiment.runs()}
    kept = {run: result for run, result in read.items() if result is not None}
    if len(kept) < len(read):
        return f"no kept result of the present settings for {', '.join(sorted(read.keys() - kept))}"
    page = experiment.page(kept)
    written = (RESULTS / f"{name}.md").read_text("utf-8")
    if written.rstrip() != page.text.rstrip():
        return f"docs/results/{name}.md is not what its kept runs give"
    numbers = json.loads((RESULTS / name / "numbers.json").read_text("utf-8"))
    if numbers != json.loads(json.dumps(plain(page.numbers))):
        return f"docs/results/{name}/numbers.json is not what its kept runs give"
    drawn = {f"{figure}.svg" for figure in page.figures}
    there = {path.name for path in (RESULTS / name).glob("*.svg")}
    if drawn != there:
        return f"figures of docs/results/{name}: {sorted(drawn ^ there)} missing or left over"
    return None


def main() -> int:
    """Check all experiments."""
    found = {name: wrong_with(name) for name in names()}
    for name, wrong in found.items():
        if wrong is not None:
            print(f"{name}: {wrong}; see `pyrel reproduce {name}`", file=sys.stderr)
    return int(any(found.values()))


if __name__ == "__main__":
    sys.exit(main())
