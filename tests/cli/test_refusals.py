# SPDX-License-Identifier: Apache-2.0
"""Which errors are told in a line, and which are shown as faults of pyrel."""

from __future__ import annotations

import operator
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from commands import pyrel

from pyrel import explain_file as module
from pyrel.cli.explain import explain
from pyrel.cli.refusals import in_words_of_options, refusing
from pyrel.data import DataError, majority, read_images
from pyrel.engine.arrays import targets


@pytest.mark.parametrize(
    "fault",
    [
        lambda: len(3),
        lambda: int("²"),
        lambda: np.ones(2) + np.ones(3),
        lambda: np.concatenate([]),
        lambda: np.broadcast_shapes((2,), (3,)),
        lambda: operator.truediv(1, 0),
        lambda: {}["key"],
    ],
)
def test_faults_are_not_told_as_refusals(
    program: Path,
    x_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable,
) -> None:
    monkeypatch.setattr(module, "open_array", lambda *_: fault())
    with pytest.raises((TypeError, ValueError, ArithmeticError, KeyError)):
        pyrel("explain", program, x_file, "--out", tmp_path / "r.npz")


@pytest.mark.parametrize(
    ("check", "kind"),
    [
        (lambda: targets(np.zeros(3), 3, 10), TypeError),
        (lambda: targets(10, 3, 10), ValueError),
        (lambda: majority(np.zeros((2, 28, 28)), np.zeros(2, int), 0), TypeError),
        (lambda: read_images(__file__, __file__), DataError),
        (lambda: Path("none").read_bytes(), FileNotFoundError),
    ],
)
def test_checks_are_told_in_a_line(
    capsys: pytest.CaptureFixture[str], check: Callable, kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        check()
    with pytest.raises(typer.Exit) as stop:
        refusing(check)()
    assert stop.value.exit_code == 1
    told = capsys.readouterr().err
    assert told.startswith("pyrel <lambda>: ")
    assert told.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("give low= and high=, the range", "give --low and --high, the range"),
        ("high: wanted values >= 0", "--high: wanted values >= 0"),
        ("masks may be of lengths (lengths=True)", "masks may be of lengths (--lengths)"),
        ("x.npy: its low: 3 is low", "x.npy: its low: 3 is low"),
        ("runs/low=1.npy: no such file", "runs/low=1.npy: no such file"),
        ("deep-low= 3, source= 4", "deep-low= 3, source= 4"),
        ("give limit_factor=", "give --limit-factor"),
        ("target: as target=(0, 10), or", "--target: as --target 0,10, or"),
    ],
)
def test_arguments_are_called_as_options(text: str, told: str) -> None:
    assert in_words_of_options(explain, text) == told


@pytest.mark.parametrize("there", [False, True])
def test_what_is_no_evaluation_is_told(tmp_path: Path, there: bool) -> None:
    study = tmp_path / "nope"
    wanted = f"pyrel report: {study}: there is no such evaluation; pyrel evaluate writes one\n"
    if there:
        study.touch()
        wanted = (
            f"pyrel report: {study} is not an evaluation, which is the file evaluation.json of "
            f"pyrel evaluate, or the folder it is in\n"
        )
    result = pyrel("report", study, "--out", tmp_path / "page.html")
    assert (result.code, result.err) == (1, wanted)
    assert not (tmp_path / "page.html").exists()
