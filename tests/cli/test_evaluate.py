# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from commands import Workshop, pyrel

from pyrel.experiment import Problem, load_cell, new_cell
from pyrel.metrics import load_study
from pyrel.training import save_model


def test_saved_models_give_the_numbers_of_the_demo(workshop: Workshop, tmp_path: Path) -> None:
    result = pyrel(
        "evaluate", workshop.shallow, workshop.deep, "--samples", 40, "--out", tmp_path / "e",
        "--methods", "deep_taylor,sensitivity",
    )  # fmt: skip
    assert result.code == 0, result.err
    study = load_study(tmp_path / "e" / "evaluation.json")
    kept = load_study(workshop.folder / "evaluation.json")
    assert study.methods() == ["deep_taylor", "sensitivity"]
    for cell in ("Shallow", "Deep"):
        for method in study.methods():
            ours, theirs = (s.cells[cell].evaluations[method].share for s in (study, kept))
            assert ours.mean == theirs.mean
    assert "Pixel mass" in result.out

    page = pyrel("report", tmp_path / "e", "--out", tmp_path / "pages" / "page.html")
    assert page.code == 0
    assert "Deep Taylor" in (tmp_path / "pages" / "page.html").read_text()


def test_models_of_one_kind_are_told_apart(workshop: Workshop, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        shutil.copy(workshop.deep, tmp_path / name / "model.safetensors")
    models = [tmp_path / name / "model.safetensors" for name in ("a", "b")]
    command = ("--samples", 4, "--methods", "gradient", "--out", tmp_path / "e")
    assert pyrel("evaluate", *models, *command).code == 0
    study = load_study(tmp_path / "e" / "evaluation.json")
    assert list(study.cells) == ["Deep (a)", "Deep (b)"]
    twice = pyrel("evaluate", models[0], models[0], *command)
    assert twice.code == 1
    assert "wanted different names" in twice.err


def test_models_that_cannot_be_judged(workshop: Workshop, tmp_path: Path) -> None:
    unknown, other, single = (tmp_path / f"{n}.safetensors" for n in ("unknown", "other", "single"))
    cell = load_cell(workshop.deep)
    save_model(unknown, cell.model)
    cell_of = {other: Problem("mnist-mini", "majority", 6), single: Problem.of("mnist", "sequence")}
    for path, problem in cell_of.items():
        model = new_cell("Shallow", problem)
        save_model(path, model, extra={"problem": vars(problem)})
    for models, message in [
        ([unknown], "does not say what it was trained on; give --dataset"),
        ([workshop.deep, other], "was trained on mnist-mini in 6 steps"),
        ([single], "was trained on single images"),
        ([workshop.deep, tmp_path / "none"], "no such file"),
    ]:
        result = pyrel("evaluate", *models, "--out", tmp_path / "e")
        assert result.code == 1
        assert message in result.err
        assert result.err.count("\n") == 1
    assert not (tmp_path / "e").exists()
    told = ("--dataset", "mnist-mini", "--samples", 3, "--methods", "gradient")
    assert pyrel("evaluate", unknown, *told, "--out", tmp_path / "e").code == 0


def test_a_slash_makes_a_folder(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyrel.report.page.render", lambda study: "a page")
    result = pyrel("report", workshop.folder, "--out", f"{tmp_path / 'new'}/")
    assert result.code == 0
    assert result.out == f"Wrote {tmp_path / 'new' / 'report.html'}\n"
    assert (tmp_path / "new" / "report.html").read_text() == "a page"


def test_unknown_methods_are_named(workshop: Workshop) -> None:
    result = pyrel("evaluate", workshop.deep, "--methods", "deep_taylor,magic")
    assert result.code == 2
    assert "'magic' is not one of gradient" in " ".join(result.err.split())


@pytest.mark.parametrize("damage", ["missing", "cut", "foreign"])
def test_evaluations_that_cannot_be_read(workshop: Workshop, tmp_path: Path, damage: str) -> None:
    for suffix in (".json", ".npz"):
        shutil.copy(workshop.folder / f"evaluation{suffix}", tmp_path)
    path = tmp_path / "evaluation.json"
    if damage == "missing":
        (tmp_path / "evaluation.npz").unlink()
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "cut" else b"{}")
    result = pyrel("report", tmp_path, "--out", tmp_path / "page.html")
    assert result.code == 1
    assert result.err.count("\n") == 1
    assert str(tmp_path) in result.err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.parametrize("name", ["evaluation.json", "evaluation.npz", "link"])
def test_a_page_does_not_replace_the_evaluation(
    workshop: Workshop, tmp_path: Path, name: str
) -> None:
    for suffix in (".json", ".npz"):
        shutil.copy(workshop.folder / f"evaluation{suffix}", tmp_path)
    (tmp_path / "link").symlink_to("evaluation.npz")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    result = pyrel("report", tmp_path, "--out", tmp_path / name)
    assert result.code == 1
    assert "which the output would replace" in result.err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_an_evaluation_does_not_replace_a_model(workshop: Workshop, tmp_path: Path) -> None:
    model = tmp_path / "evaluation.npz"
    shutil.copy(workshop.deep, model)
    result = pyrel("evaluate", model, "--samples", 4, "--out", tmp_path)
    assert result.code == 1
    assert f"{model} is the model {model}, which the output would replace" in result.err
    assert model.read_bytes() == workshop.deep.read_bytes()
    assert list(tmp_path.iterdir()) == [model]


@pytest.mark.parametrize("name", ["deep.safetensors", "evaluation.json", "evaluation.npz"])
def test_the_page_of_the_demo_is_none_of_its_other_files(tmp_path: Path, name: str) -> None:
    result = pyrel("demo", "--keep", tmp_path, "--out", tmp_path / "x" / ".." / name)
    assert result.code == 1
    assert f"is {name} of --keep, which the output would replace" in result.err
    assert list(tmp_path.iterdir()) == []
