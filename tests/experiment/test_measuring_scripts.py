# SPDX-License-Identifier: Apache-2.0
import importlib
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from pyrel.experiment import Problem, TrainedCell, load_cell, new_cell
from pyrel.experiment.randomisation import layers_with_weights, randomise_weights
from pyrel.metrics import Summary, degradation, map_cosine
from pyrel.report.words import label

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    problem = Problem.of("mnist-mini", "majority", 3)
    path = tmp_path_factory.mktemp("cell") / "shallow.safetensors"
    model = new_cell("Shallow", problem).eval()
    TrainedCell("Shallow", model, problem, 0.0, 1.0, {}).save(path)
    return path


def run(script: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(SCRIPTS / script), run_name="__main__")


def test_degradation_writes_table_numbers_and_figure(cell, tmp_path, monkeypatch, capsys) -> None:
    json_file, figure = tmp_path / "numbers.json", tmp_path / "figure.png"
    methods = ("gradient_x_input", "sensitivity")
    arguments = f"{cell} --samples 30 --points 3 --draws 2 --methods {','.join(methods)}"
    files = ["--json", str(json_file), "--figure", str(figure)]
    run("measure_degradation.py", [*arguments.split(), *files], monkeypatch)
    out = capsys.readouterr().out
    numbers = json.loads(json_file.read_text())
    assert numbers["removed"] == [0, 1, 2]
    assert set(numbers["curves"]) == {*methods, "pixel_mass", "random"}
    for name in (*methods, "pixel_mass"):
        assert f"\n{name}" in f"\n{out}"
        assert numbers["below_random"][name]["used"] == 30
    assert "30 samples, 48 tiles of 7×7, 3 points, 3 maps, 2 random orders" in out
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_all_measures_write_a_page(cell, tmp_path, monkeypatch, capsys) -> None:
    methods = "gradient_x_input,pattern_attribution"
    arguments = f"{cell} --samples 8 --fit 30 --methods {methods} --out {tmp_path}"
    run("measure_methods.py", arguments.split(), monkeypatch)
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'measures.md'}\n"
    page = (tmp_path / "measures.md").read_text("utf-8")
    assert "Shallow on mnist-mini, 3 steps, " in page
    assert "the first 8 test sequences" in page
    numbers = json.loads((tmp_path / "measures" / "numbers.json").read_text("utf-8"))
    found = numbers["measures"]
    assert set(found) == {*methods.split(","), "pixel_mass", "random order"}
    for measure in ("tiles empty", "digit 0", "noise", "all cosine", "sufficiency"):
        mean = found["gradient_x_input"][measure]["mean"]
        assert page.count(f"| {mean:.3f} ± ") >= 1, measure
    # A majority sample has one odd digit, so that the three shares make the one of all.
    for of in (found["gradient_x_input"], found["pixel_mass"]):
        parts = [of[f"odd {digit}"] for digit in range(3)]
        assert sum(part["used"] for part in parts) == of["mass"]["used"] == 8
        total = sum(part["used"] * (part["mean"] or 0) for part in parts)
        assert total == pytest.approx(8 * of["mass"]["mean"])
    # Ranks are those of the printed means: the best has the smallest area.
    best = min(set(found) - {"random order"}, key=lambda name: found[name]["area"]["mean"])
    assert f"| {label(best)} | 1\\* |" in page
    # The pixels' own map names no empty tile first, and lies where the pixels lie.
    assert found["pixel_mass"]["tiles empty"]["mean"] == 0
    assert found["pixel_mass"]["centre"]["mean"] == 0
    assert found["pixel_mass"]["last"]["mean"] == 0
    assert list(numbers["agreement"]) == ["gradient_x_input – pattern_attribution"]


def test_numbers_of_fewer_samples_are_counted_and_methods_are_told_apart(monkeypatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    page = importlib.import_module("measures_page")
    few = Summary.of([0.5, 0.5, np.nan])
    assert page._number(few, True) == "0.500 ± 0.000 (2)"
    assert page._number(few, False) == "0.500 ± 0.000"
    assert page._number(None, True) == "–"
    found = {
        "near": {"area": Summary.of([0.1, 0.3, 0.2])},
        "best": {"area": Summary.of([0.1, 0.2, 0.2])},
        "far": {"area": Summary.of([0.4, 0.5, 0.5])},
        "random order": {"area": Summary.of([0.0, 0.0, 0.0])},
        "other": {},
    }
    ranks = page._ranked(found, "area", 1)
    assert ranks == {"near": "2\\*", "best": "1\\*", "far": "3"}
    assert page._ranked(found, "area", -1) == {"near": "2", "best": "3", "far": "1\\*"}


def test_rows_that_are_alike_are_explained(monkeypatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    page = importlib.import_module("measures_page")
    one, other = np.ones((2, 3)), np.array([[1.0, 1, 1], [1, 1, np.nextafter(1, 2)]])
    maps = {"lrp_epsilon": one, "deep_taylor": other, "epsilon_plus": one.copy()}
    same = page.groups(maps)
    assert same == [["lrp_epsilon", "epsilon_plus"]]
    near, far = ({"area": Summary.of([mean, mean])} for mean in (0.5, 0.501))
    found = {"lrp_epsilon": near, "epsilon_plus": near, "gradient_x_input": far}
    presets = f"LRP-ε; and LRP ε and z⁺ give the same maps, bit by bit.\n{page.PRESETS}"
    assert page._alike(found, same) == [presets]
    found["gradient_x_input"] = {"area": Summary.of([0.5001, 0.5001])}
    assert page._alike(found, same) == [f"{presets}\n{page.GRADIENT}"]
    # Of other methods the page does not know why.
    assert page._alike({}, [["deep_taylor", "occlusion"]]) == [
        f"{label('deep_taylor')}; and {label('occlusion')} give the same maps, bit by bit."
    ]
    assert page._alike({}, []) == []


def test_columns_are_what_their_names_say(cell, monkeypatch) -> None:
    monkeypatch.syspath_prepend(SCRIPTS)
    script = importlib.import_module("measure_methods")
    trained = load_cell(cell)
    x, y, relevant = trained.problem.samples(trained.problem.images("test"), count=8)
    judged = script.Judged(trained, trained.problem, x, y, relevant, x)
    explain = script.explainer(judged, trained.model, "gradient_x_input")
    relevance = explain(x, y).relevance
    found = script.of_map(judged, explain.forward, relevance)
    tiles = {"how": judged.tiles, "removed": script.POINTS}
    for name, order in (("area", "most_relevant"), ("area_least", "least_relevant")):
        curve = degradation(explain.forward, x, relevance, y, order=order, **tiles)
        np.testing.assert_array_equal(found[name].values, curve.area_under())
    assert found["area"].mean < found["area_least"].mean
    found = script.after_randomising(judged, "gradient_x_input", lambda _: None)
    names = layers_with_weights(trained.model, x)
    copies = dict(
        randomise_weights(trained.model, lambda: script.untrained(trained.model), x, names)
    )
    for name, layer in (("output", names[0]), ("all", names[-1])):
        after = script.explainer(judged, copies[layer], "gradient_x_input", check=None)
        cosine = map_cosine(relevance, after(x, y).relevance)
        np.testing.assert_allclose(found[f"{name} cosine"].values, cosine, rtol=1e-6)


def test_inputs_of_largest_score_are_drawn(cell, tmp_path, monkeypatch, capsys) -> None:
    picture = tmp_path / "maximised.png"
    run("draw_maximised.py", [str(cell), str(picture), "--steps", "2"], monkeypatch)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(" score ")[0] for line in lines] == [f"{digit}:" for digit in range(10)]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_cell_of_single_images_is_refused(tmp_path, monkeypatch) -> None:
    problem = Problem.of("mnist-mini", "sequence", 4)
    path = tmp_path / "shallow.safetensors"
    TrainedCell("Shallow", new_cell("Shallow", problem), problem, 0.0, 1.0, {}).save(path)
    with pytest.raises(SystemExit, match="wanted a cell of the majority problem"):
        run("measure_methods.py", [str(path), "--out", str(tmp_path)], monkeypatch)
