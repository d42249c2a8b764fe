# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from commands import TINY, Workshop, pyrel

from pyrel.cli.demo import page_path
from pyrel.data import load_images, majority
from pyrel.experiment import (
    METHODS,
    Problem,
    choose_shown,
    demo,
    judge,
    load_cell,
    new_cell,
    recipe,
    train_cell,
)
from pyrel.experiment.training import split
from pyrel.metrics import load_study
from pyrel.training import TrainingConfig


def test_the_demo_leaves_a_table_and_a_page(workshop: Workshop) -> None:
    assert workshop.printed.code == 0
    table = workshop.printed.out
    for name in ("Shallow", "Deep", "Sensitivity", "Guided backprop", "Gradient × input",
                 "Deep Taylor", "Uniform map", "Pixel mass"):  # fmt: skip
        assert re.search(rf"^ *{name}\b", table, re.MULTILINE), name
    assert "accuracy 0." in table
    assert max(map(len, table.split("Means over")[0].splitlines())) <= 80
    page = workshop.folder / "page" / "report.html"
    assert f"The report, with heatmaps: {page}" in table
    assert page.read_text().startswith("<!doctype html>")


def test_the_demo_says_what_it_does(workshop: Workshop) -> None:
    told = [line for line in workshop.printed.err.splitlines() if line.endswith("…")]
    assert told == [
        "Training Shallow from scratch …",
        "Training Deep from scratch …",
        "Explaining 40 test samples with 4 methods …",
    ]


def test_the_kept_study_has_the_numbers_of_the_table(workshop: Workshop) -> None:
    study = load_study(workshop.folder / "evaluation.json")
    assert list(study.cells) == ["Shallow", "Deep"]
    assert study.methods() == list(METHODS)
    for cell, method, evaluation in study.evaluations():
        if method == "deep_taylor":
            assert evaluation.propagates
            # Contract of the engine: 1e-5 of the relevance put in, for every sample.
            assert evaluation.conservation.largest <= 1e-5
            assert evaluation.positivity.mean == 1.0
        elif cell is not None:
            assert not evaluation.propagates
        assert str(evaluation.share) in workshop.printed.out
    assert study.cells["Deep"].facts["parameters"] == 153578
    assert study.config["seed"] == 0
    told = study.config["Deep"]["training"]
    assert (told["epochs"], told["draws"]) == (1, recipe("mnist-mini").draws)
    assert "decay_epochs" not in told


def test_the_shown_samples_are_test_samples_where_the_study_says(workshop: Workshop) -> None:
    shown = load_study(workshop.folder / "evaluation.json").shown
    samples = majority(*load_images("mnist-mini", "test"), seed=0)
    assert len(shown.index) == 6
    for k, i in enumerate(shown.index):
        assert np.array_equal(shown.x[k], samples.x[i])
        assert shown.y[k] == samples.y[i]
        assert np.array_equal(shown.relevant[k], samples.relevant[i])


def test_the_same_seed_gives_the_same_models(workshop: Workshop, tmp_path: Path) -> None:
    # Without the page of the command, which has no part in the training.
    demo(training_images=100, test_samples=2, epochs=1, methods=["gradient"], keep=tmp_path)
    for name in ("deep", "shallow"):
        first, second = (load_cell(f / f"{name}.safetensors") for f in (workshop.folder, tmp_path))
        for key, value in first.model.state_dict().items():
            assert np.array_equal(value, second.model.state_dict()[key]), key


def test_a_page_that_cannot_be_written_is_refused_first(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = pyrel("demo", *TINY, "--out", tmp_path / "file" / "report.html")
    assert result.code == 1
    assert result.err.count("\n") == 1  # no training before it
    assert str(tmp_path / "file") in result.err


@pytest.mark.parametrize(
    ("given", "page"),
    [
        ("page.html", "page.html"),
        ("folder", "folder/report.html"),
        ("folder/", "folder/report.html"),
        ("there", "there/report.html"),
        ("there.1", "there.1/report.html"),
    ],
)
def test_a_name_without_a_suffix_is_a_folder(tmp_path: Path, given: str, page: str) -> None:
    for name in ("there", "there.1"):
        (tmp_path / name).mkdir()
    assert page_path(f"{tmp_path}/{given}") == tmp_path / page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seed", 2**63], "seed must be below 2**63"),
        (["--training-images", 5], "training_images = 5: majority samples take two"),
    ],
)
def test_settings_are_refused_before_anything_is_trained(
    tmp_path: Path, arguments: list, message: str
) -> None:
    result = pyrel("demo", *arguments, "--out", tmp_path)
    assert result.code == 1
    assert result.err.startswith(f"pyrel demo: {message}")
    assert result.err.count("\n") == 1


def test_methods_and_cells_are_refused_before_anything_is_trained() -> None:
    for wrong in ({"methods": ["magic"]}, {"cells": ["Deeper"]}):
        told: list[str] = []
        with pytest.raises(ValueError, match=r"magic|Deeper"):
            demo(say=told.append, **wrong)
        assert told == []


def test_shown_samples_change_places_and_classes() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 10, 200)
    odd = rng.integers(0, 3, 200)
    relevant = np.repeat(odd[:, None] != np.arange(3), 4, axis=1)
    wrong = np.zeros((2, 200), dtype=bool)
    wrong[0, [50, 60, 70]] = True
    wrong[1, [50, 90]] = True
    index = choose_shown(y, relevant, wrong, 6)
    assert list(index) == sorted(set(index))
    failed = wrong.any(axis=0)[index]
    assert list(index[failed]) == [50, 60]
    right = index[~failed]
    assert len(set(odd[right])) == 3
    assert len(set(y[right])) == 4
    assert len(choose_shown(y[:4], relevant[:4], ~wrong[:, :4], 6)) == 4
    assert list(choose_shown(y, relevant, wrong, 1)) == [50]


def test_problems_without_relevant_steps_are_not_judged(workshop: Workshop) -> None:
    problem = Problem.of("mnist-mini", "sequence")
    images, labels = problem.images("test")
    with pytest.raises(ValueError, match="'sequence' has no relevant steps"):
        judge([load_cell(workshop.deep)], problem, problem.samples((images[:4], labels[:4])))


def test_held_out_images_are_not_trained_on() -> None:
    # Images that are their own numbers, so that it can be seen where each is.
    pixels = np.arange(100, dtype=np.uint8)[:, None, None] * np.ones((28, 28), np.uint8)
    kept, held = split((pixels, np.arange(100)), 0.1)
    for part, labels in (kept, held):
        assert np.array_equal(part[:, 0, 0], labels)
    assert (len(kept[1]), len(held[1])) == (90, 10)
    assert sorted([*kept[1], *held[1]]) == list(range(100))
    assert split((pixels, np.arange(100)), 0.0)[1] is None


def test_training_measures_on_held_out_images() -> None:
    problem = Problem.of("mnist-mini", "sequence")
    images, labels = problem.images("train")
    part = images[:100], labels[:100]
    model = new_cell("Shallow", problem, sizes=(8,), recurrent=4)
    config = TrainingConfig(epochs=1, batch_size=90, device="cpu")
    _, result = train_cell(
        model, problem, part, config=config, held_out=0.1, progress=False
    )  # fmt: skip
    assert result.history[0].validation_accuracy is not None
    with pytest.raises(ValueError, match="held_out: wanted a part from 0 to 0.5, given 0.9"):
        train_cell(model, problem, part, config=config, held_out=0.9, progress=False)
