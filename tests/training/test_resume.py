# SPDX-License-Identifier: Apache-2.0
"""Runs that are killed and go on: the same weights, to the bit, as runs that were not."""

import contextlib
import csv
import itertools
import json
import math
import multiprocessing
import signal
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import TestCase

import pytest
import torch

from pyrel.files.tensors import read_tensors, write_tensors
from pyrel.training import TrainingConfig, TrainingInterrupted, train

if TYPE_CHECKING:
    from conftest import Problem

CONFIG = TrainingConfig(epochs=6, batch_size=25, learning_rate=0.01, seed=4, device="cpu")

# Trains in processes of their own; a job is a folder, and where to kill the process: at a batch, so
# in the middle of an epoch, or at a call of fsync, so between writing a file and putting it in its
# place. They are forked from one process, for loading torch takes longer than all the trainings.
PROGRAM = """
import itertools, json, os, signal, sys
import torch
import torch._dynamo  # which an optimizer would import in every child
import pyrel.training
from pyrel.nn import Deep

def train(out, where, count):
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
    validation = x[:40], y[:40]
    pyrel.training.train(
        model, x, y, config=config, validation=validation, out=out, resume=True, progress=False
    )
    pyrel.training.save_model(out + "/model.safetensors", model)

ends = []
for job in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            train(*job)
            status = 0
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    ends.append((code, sorted(os.listdir(job[0]))))
print(json.dumps(ends))
"""

# Six batches an epoch: batch 16 is in the middle of the third. The log is written first, then a
# checkpoint an epoch: the fifth fsync is that of the fourth epoch.
KILLS = {"batch": 16, "fsync": 5}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Give the folder of an uninterrupted run and of killed ones, and how each job ended."""
    folder = tmp_path_factory.mktemp("runs")
    jobs: list[tuple[str, str, int]] = [("whole", "never", 0)]
    for where, count in KILLS.items():
        jobs += [(where, where, count), (where, "never", 0)]
    for name, _, _ in jobs:
        (folder / name).mkdir(exist_ok=True)
    command = [sys.executable, "-c", PROGRAM]
    given = json.dumps([(str(folder / name), where, count) for name, where, count in jobs])
    printed = subprocess.run([*command, given], check=True, timeout=120, stdout=subprocess.PIPE)
    ends: dict[str, Any] = {}
    for (name, _, _), end in zip(jobs, json.loads(printed.stdout), strict=True):
        ends.setdefault(name, []).append(end)
    return folder, ends


def log(out: Path) -> list[dict[str, str]]:
    with (out / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


@pytest.mark.parametrize("where", KILLS)
def test_a_killed_run_ends_in_the_same_weights(
    runs: tuple[Path, dict[str, Any]], where: str
) -> None:
    folder, ends = runs
    files = ["checkpoint.safetensors", "log.csv", "model.safetensors"]
    assert ends["whole"] == [[0, files]]
    (killed, left), (resumed, in_the_end) = ends[where]
    assert killed == -signal.SIGKILL
    assert "checkpoint.safetensors" in left and "model.safetensors" not in left
    assert resumed == 0 and in_the_end == files
    ours, theirs = folder / where, folder / "whole"
    name = "model.safetensors"
    assert (ours / name).read_bytes() == (theirs / name).read_bytes()
    first, second = (
        read_tensors(run / "checkpoint.safetensors", "checkpoint")[0] for run in (ours, theirs)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert log(ours) == log(theirs)


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


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_gradient_descent_goes_on_where_it_was_left(
    problem: "Problem", tmp_path: Path, momentum: float
) -> None:
    settings = {"epochs": 4, "optimizer": "sgd", "momentum": momentum, "learning_rate": 0.05}
    config = TrainingConfig(**(CONFIG.to_dict() | settings))

    def run(batches: float, out: Path) -> torch.Tensor:
        model, seen = problem.model(), itertools.count(1)

        def stop(*_: object) -> None:
            if model.training and next(seen) > batches:
                raise KeyboardInterrupt

        model.register_forward_pre_hook(stop)
        with contextlib.suppress(TrainingInterrupted):
            train(model, problem.x, problem.y, config=config, out=out, resume=True, progress=False)
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    whole = run(math.inf, tmp_path / "whole")
    run(12, tmp_path / "parts")  # of 5 batches an epoch: in the middle of the third
    assert torch.equal(run(math.inf, tmp_path / "parts"), whole)


def test_checkpoints_from_before_the_choice_of_an_optimizer_are_read(
    problem: "Problem", tmp_path: Path
) -> None:
    train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, content = read_tensors(path, "checkpoint")
    del content["identity"]["optimizer"], content["identity"]["momentum"]
    write_tensors(path, "checkpoint", tensors, content)
    result = train(
        problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, resume=True,
        progress=False,
    )  # fmt: skip
    assert len(result.history) == CONFIG.epochs


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


def test_another_torch_is_warned_of(problem: "Problem", tmp_path: Path) -> None:
    train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, content = read_tensors(path, "checkpoint")
    content["environment"]["torch"] = "1.0"
    write_tensors(path, "checkpoint", tensors, content)
    with TestCase().assertLogs("pyrel", "WARNING") as seen:
        train(problem.model(), problem.x, problem.y, config=CONFIG, out=tmp_path, resume=True)
    assert "was written with torch 1.0" in "".join(seen.output)


def train_and_wait(problem: "Problem", out: Path, told: Connection) -> None:
    """Train; stop in the second epoch to say so, and go on when told to."""
    model, calls = problem.model(), itertools.count(1)

    def wait(*_: object) -> None:
        if model.training and next(calls) == 8:
            told.send("in the second epoch")
            told.recv()

    model.register_forward_pre_hook(wait)
    train(model, problem.x, problem.y, config=CONFIG, out=out, resume=True, progress=False)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("killed", [False, True])
def test_two_runs_in_one_folder(problem: "Problem", tmp_path: Path, killed: bool) -> None:
    def resume() -> None:
        train(
            *(problem.model(), problem.x, problem.y),
            config=CONFIG, out=tmp_path, resume=True, progress=False,
        )  # fmt: skip

    forked = multiprocessing.get_context("fork")  # another one would import torch
    ours, theirs = forked.Pipe()
    first = forked.Process(target=train_and_wait, args=(problem, tmp_path, theirs))
    first.start()
    try:
        assert ours.poll(60) and ours.recv() == "in the second epoch"
        before = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
        with pytest.raises(BlockingIOError, match=f"in use by process {first.pid} on ") as told:
            resume()
        assert f"the training run in {tmp_path}" in str(told.value)
        after = sorted((path.name, path.read_bytes()) for path in tmp_path.iterdir())
        assert before == after
    finally:
        first.kill() if killed else ours.send("go on")
        first.join()
    assert first.exitcode == (-signal.SIGKILL if killed else 0)
    resume()
    assert [row["epoch"] for row in log(tmp_path)] == [str(n) for n in range(1, 7)]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.safetensors",
        "log.csv",
    ]
