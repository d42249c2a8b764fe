# SPDX-License-Identifier: Apache-2.0
"""`pyrel bench`, on the tiniest cases."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import Workshop, pyrel

from pyrel.benchmark import contestants, measuring
from pyrel.benchmark.contestants import Contestant
from pyrel.benchmark.results import load_results

TINY = ("--peers", "numpy", "--blocks", "2", "--calls", "1", "--pause", "0")


def test_measures_and_shows(tmp_path: Path) -> None:
    out, plots, table = tmp_path / "new" / "r.json", tmp_path / "plots", tmp_path / "table.md"
    result = pyrel("bench", "--batches", "2,1", *TINY, "--out", out)
    assert result.code == 0, result.err
    results = load_results(out)
    assert [(c.cell, c.steps, c.batch) for c in results.cases] == [("Deep", 12, 1), ("Deep", 12, 2)]
    assert "NumPy of that" in result.out and f"All measurements: {out}" in result.out
    shown = pyrel("bench", "--from", out, "--plots", plots, "--markdown", table)
    assert shown.code == 0, shown.err
    assert shown.out.startswith(result.out[: result.out.index("All measurements")].rstrip())
    assert {p.name for p in plots.iterdir()} == {
        "roofline.svg", "throughput-deep-12-deep-taylor.svg"
    }  # fmt: skip
    assert "| NumPy of that |" in table.read_text()

    before = out.read_bytes()
    (plots / "roofline.svg").unlink()
    (plots / "roofline.svg").symlink_to(out)
    for options in (
        ("--markdown", out),
        ("--markdown", plots / "roofline.svg"),
        ("--plots", plots),
    ):
        refused = pyrel("bench", "--from", out, *options)
        assert refused.code == 1
        assert "is the measurements of --from, which the output would replace" in refused.err
        assert out.read_bytes() == before


def test_outputs_are_files_of_their_own(tmp_path: Path) -> None:
    out, other = tmp_path / "r", tmp_path / "x" / ".." / "r"
    shared = pyrel("bench", "--out", out, "--markdown", other)
    assert shared.code == 1
    assert "is named for the tables and for the measurements" in shared.err
    out.write_text("a model")
    model = pyrel("bench", "--model", out, "--out", other)
    assert model.code == 1
    assert "is the model, which the output would replace" in model.err
    assert out.read_text() == "a model"
    assert list(tmp_path.iterdir()) == [out]


def test_a_trained_model_is_measured_on_its_data(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In the place of pyrel, which has to import torch and is measured above.
    stand_in = Contestant(contestants.PYREL, "stand-in", "pyrel.benchmark.peers.runners:numpy")
    others = contestants.CONTESTANTS[1:]
    monkeypatch.setattr(contestants, "CONTESTANTS", (stand_in, *others))
    out = tmp_path / "r.json"
    options = ("--batches", "3", "--methods", "all", "--out", out, "--markdown", tmp_path / "t.md")
    result = pyrel("bench", "--model", workshop.shallow, *TINY, *options)
    assert result.code == 0, result.err
    cases = load_results(out).cases
    assert [case.method for case in cases] == ["deep_taylor", "sensitivity", "guided_backprop"]
    for case in cases:
        assert case.weights == "trained (shallow.safetensors)"
        assert case.inputs == "mnist-mini, majority, test samples"
        assert 0.5 < case.zeros["input"] < 1  # most of a digit's picture is black
    assert "mnist-mini, majority, test samples" in (tmp_path / "t.md").read_text()


def test_an_interruption_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "run", interrupted)
    result = pyrel("bench", *TINY, "--out", tmp_path / "r.json")
    assert result.code == 130
    assert result.err == "pyrel bench: interrupted; nothing is written\n"
    assert not (tmp_path / "r.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--steps", "5"), "steps must divide the 84 columns of three digits, not 5"),
        (("--batches", "0"), "--batches: wanted numbers from 1 on, got 0"),
        (("--from", "no.json"), "no.json: no such file or directory"),
        (("--model", "no.safetensors"), "no.safetensors: no such file or directory"),
    ],
)
def test_refusals(options: tuple[str, ...], message: str) -> None:
    result = pyrel("bench", *options)
    assert result.code == 1
    assert result.err == f"pyrel bench: {message}\n"


def test_unknown_names_are_wrong_usage() -> None:
    assert pyrel("bench", "--peers", "tensorflow").code == 2
    assert pyrel("bench", "--cells", "Perceptron").code == 2
    assert pyrel("bench", "--batches", "many").code == 2
