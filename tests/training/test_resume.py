# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed and go on: the same weights, to the bit, as runs that were not."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from pyrel.training import TrainingConfig, train
from pyrel.training.files import read_tensors, write_tensors

if TYPE_CHECKING:
    from conftest import Problem

CONFIG = TrainingConfig(epochs=6, batch_size=25, learning_rate=0.01, seed=4, device="cpu")

# Trains in its own process and kills that process in the middle: at a batch, so in the middle of an
# epoch, or at a call of fsync, so between writing a file and putting it in its place.
PROGRAM = """
import itertools, os, signal, sys
import torch
import pyrel.training
from pyrel.nn import Deep

out, where, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
torch.set_num_threads(1)
torch.manual_seed(0)
x, y = torch.rand(130, 4, 3, 2), torch.randint(3, (130,))
model = Deep(4, step_shape=(3, 2), classes=3, sizes=(12, 16, 8), recurrent=8)
calls = itertools.count(1)

def kill(*args):
    if model.training and next(calls) == count:
        os.kill(os.getpid(), signal.SIGKILL)

if where == "batch":
    model.register_forward_pre_hook(kill)
if where == "fsync":
    os.fsync = kill
config = pyrel.training.TrainingConfig(
    epochs=6, batch_size=25, learning_rate=0.01, seed=4, keep="best", device="cpu"
)
pyrel.training.train(
    model, x, y, config=config, validation=(x[:40], y[:40]), out=out, resume=True, progress=False
)
pyrel.training.save_model(out + "/model.safetensors", model)
"""


def run(out: Path, where: str = "never", count: int = 0) -> int:
    command = [sys.executable, "-c", PROGRAM, str(out), where, str(count)]
    return subprocess.run(command, check=False, timeout=60).returncode


def log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    assert run(out) == 0
    return out


# Six batches an epoch: batch 16 is in the middle of the third. The log is written first, then a
# checkpoint an epoch: the fifth fsync is that of the fourth epoch.
@pytest.mark.parametrize(("where", "count"), [("batch", 16), ("fsync", 5)])
def test_a_killed_run_ends_in_the_same_weights(
    uninterrupted: Path, tmp_path: Path, where: str, count: int
) -> None:
    assert run(tmp_path, where, count) == -signal.SIGKILL
    assert not (tmp_path / "model.safetensors").exists()
    assert run(tmp_path) == 0
    name = "model.safetensors"
    assert (tmp_path / name).read_bytes() == (uninterrupted / name).read_bytes()
    ours, theirs = (
        read_tensors(folder / "checkpoint.safetensors", "checkpoint")[0]
        for folder in (tmp_path, uninterrupted)
    )
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert log(tmp_path) == log(uninterrupted)
    assert sorted(os.listdir(tmp_path)) == sorted(os.listdir(uninterrupted))


def test_a_torn_log_is_mended(problem: "Problem", tmp_path: Path) -> None:
    train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)
    whole = (tmp_path / "log.csv").read_text()
    (tmp_path / "log.csv").write_text(whole + whole.splitlines()[-1] + "\n7,0.0")
    train(
        *(problem.model(), problem.x, problem.y),
        config=CONFIG, out=tmp_path, resume=True, progress=False,
    )  # fmt: skip
    assert (tmp_path / "log.csv").read_text() == whole


def test_a_finished_run_is_not_run_again(problem: "Problem", tmp_path: Path) -> None:
    model, again = problem.model(), problem.model(seed=9)
    first = train(model, problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)
    second = train(
        again, problem.x, problem.y, config=CONFIG, out=tmp_path, resume=True, progress=False
    )
    assert second == first
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)


def test_an_existing_run_is_not_overwritten(problem: "Problem", tmp_path: Path) -> None:
    train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)
    with pytest.raises(FileExistsError, match="checkpoint.safetensors exists: give resume=True"):
        train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path)


def test_another_run_is_not_resumed(problem: "Problem", tmp_path: Path) -> None:
    train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)

    def resume(x: torch.Tensor = problem.x, dropout: float = 0.1, **changes: float) -> None:
        config = TrainingConfig(**(CONFIG.to_dict() | changes))
        model = problem.model(dropout=dropout)
        train(model, x, problem.y, config=config, out=tmp_path, resume=True, progress=False)

    with pytest.raises(ValueError, match="learning_rate was 0.01 and is 0.02") as caught:
        resume(learning_rate=0.02)
    assert str(tmp_path / "checkpoint.safetensors") in str(caught.value)
    with pytest.raises(ValueError, match="belongs to another run .data was '"):
        resume(x=problem.x.flip(0))
    with pytest.raises(ValueError, match="belongs to another run .model was "):
        resume(dropout=0.2)


def test_the_checkpoint_tells_the_whole_configuration(problem: "Problem", tmp_path: Path) -> None:
    model = problem.model()
    result = train(model, problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)
    assert result.checkpoint == tmp_path / "checkpoint.safetensors"
    tensors, content = read_tensors(result.checkpoint, "checkpoint")
    assert content["identity"] == json.loads(
        json.dumps(CONFIG.to_dict() | {"model": model.config(), "validation data": None})
    ) | {"data": content["identity"]["data"]}
    assert len(content["history"]) == 6
    kinds = {name.split("/")[0] for name in tensors}
    assert kinds == {"model", "adam", "generator"}


def test_a_damaged_checkpoint_is_refused(problem: "Problem", tmp_path: Path) -> None:
    train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(ValueError, match="checkpoint.safetensors is not a whole safetensors file"):
        train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, resume=True)


@pytest.mark.parametrize("change", [{"history": [{"epoch": 1}]}, {"history": 3}, {"identity": 3}])
def test_a_checkpoint_of_other_entries_is_refused(
    problem: "Problem", tmp_path: Path, change: dict[str, object]
) -> None:
    train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, content = read_tensors(path, "checkpoint")
    write_tensors(path, "checkpoint", tensors, content | change)
    with pytest.raises(ValueError, match="checkpoint.safetensors does not describe a run"):
        train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, resume=True)


def test_another_torch_is_warned_of(
    problem: "Problem", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, content = read_tensors(path, "checkpoint")
    content["environment"]["torch"] = "1.0"
    write_tensors(path, "checkpoint", tensors, content)
    train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, resume=True)
    assert "was written with torch 1.0" in caplog.text
