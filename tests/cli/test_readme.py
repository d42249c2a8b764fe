# SPDX-License-Identifier: Apache-2.0
"""What the README says has to be true, and what else is told by examples."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import pyrel

import pyrel as library

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def after_the_examples(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(), re.DOTALL):
        exec(compile(block, page, "exec"), names)
    return names


def test_the_examples_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where one of them saves a program
    names = after_the_examples("README.md")
    assert capsys.readouterr().out.startswith("torch.Size([100, 12, 28])\n")
    # The engine's contract: at most 1e-5 of the relevance at hand, which is never above 1 here.
    e = names["e"]
    assert e.output.abs().max() < 1
    assert (e.conservation + e.absorbed).abs().max() <= 1e-5


@pytest.mark.filterwarnings("ignore:.*were assigned during export")
def test_an_exported_program_is_explained_as_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = after_the_examples("docs/models.md")
    assert "input (n, 12, 28)," in capsys.readouterr().out
    assert names["e"].relevance.shape == (100, 12, 28)
    open_steps = ({0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC},)
    with pytest.raises(torch._dynamo.exc.UserError, match="specialized it to be a constant"):
        torch.export.export(names["model"], (names["x"],), dynamic_shapes=open_steps)
    assert library.Explainer(names["model"], names["x"], "lrp_epsilon").any_steps


def test_composites_and_rules_of_ones_own(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = after_the_examples("docs/methods.md")
    first, *table = capsys.readouterr().out.splitlines()
    assert "Composite([Assign(Flat(), from_input=0), Assign(Gamma(gamma=0.5" in first
    assert [row.split()[0] for row in table] == ["node", "dense", "dense"]
    # Behind a ReLU, and where z > 0, it is the γ rule; the first layer reads inputs ≥ 0 as well.
    model, x = names["model"], names["x"]
    e = library.Explainer(model, x, "lrp_gamma", gamma=0.5, low=0.0, high=1.0)(x)
    mine = names["explainer"](x)
    above = e.output[range(len(x)), e.target] > 0
    assert torch.allclose(mine.relevance[above], e.relevance[above], rtol=1e-4, atol=1e-6)
    assert repr(names["loaded"].method).startswith("custom my_gamma(")
    assert names["loaded"].method.options == names["explainer"].method.options


def test_the_way_to_a_method_ends_with_calls_that_run() -> None:
    names = after_the_examples("docs/which-method.md")
    assert names["e"].conservation.abs().max() < 1e-5
    told = (ROOT / "docs/which-method.md").read_text()
    assert set(re.findall(r'explain\(.*?"(\w+)"', told)) <= set(library.methods.names())


def test_relevance_of_ones_own_series_is_where_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names = after_the_examples("docs/report.md")
    assert (names["model"](names["x"]).argmax(1) == names["y"]).all()
    pressure = names["e"].relevance[1::2, :, 1]  # of the samples with a leak
    assert (pressure.argmax(1) == names["hour"][: len(pressure)]).all()
    assert {path.name for path in tmp_path.iterdir()} == {"series.png", "tokens.png"}
    assert names["html"].count("<span") == len(names["words"]) == 10


def test_all_methods_are_in_the_table() -> None:
    table = re.findall(r"^\| `(\w+)` \|.*\| (yes|no) \|$", README, re.MULTILINE)
    assert dict(table) == {
        name: "yes" if library.methods.get(name).conserves else "no"
        for name in library.methods.names()
    }


def test_all_commands_are_in_the_table() -> None:
    told = re.findall(r"^\| `pyrel (\w+)", README, re.MULTILINE)
    assert told == re.findall(r"^  (\w+) +[A-Z]", pyrel("--help").out, re.MULTILINE)
