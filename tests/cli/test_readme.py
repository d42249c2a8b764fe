# SPDX-License-Identifier: Apache-2.0
"""What the README says has to be true."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from commands import pyrel

import pyrel as library

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_examples_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where one of them saves a program
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out.startswith("torch.Size([100, 12, 28])\n")
    # The engine's contract: at most 1e-5 of the relevance at hand, which is never above 1 here.
    e = names["e"]
    assert e.output.abs().max() < 1
    assert (e.conservation + e.absorbed).abs().max() <= 1e-5


def test_all_methods_are_in_the_table() -> None:
    table = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|$", README, re.MULTILINE)
    assert dict(table) == {
        name: "yes" if library.methods.get(name).conserves else "no"
        for name in library.methods.names()
    }


def test_all_commands_are_in_the_table() -> None:
    told = re.findall(r"^\| `pyrel (\w+)", README, re.MULTILINE)
    assert told == re.findall(r"^  (\w+) +[A-Z]", pyrel("--help").out, re.MULTILINE)
