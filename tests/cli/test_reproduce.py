# SPDX-License-Identifier: Apache-2.0
"""`pyrel reproduce`: the quick way from training to the page, and what it refuses."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

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


def texts_of(path: Path) -> list[str]:
    """Return the texts of a figure; a file that is no SVG is an error."""
    elements = ET.parse(path).iter("{http://www.w3.org/2000/svg}text")
    return ["".join(element.itertext()) for element in elements]


def bars_tell_what_they_are_of(figures: Figures, home: Path) -> None:
    """Each panel of figure 4.10 has the number of its runs' maps; no steps are marked."""
    texts = figures["mnist-mini-steps"]
    wanted = []
    for path in (home / "sequence/runs").glob("*-7-seed-*.json"):
        counted = json.loads(path.read_text("utf-8"))["numbers"]["shares"]["deep_taylor"]
        assert counted["samples"] + counted["left out"] > 0
        many = f"{counted['samples']:,} maps"
        wanted.append(many if counted["samples"] else "all maps are empty")
    assert sorted(t for t in texts if "maps" in t) == sorted(wanted)
    assert len(wanted) == 2
    assert "even share" in texts
    assert "majority" not in texts


def histograms_have_numbers_to_read(figures: Figures, home: Path) -> None:
    """Of 60 pairs of 1,568 pixels, a bin has more than 10⁴ and another one alone, or none."""
    texts = figures["histograms"]
    assert {"1", "100", "10⁴", "sensitivity", "relevance, R"} <= set(texts)


def arrows_and_dots_have_a_key(figures: Figures, home: Path) -> None:
    named = {"signal", "distractor", "pattern a of S_a", "sample, darker: larger y"}
    assert named <= set(figures["linear-model"])


Figures: TypeAlias = Mapping[str, Sequence[str]]
SHOWN: Mapping[str, Sequence[Callable[[Figures, Path], None]]] = {
    "sequence": [bars_tell_what_they_are_of],
    "two-digit": [histograms_have_numbers_to_read],
    "signal": [arrows_and_dots_have_a_key],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one folder for all experiments, of which two share runs."""
    return tmp_path_factory.mktemp("reproduced")


@pytest.mark.parametrize("name", names())
def test_the_quick_way_ends_with_a_page(name: str, home: Path) -> None:
    done = pyrel("reproduce", name, "--quick", "--out", home, "--models", home / "models")
    assert done.code == 0, done.err
    page = (home / f"{name}.md").read_text("utf-8")
    figures = {path.stem: texts_of(path) for path in (home / name).glob("*.svg")}
    linked = re.findall(r"\]\(([^):]+\.(?:svg|png))\)", page)
    assert {f"{name}/{stem}.svg" for stem in figures} == set(linked)
    for stem, texts in figures.items():
        assert texts, stem
        # Formulas would stand there as they are written; nothing counts nothing.
        wrong = [t for t in texts if re.search(r"mathdefault|\$|\bnan\b|^0 (samples|maps)", t)]
        assert not wrong, stem
    for check in SHOWN.get(name, ()):
        check(figures, home)
    numbers = (home / name / "numbers.json").read_text("utf-8")
    assert json.loads(numbers, parse_constant=pytest.fail), "NaN is no JSON"
    before = kept(home)
    experiment = experiment_of(name)(Settings(seeds=1, quick=True))
    runs = home / (experiment.home) / "runs"
    complete(experiment.runs(), runs, home / "models")
    assert before == kept(home), "a run is worked out again"


def kept(folder: Path) -> dict[Path, int]:
    """Return when each result of a run was written."""
    return {path: path.stat().st_mtime_ns for path in folder.glob("*/runs/*")}
