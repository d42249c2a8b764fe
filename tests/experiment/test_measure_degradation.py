# SPDX-License-Identifier: Apache-2.0
import json
import runpy
import sys
from pathlib import Path

import pytest

from pyrel.experiment import Problem, TrainedCell, new_cell

SCRIPT = Path(__file__).parents[2] / "scripts" / "measure_degradation.py"


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    problem = Problem.of("mnist-mini", "majority", 3)
    path = tmp_path_factory.mktemp("cell") / "shallow.safetensors"
    model = new_cell("Shallow", problem).eval()
    TrainedCell("Shallow", model, problem, 0.0, 1.0, {}).save(path)
    return path


def test_the_script_writes_table_numbers_and_figure(cell, tmp_path, monkeypatch, capsys) -> None:
    json_file, figure = tmp_path / "numbers.json", tmp_path / "figure.png"
    methods = ("gradient_x_input", "sensitivity")
    arguments = f"{cell} --samples 30 --points 3 --draws 2 --methods {','.join(methods)}"
    files = ["--json", str(json_file), "--figure", str(figure)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments.split(), *files])
    runpy.run_path(str(SCRIPT), run_name="__main__")
    out = capsys.readouterr().out
    numbers = json.loads(json_file.read_text())
    assert numbers["removed"] == [0, 1, 2]
    assert set(numbers["curves"]) == {*methods, "pixel_mass", "random"}
    for name in (*methods, "pixel_mass"):
        assert f"\n{name}" in f"\n{out}"
        assert numbers["below_random"][name]["used"] == 30
    assert "30 samples, 48 tiles of 7×7, 3 points, 3 maps, 2 random orders" in out
    assert figure.read_bytes().startswith(b"\x89PNG")
