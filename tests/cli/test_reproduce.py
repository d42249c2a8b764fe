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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one folder for all experiments, of which two share runs."""
    return tmp_path_factory.mktemp("reproduced")


@pytest.mark.parametrize("name", names())
def test_the_quick_way_ends_with_a_page(name: str, home: Path) -> None:
    done = pyrel("reproduce", name, "--quick", "--out", home, "--models", home / "models")
    assert done.code == 0, done.err
    page = (home / f"{name}.md").read_text("utf-8")
    for linked in re.findall(r"\]\(([^):]+\.(?:svg|png))\)", page):
        assert (home / linked).stat().st_size > 1000
    numbers = json.loads((home / name / "numbers.json").read_text("utf-8"))
    assert numbers
    before = kept(home)
    experiment = experiment_of(name)(Settings(seeds=1, quick=True))
    runs = home / (experiment.shares_runs_of or name) / "runs"
    complete(experiment.runs(), runs, home / "models")
    assert before == kept(home), "a run is worked out again"


def kept(folder: Path) -> dict[Path, int]:
    """Return when each result of a run was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/runs/*")}
