# SPDX-License-Identifier: Apache-2.0
"""What is shown while training, and what the logs keep."""

import csv
import dataclasses
import io
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from pyrel.training import EpochRecord, TrainingConfig, progress, train
from pyrel.training.progress import Reporter

if TYPE_CHECKING:
    from conftest import Problem

CONFIG = TrainingConfig(epochs=40, batch_size=60, device="cpu")


class Clock:
    """Stands still until a test moves it."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def record(epoch: int) -> EpochRecord:
    return EpochRecord(epoch, 1e-3, 0.25, 0.9, 0.5, 0.875, 2.0)


def test_lines_where_there_is_no_terminal(
    problem: "Problem", capfd: pytest.CaptureFixture[str], clock: Clock
) -> None:
    train(problem.model(), problem.x, problem.y, config=CONFIG, validation=problem.validation)
    captured = capfd.readouterr()
    lines = captured.err.splitlines()
    assert captured.out == ""
    # No time passes between two epochs: the first and the last, and the closing line.
    assert len(lines) == 3
    assert lines[0].startswith("epoch 1/40  loss ") and lines[0].endswith(" left")
    assert lines[1].startswith("epoch 40/40  loss ")
    assert lines[-1].startswith("40 epochs in 0 min") and "model of epoch 40" in lines[-1]


def test_silence_where_no_progress_is_wanted(
    problem: "Problem", capfd: pytest.CaptureFixture[str]
) -> None:
    config = dataclasses.replace(CONFIG, epochs=2)
    train(problem.model(), problem.x, problem.y, config=config, progress=False)
    assert capfd.readouterr() == ("", "")


def test_one_epoch_is_no_epochs(problem: "Problem", capfd: pytest.CaptureFixture[str]) -> None:
    config = dataclasses.replace(CONFIG, epochs=1)
    train(problem.model(), problem.x, problem.y, config=config)
    assert capfd.readouterr().err.splitlines()[-1].startswith("1 epoch in 0 min")


def test_a_bar_on_a_terminal(clock: Clock) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=100, color_system=None)
    with Reporter(4, 10, [record(1)], shown=True, console=console) as reporter:
        assert reporter.due()
        reporter.batch(2, 5, 0.3125)
        assert not reporter.due()
        clock.now += 0.2
        assert reporter.due()
        reporter.epoch(record(2))
    shown = text.getvalue()
    assert "epoch 2/4" in shown
    assert "50 %" in shown and "loss 0.2500  accuracy 87.50 %" in shown
    assert "left" in shown


def test_time_left_follows_the_last_epochs(clock: Clock) -> None:
    text = io.StringIO()
    done = [dataclasses.replace(record(i), seconds=100.0) for i in range(1, 4)]
    with Reporter(63, 1, done, shown=True, console=Console(file=text, width=200)) as reporter:
        assert not reporter.due()
        for i in range(4, 9):
            reporter.epoch(dataclasses.replace(record(i), seconds=2.0))
    # Only the first line is due so soon: three epochs of 100 s and one of 2 s, 59 to go.
    minutes, seconds = divmod(round(59 * (3 * 100 + 2) / 4), 60)
    numbers = "epoch 4/63  loss 0.2500  accuracy 87.50 %"
    assert text.getvalue() == f"{numbers}  {minutes} min {seconds:02d} s left\n"


def test_the_log_has_a_line_for_each_epoch(problem: "Problem", tmp_path: Path) -> None:
    result = train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path)
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 41))
    for row, kept in zip(rows, result.history, strict=True):
        assert float(row["loss"]) == kept.loss
        assert row["validation_accuracy"] == ""


def test_tensorboard_that_is_not_installed_is_named(
    problem: "Problem", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'pyrel\[tensorboard\]'"):
        train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, tensorboard=True)


def test_tensorboard_gets_every_number(
    problem: "Problem", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[object, ...]] = []

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int) -> None:
            calls.append(("open", folder, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            calls.append((name, value, step))

        def close(self) -> None:
            calls.append(("close",))

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    result = train(
        *(problem.model(), problem.x, problem.y),
        config=TrainingConfig(epochs=2, device="cpu"), out=tmp_path, tensorboard=True,
    )  # fmt: skip
    assert calls[0] == ("open", str(tmp_path / "tensorboard"), 1)
    assert ("loss", result.history[1].loss, 2) in calls
    assert ("accuracy", result.history[0].accuracy, 1) in calls
    assert not any(call[0] == "validation_loss" for call in calls)
    assert calls[-1] == ("close",)
