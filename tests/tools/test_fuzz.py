# SPDX-License-Identifier: Apache-2.0
"""`make fuzz`: the file of a seed is the same whenever it is made, and most are refused or run."""

from __future__ import annotations

import importlib.util
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
