# SPDX-License-Identifier: Apache-2.0
"""Workers and the protocol, on a cell that is explained in no time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmark.conftest import CASES, explained

import pyrel
from pyrel.benchmark import contestants, measuring
from pyrel.benchmark.cases import Model, cases_of
from pyrel.benchmark.contestants import Contestant, chosen
from pyrel.benchmark.measuring import run
from pyrel.benchmark.processes import WorkerError, WorkerProcess
from pyrel.benchmark.results import Protocol, Results, WrongAnswerError

QUICK = Protocol(blocks=2, calls=2, pause=0.0)


def wrong(name: str, **changes: Any) -> Contestant:
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    return Contestant(name, name, f"benchmark.wrong:{name}", environment=path, **changes)


# In the place of pyrel where pyrel does not matter: torch, which it imports, takes seconds to load.
STAND_IN = Contestant(contestants.PYREL, "stand-in", "pyrel.benchmark.peers.runners:numpy")


def measured(
    cell: pyrel.nn.Cell, whom: Sequence[Contestant], batches: Sequence[int] = (3,), **options: Any
) -> Results:
    cases = cases_of([Model(cell, "weights", "inputs")], ["deep_taylor"], batches)
    return run(cases, whom, QUICK, **options)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of the processes that a run starts."""
    pids: list[int] = []

    class Noted(WorkerProcess):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            pids.append(self.pid)

    monkeypatch.setattr(measuring, "WorkerProcess", Noted)
    return pids


def test_everybody_has_a_turn_in_every_block(small: pyrel.nn.Cell, started: list[int]) -> None:
    saved: list[int] = []
    whom = [*chosen(["torch", "numpy"]), wrong("talkative")]
    results = measured(small, whom, [1, 5], save=lambda r: saved.append(len(r.cases)))
    assert [case.batch for case in results.cases] == [1, 5]
    assert saved == [1, 2]
    for case in results.cases:
        assert case.names == ["pyrel", "torch", "numpy", "talkative"]
        assert QUICK.blocks <= len(case.blocks) <= 2 * QUICK.blocks
        for block in case.blocks:
            assert all(len(seconds) == QUICK.calls for seconds in block.seconds.values())
            assert all(s > 0 for seconds in block.seconds.values() for s in seconds)
            assert all(flops > 0 for flops in block.peak.values())
        assert all(excess is not None and excess <= 1 for excess in case.excesses.values())
    assert results.versions["torch"].keys() == {"torch"}
    assert results.bandwidth > 0
    assert len(started) == 1 + 1 + 4  # the machine, the reference, the contestants
    assert all(map(gone, started))


def test_jax_answers_right() -> None:
    """In its own process: what JAX does at a fork would disturb other tests."""
    (jax,) = [contestant for contestant in chosen(["jax"]) if contestant.name == "jax"]
    if reason := jax.why_not():
        pytest.skip(reason)
    cells = [explained(case).cell for case in CASES if case.steps > 1]
    models = [Model(cell, "weights", "inputs") for cell in cells]
    results = run(cases_of(models, contestants.METHODS, [3]), [STAND_IN, jax], QUICK)
    assert len(results.cases) == len(cells) * len(contestants.METHODS)
    for case in results.cases:
        excess = case.excesses["jax"]
        assert excess is not None and excess <= 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("slightly", r"slightly answers wrongly in Deep-2, deep_taylor, batch 3: relative error"),
        ("of_another_rule", r"of_another_rule answers wrongly .* times what is allowed"),
        ("not_finite", "not_finite answers wrongly .* not finite"),
        ("of_another_shape", r"of_another_shape: ValueError: relevance: wanted shape \(3, 18\)"),
        ("dead", "dead: its process ended with code 7"),
    ],
)
def test_who_answers_wrongly_stops_the_run(
    small: pyrel.nn.Cell, started: list[int], name: str, message: str
) -> None:
    with pytest.raises((WrongAnswerError, WorkerError), match=message):
        measured(small, [STAND_IN, wrong(name)])
    assert len(started) > 2
    assert all(map(gone, started))


def test_who_has_another_rule_is_compared_with_that(small: pyrel.nn.Cell) -> None:
    other = wrong("of_another_rule", box=False, note="it has another rule")
    results = measured(small, [STAND_IN, other])
    excess = results.cases[0].excesses["of_another_rule"]
    assert excess is not None and excess <= 1
    assert results.notes == {"of_another_rule": "it has another rule"}


def test_blocks_of_a_busy_machine_are_repeated(
    small: pyrel.nn.Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    peaks = iter([50.0, 100.0, 95.0, 10.0, 10.0, 10.0, 10.0])
    monkeypatch.setattr(measuring._Field, "_peak", lambda self, isa: next(peaks))
    results = measured(small, [STAND_IN], [1, 2])
    found = [[*block.peak.values()] for case in results.cases for block in case.blocks]
    assert found == [[50.0], [100.0], [95.0], *[[10.0]] * 4]  # two that count; four at most
    assert [len(case.kept(results.floor)) for case in results.cases] == [2, 0]


@pytest.mark.parametrize(
    ("name", "exempt", "passes"),
    [
        ("slightly", 0.0, True),
        ("of_another_rule", 0.0, False),
        ("of_another_rule", 0.99, False),  # not all of three
        ("not_finite", 0.0, False),
    ],
)
def test_rounded_answers_are_held_to_a_cosine(
    small: pyrel.nn.Cell, name: str, exempt: float, passes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contestants, "has_bf16", lambda isa: True)
    rounded = wrong(name, bf16=True, exempt=exempt)
    if not passes:
        with pytest.raises(WrongAnswerError, match="answers wrongly"):
            measured(small, [STAND_IN, rounded])
        return
    excess = measured(small, [STAND_IN, rounded]).cases[0].excesses[name]
    # One element off by 0.001 of itself turns the map by less than that: 1 − cos < 5e-7.
    assert excess is not None and 0 < excess < 5e-3


def test_without_products_of_bfloat16_they_are_left_out(
    small: pyrel.nn.Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contestants, "has_bf16", lambda isa: False)
    results = measured(small, [STAND_IN, *chosen(["pyrel-bf16"])[1:]])
    assert results.cases[0].names == ["pyrel"]
    assert "no products of bfloat16" in results.skipped["pyrel-bf16"]


def test_who_is_not_installed_is_left_out(small: pyrel.nn.Cell) -> None:
    told: list[str] = []
    absent = Contestant("absent", "Absent", "no:maker", packages=("no_such_package",))
    other = Contestant("other", "Other", "no:maker", isa="no such set")
    results = measured(small, [STAND_IN, absent, other], say=told.append)
    assert results.cases[0].names == ["pyrel"]
    assert results.skipped["other"] == "this machine has no no such set"
    assert told[0] == (
        'Without Absent: no_such_package not installed; to include it: pip install "pyrel[bench]"'
    )


def test_an_interruption_ends_all_processes(small: pyrel.nn.Cell, started: list[int]) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if "batch" in what and done == total - 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measured(small, [STAND_IN], progress=interrupt)
    assert len(started) == 3
    assert all(map(gone, started))


def test_a_worker_that_is_killed_is_an_error(tmp_path: Path) -> None:
    with WorkerProcess("victim", {}, tmp_path / "log") as worker:
        timer = threading.Timer(0.5, os.killpg, (worker.pid, signal.SIGKILL))
        timer.start()
        with pytest.raises(WorkerError, match="victim: its process ended with code -9"):
            worker.ask("peak", isa="baseline", threads=1, calls=10**9, pause=0.0)
        timer.join()
    assert gone(worker.pid)


def test_workers_end_with_their_parent(tmp_path: Path) -> None:
    """Even one that ends without a good-bye."""
    program = (
        "import os, pathlib\n"
        "from pyrel.benchmark.processes import WorkerProcess\n"
        f"worker = WorkerProcess('orphan', {{}}, pathlib.Path({str(tmp_path / 'log')!r}))\n"
        "print(worker.pid, flush=True)\n"
        "os._exit(0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    end = time.monotonic() + 60
    while not gone(int(done.stdout)):
        assert time.monotonic() < end, "the worker is still there"
        time.sleep(0.05)


def test_threads_and_sets_are_told_to_every_process() -> None:
    known = {contestant.name: contestant for contestant in contestants.CONTESTANTS}
    variables = contestants.environment(known["numpy-skylakex"], 3)
    assert variables["OPENBLAS_CORETYPE"] == "SkylakeX"
    assert variables["OPENBLAS_NUM_THREADS"] == variables["OMP_NUM_THREADS"] == "3"
    assert contestants.environment(known["pyrel-avx2"], 1)["PYREL_ISA"] == "avx2"


def test_ratios_need_pyrel(small: pyrel.nn.Cell) -> None:
    with pytest.raises(ValueError, match="pyrel must be among them"):
        measured(small, chosen(["numpy"])[1:])


def test_a_model_that_float32_cannot_explain_is_refused(small: pyrel.nn.Cell) -> None:
    """Where no output is above zero, deep Taylor has nothing to share out."""
    with torch.no_grad():
        small.output.weight.copy_(-small.output.weight.abs())
    with pytest.raises(ValueError, match="float32 can decide about 0 of 40 samples"):
        measured(small, [STAND_IN])


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="contestants: no tensorflow; there are pyrel,"):
        chosen(["tensorflow"])
    with pytest.raises(ValueError, match="methods: no lrp; there are deep_taylor,"):
        cases_of([], ["lrp"], [1])
    with pytest.raises(ValueError, match="batches: wanted numbers from 1 on, got 0"):
        cases_of([], ["deep_taylor"], [0, 1])
