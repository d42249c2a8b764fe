# SPDX-License-Identifier: Apache-2.0
"""`pyrel reproduce`: the quick way from training to the page, and what it refuses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from commands import pyrel

from pyrel.cli.choices import EXPERIMENTS
from pyrel.experiment.reproduce import Settings, experiment_of, names
from pyrel.experiment.reproduce.runs import complete


def test_the_command_offers_all_experiments() -> None:
    assert list(EXPERIMENTS) == names()


def test_an_unknown_experiment_is_refused(tmp_path: Path) -> None:
    done = pyrel("reproduce", "sequences", "--out", tmp_path)
    assert done.code == 2
    assert "'sequences' is not one of sequence" in done.err


@pytest.mark.parametrize("name", names())
def test_the_quick_way_ends_with_a_page(name: str, tmp_path: Path) -> None:
    done = pyrel("reproduce", name, "--quick", "--out", tmp_path, "--models", tmp_path / "models")
    assert done.code == 0, done.err
    page = (tmp_path / f"{name}.md").read_text("utf-8")
    for linked in re.findall(r"\]\(([^):]+\.(?:svg|png))\)", page):
        assert (tmp_path / linked).stat().st_size > 1000
    numbers = json.loads((tmp_path / name / "numbers.json").read_text("utf-8"))
    assert numbers
    before = kept(tmp_path)
    experiment = experiment_of(name)(Settings(seeds=1, quick=True))
    home = experiment.shares_runs_of or name
    complete(experiment.runs(), tmp_path / home / "runs", tmp_path / "models")
    assert before == kept(tmp_path), "a run is worked out again"


def kept(folder: Path) -> dict[Path, int]:
    """Return when each result of a run was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/runs/*")}
