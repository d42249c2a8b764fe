# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: the file of a seed is the same whenever it is made, and most are refused or run."""

from __future__ import annotations

import importlib.util
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import pyrel

TOOL = Path(__file__).parents[2] / "tools" / "fuzz.py"


@pytest.fixture
def fuzz(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Load the tool, with a folder of its own that holds one program."""
    spec = importlib.util.spec_from_file_location("fuzz", TOOL)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "BASES", tmp_path)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
    pyrel.Explainer(model, torch.zeros(1, 3, 2), "gradient").save(tmp_path / "a.program")
    return module


def test_a_seed_gives_one_file(fuzz: Any, tmp_path: Path) -> None:
    kinds, contents = set(), set()
    for seed in range(30):
        first, again = tmp_path / "first", tmp_path / "again"
        kind = fuzz.make_file(seed, first)
        assert fuzz.make_file(seed, again) == kind
        assert first.read_bytes() == again.read_bytes()
        kinds.add(kind)
        contents.add(first.read_bytes())
    assert len(kinds) > 2
    assert len(contents) > 25


def test_files_are_refused_by_name_or_run(fuzz: Any, tmp_path: Path) -> None:
    path, accepted = tmp_path / "file", 0
    for seed in range(60):
        kind = fuzz.make_file(seed, path)
        try:
            fuzz.use(kind, path)
            accepted += 1
        except ValueError as error:
            assert str(path) in str(error)
    assert 0 < accepted < 60


def test_seeds_that_failed_come_first_whatever_time_there_is(
    fuzz: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fuzz, "KEPT", tmp_path / "seeds.txt")
    fuzz.KEPT.write_text("# a comment\n5\n")
    for seed in (5, 7, 2, 7):
        fuzz.keep(seed)
    assert fuzz.kept_seeds() == [5, 7, 2]
    monkeypatch.setattr(fuzz, "is_accepted", lambda seed, path: seed == 7)
    fuzz.go_through(itertools.chain(fuzz.kept_seeds(), itertools.count(100)), -1.0, tmp_path)
    assert capsys.readouterr().out == "at 5\nat 7\nat 2\nat 100\ndone 4 1\n"


@pytest.mark.parametrize("ends", ["in time", "at a fault", "before the first file"])
def test_a_run_says_how_it_ended(
    fuzz: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    ends: str,
) -> None:
    monkeypatch.setattr(fuzz, "KEPT", tmp_path / "seeds.txt")
    monkeypatch.setattr(fuzz, "FAILED", tmp_path / "failed")
    fuzz.KEPT.touch()
    says = {"in time": "at 3\\ndone 1 0", "at a fault": "at 3"}.get(ends, "")
    program = f"print('{says}'); raise SystemExit({int(ends != 'in time')})"
    monkeypatch.setattr(fuzz.sys, "executable", "sh")
    script = tmp_path / "script"
    script.write_text(f'unset LD_PRELOAD; exec python3 -c "{program}"\n')
    monkeypatch.setattr(fuzz, "__file__", str(script))
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "file").write_text("x")
    assert fuzz.supervise([], "seeds from 3 on") == (ends != "in time")
    told = "".join(capsys.readouterr())
    if ends == "in time":
        assert told.startswith("fuzz: 1 files of seeds from 3 on, 0 accepted, 1 refused, no fault")
    elif ends == "at a fault":
        assert told.startswith("fuzz: seed 3 ended with 1 ")
        assert (tmp_path / "failed" / "seed-3").read_text() == "x"
    else:
        assert told == "fuzz: it ended with 1 before the first file\n"
    assert fuzz.kept_seeds() == ([3] if ends == "at a fault" else [])
