# SPDX-License-Identifier: Apache-2.0
"""The script for a day with a GPU runs on the emulated library, and is right about itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from engine import cuda_emulated

from pyrel import _core

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "tools" / "gpu_check.sh"
MOST_SECONDS = 540  # of ten minutes that a machine with a GPU gives a command


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", **environment},
        timeout=600,
    )


def stages() -> dict[str, int]:
    lines = run("--list").stdout.split("\n")
    return {name: int(seconds) for name, seconds in map(str.split, filter(None, lines))}


def test_the_script_can_be_read() -> None:
    done = subprocess.run(["bash", "-n", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_all_stages_fit_the_time_and_are_explained() -> None:
    found = stages()
    assert sum(found.values()) < MOST_SECONDS
    assert {"versions", "build", "agreement", "timing", "sanitizer", "tests"} <= found.keys()
    words = run("--help").stdout
    assert re.findall(r"^  (\w+) ", words, re.MULTILINE) == [*found]


def test_each_stage_has_a_command() -> None:
    text = SCRIPT.read_text("utf-8")
    by_python = re.search(
        r"^    ([\w |]+)\) \"\$PYTHON\" \"tools/gpu/\$1\.py\"", text, re.MULTILINE
    )
    assert by_python is not None
    programs = by_python[1].split(" | ")
    for name in stages():
        if name in programs:
            assert (ROOT / "tools" / "gpu" / f"{name}.py").is_file()
        else:
            assert re.search(rf"^{name}_?\(\) {{$", text, re.MULTILINE), name
    named = re.findall(r"tools/gpu/\w+\.py|tests/engine/\w+\.py|requirements/\w+\.txt", text)
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_an_unknown_stage_is_refused() -> None:
    done = run("--emulated", "nothing")
    assert done.returncode == 2
    assert done.stderr.startswith("no stage nothing\n")


def test_without_a_device_nothing_runs(tmp_path: Path) -> None:
    done = run("--out", tmp_path, "versions", "probes", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "torch finds no CUDA device" in done.stdout
    (row,) = rows(tmp_path, "stages")
    assert (row["stage"], row["status"]) == ("versions", 1)


def rows(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / f"{name}.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Run two stages, and return the folder of what they write, and what is printed."""
    if cuda_emulated.ISA not in _core.instruction_sets():
        pytest.skip(f"this machine does not run {cuda_emulated.ISA}")
    cuda_emulated.library()  # skips where there is no emulator
    folder = tmp_path_factory.mktemp("gpu")
    done = run("--emulated", "--out", folder, "versions", "agreement", "timing")
    logs = "".join(path.read_text("utf-8") for path in folder.glob("*.log"))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + logs[-3000:]
    return folder, done.stdout


def test_agreement(emulated: tuple[Path, str]) -> None:
    found = rows(emulated[0], "agreement")
    assert {row["check"] for row in found} == {
        *("beside_cpu", "beside_float64", "divisions", "orders"),
        *("batches", "pointers", "streams", "memory"),
    }
    assert all(row["right"] is True and row["failure"] is None for row in found)
    # TF32 rounds to 11 bits, the others to 24 or nearly so: the option reaches the products.
    errors = {r["precision"]: r["difference"] for r in found if r["check"] == "beside_float64"}
    assert errors["float32"] < errors["tf32"] / 50
    assert errors["tf32x3"] < errors["tf32"] / 50
    notes = [row["note"] for row in found if row["check"] == "memory"]
    assert notes[0].startswith("refused: no memory")
    assert "explained" in notes


def test_timing(emulated: tuple[Path, str]) -> None:
    found = rows(emulated[0], "timing")
    cases = {(row["cell"], row["method"]) for row in found}
    assert cases == {
        *(("Deep", "deep_taylor"), ("ConvDeep", "deep_taylor")),
        *(("LSTM", "lrp_epsilon"), ("GRU", "gradient")),
    }
    for row in found:
        assert row["failure"] is None
        assert row["least_ms"] <= row["median_ms"]
        assert row["ratio"] > 0
        forward = row["contestant"].startswith("cuDNN forward")
        assert row["right"] is (None if forward else True)
        assert (row["error"] is None) == forward
        assert (row["useful_gflops"] is None) == (forward or row["method"] == "gradient")
    names = {row["contestant"] for row in found}
    peers = {"torch", "torch, CUDA graph", "torch autograd", "torch.compile", "cuDNN forward"}
    assert names == {"pyrel", "pyrel by pointer", *peers, *(f"{peer}, TF32" for peer in peers)}
    own = [row for row in found if row["contestant"] == "pyrel by pointer"]
    assert {row["precision"] for row in own} == {"float32", "tf32x3", "tf32"}
    assert {row["by_steps"] for row in own} == {False, True}
    assert len({(row["groups"], row["team"]) for row in own}) > 3


def test_the_summary(emulated: tuple[Path, str]) -> None:
    text = emulated[1]
    assert "EMULATED" in text
    for stage in ("versions", "agreement", "timing"):
        assert re.search(rf"^{stage}: passed, \d+ of \d+ s, EMULATED$", text, re.MULTILINE)
    assert "Deep-2, deep_taylor, batch 9" in text
    assert "WRONG" not in text
