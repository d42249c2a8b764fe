# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import csv
import itertools
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import pyrel
from processes import PATIENCE, start, wait_for

from pyrel.experiment import Problem, load_cell, new_cell, train_cell
from pyrel.training import TrainingConfig, epoch
from pyrel.training.schedule import rate

SMALL = ("--problem", "sequence", "--sizes", "8", "--recurrent", "4", "--batch", "500",
         "--threads", "1", "--device", "cpu")  # fmt: skip


def test_a_trained_model_says_what_it_is(tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = pyrel(
        "train", "shallow", *SMALL, "--epochs", 2, "--steps", 7, "--seed", 3, "--out", out,
        "--schedule", "constant", "--learning-rate", 0.002, "--dropout", 0.1,
    )  # fmt: skip
    assert result.code == 0, result.err
    assert re.search(r"Accuracy on 1,000 test samples: \d+\.\d\d %", result.out)
    assert sorted(os.listdir(out)) == ["checkpoint.safetensors", "log.csv", "model.safetensors"]
    cell = load_cell(out / "model.safetensors")
    assert cell.problem == Problem("mnist-mini", "sequence", 7)
    assert (cell.low, cell.high) == (0.0, 1.0)
    assert cell.model.config() == {
        "cell": "Shallow", "steps": 7, "step_shape": [28, 4], "classes": 10, "sizes": [8],
        "recurrent": 4, "dropout": 0.1, "stationary": False,
    }  # fmt: skip
    wanted = {"epochs": 2, "batch_size": 500, "learning_rate": 0.002, "schedule": "constant",
              "seed": 3, "threads": 1}  # fmt: skip
    assert cell.training["config"].items() >= wanted.items()

    again = pyrel("train", "Shallow", *SMALL, "--out", out)
    assert again.code == 1
    assert "has a run already; add --resume" in again.err


@pytest.mark.parametrize(
    ("cell", "given", "wanted"),
    [
        ("ConvDeep", ("--sizes", "2,3,6,4", "--pooling", "sum"), {"sizes": [2, 3, 6, 4]}),
        ("ConvDeepPlus", ("--sizes", "2,3,6,4", "--pooling", "sum"), {"recurrent": 128}),
        ("RLSTM", ("--convolutions", "2,3", "--pooling", "sum"), {"convolutions": [2, 3]}),
    ],
)
def test_options_of_the_further_cells(
    tmp_path: Path, cell: str, given: tuple[str, ...], wanted: dict[str, object]
) -> None:
    result = pyrel(
        "train", cell, "--problem", "sequence", *given, "--stationary", "--batch", 500,
        "--device", "cpu", "--epochs", 1, "--out", tmp_path,
    )  # fmt: skip
    assert result.code == 0, result.err
    config = load_cell(tmp_path / "model.safetensors").model.config()
    assert config.items() >= (wanted | {"pooling": "sum", "stationary": True}).items()


def test_target_accuracy_is_measured_on_held_out_images(tmp_path: Path) -> None:
    result = pyrel(
        "train", "Shallow", *SMALL, "--epochs", 9, "--target-accuracy", 0.01, "--out", tmp_path
    )
    assert result.code == 0, result.err
    cell = load_cell(tmp_path / "model.safetensors")
    assert cell.training["stopped"] == "target"
    assert cell.training["kept"]["validation_accuracy"] is not None
    none = pyrel("train", "Shallow", *SMALL, "--target-accuracy", 0.9, "--held-out", 0)
    assert none.code == 1
    assert "give --held-out 0.1" in none.err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["Deeper"], 2, "'Deeper' is not one of Shallow, Deep, DeepV2"),
        (["Deep", "--sizes", "a,b"], 2, "no list of whole numbers"),
        (["Deep", "--sizes", "8"], 1, "sizes of Deep must be 3 widths"),
        (["RLSTM", "--recurrent", "8"], 1, "recurrent: given 8, but RLSTM has no such argument"),
        (["Deep", "--pooling", "sum"], 1, "pooling: given sum, but Deep has no such argument"),
        (["ConvDeep", "--pooling", "mean"], 2, "'mean' is not one of max, sum"),
        (["RLSTM", "--convolutions", "4"], 1, "convolutions must be two numbers of maps, not (4,)"),
        (["Deep", "--steps", "5"], 1, "steps: wanted a divisor of 84"),
        (["Deep", "--learning-rate", "-1"], 1, "learning_rate must be a number above 0"),
        (["Deep", "--device", "gpu"], 1, "device must be 'auto', 'cpu' or 'cuda'"),
        (["Deep", "--schedule", "step", "--epochs", "1"], 1, "would never lower the rate"),
        (["Deep", "--schedule", "step", "--decay-epochs", "5"], 1, "would never lower the rate"),
        (["Deep", "--decay-epochs", "2"], 2, "--decay-epochs: has no effect on --schedule one"),
        (["Deep", "--decay-factor", "0.5"], 2, "--decay-factor: has no effect on --schedule"),
        (["Deep", "--schedule", "step", "--warmup", "0.1"], 2, "no effect on --schedule step"),
        (["Deep", "--problem", "sequence", "--draws", "5"], 2, "--draws: has no effect on"),
        (["Deep", "--held-out", "0.001"], 1, "held_out = 0.001: majority samples take two"),
        (["Deep", "--data-root", "no/folder"], 1, "no/folder: there is no such folder"),
        (["Deep", "--dataset", "imagenet"], 2, "'imagenet' is not one of mnist-mini"),
    ],
)
def test_wrong_settings(tmp_path: Path, arguments: list[str], code: int, message: str) -> None:
    result = pyrel("train", *arguments, "--out", tmp_path / "run")
    assert result.code == code
    assert message in " ".join(result.err.split())
    assert not (tmp_path / "run").exists()


def test_the_step_schedule_steps(tmp_path: Path) -> None:
    command = ("train", "Shallow", *SMALL, "--schedule", "step", "--learning-rate", 0.01)
    for name, options, wanted in [
        ("usual", ("--epochs", 4), (2, 0.1)),
        ("given", ("--epochs", 3, "--decay-epochs", 1, "--decay-factor", 0.5), (1, 0.5)),
    ]:
        out = tmp_path / name
        assert pyrel(*command, *options, "--out", out).code == 0
        config = load_cell(out / "model.safetensors").training["config"]
        assert (config["decay_epochs"], config["decay_factor"]) == wanted
        with (out / "log.csv").open(newline="") as file:
            rates = {float(row["learning_rate"]) for row in csv.DictReader(file)}
        assert len(rates) > 1


def test_the_library_refuses_draws_that_have_no_effect() -> None:
    problem = Problem.of("mnist-mini", "sequence")
    model = new_cell("Shallow", problem, sizes=(8,), recurrent=4)
    with pytest.raises(ValueError, match="draws: given 5, but only majority samples are drawn"):
        train_cell(model, problem, problem.images("test"), config=TrainingConfig(), draws=5)


def test_a_missing_tensorboard_is_said_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    out = tmp_path / "run"
    result = pyrel("train", "Shallow", *SMALL, "--tensorboard", "--out", out)
    assert result.code == 1
    wanted = "--tensorboard needs the package tensorboard: pip install 'pyrel[tensorboard]'"
    assert result.err == f"pyrel train: {wanted}\n"
    assert not out.exists()


def test_a_resumed_run_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ("train", "Shallow", *SMALL, "--epochs", 2, "--dropout", 0.2, "--out")
    started = pyrel(*command, tmp_path / "whole", "--resume")
    assert started.code == 0
    assert f"{tmp_path / 'whole'} has no run to go on with: starting a new one" in started.out
    with monkeypatch.context() as during:
        count = itertools.count(1)

        def stop_in_the_second_epoch(config: TrainingConfig, batch: int, per_epoch: int) -> float:
            if next(count) > per_epoch + 3:
                raise KeyboardInterrupt
            return rate(config, batch, per_epoch)

        during.setattr(epoch, "rate", stop_in_the_second_epoch)
        stopped = pyrel(*command, tmp_path / "resumed")
    assert stopped.code == 130
    assert "interrupted in epoch 2; " in stopped.err
    assert not (tmp_path / "resumed" / "model.safetensors").exists()
    gone_on = pyrel(*command, tmp_path / "resumed", "--resume")
    assert gone_on.code == 0
    assert "no run to go on with" not in gone_on.out
    whole, resumed = (
        load_cell(tmp_path / name / "model.safetensors").model.state_dict()
        for name in ("whole", "resumed")
    )
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    out = tmp_path / "Run"
    out.write_text("a file")
    result = pyrel("train", "Shallow", *SMALL, "--out", out)
    assert result.code == 1
    assert result.err.splitlines()[-1] == f"pyrel train: {out}: file exists"


@pytest.mark.parametrize(
    ("number", "code", "told"),
    [
        (signal.SIGINT, 130, r"interrupted in epoch \d+"),
        (signal.SIGTERM, 143, "stopped by SIGTERM"),
    ],
)
def test_ctrl_c_and_resume(tmp_path: Path, number: signal.Signals, code: int, told: str) -> None:
    out = tmp_path / "run"
    process = start(
        "-m", "pyrel", "train", "Shallow", *SMALL, "--out", out, "--epochs", 4000,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    checkpoint = out / "checkpoint.safetensors"
    wait_for(checkpoint.exists, process)
    second = pyrel("train", "Shallow", *SMALL, "--out", out, "--epochs", 4000, "--resume")
    assert second.code == 1
    assert f"the training run in {out} is in use by process {process.pid} on " in second.err
    process.send_signal(number)
    _, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, err
    assert re.match(f"pyrel train: {told}; ", err.splitlines()[-1])
    assert f"{checkpoint} is whole; the same command with --resume goes on" in err.splitlines()[-1]
    assert sorted(os.listdir(out)) == ["checkpoint.safetensors", "log.csv"]

    other = pyrel("train", "Shallow", *SMALL, "--out", out, "--epochs", 399, "--resume")
    assert other.code == 1
    assert "belongs to another run" in other.err
