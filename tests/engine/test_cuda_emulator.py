# SPDX-License-Identifier: Apache-2.0
"""The emulator that runs CUDA kernels in tests finds the faults that it is for."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest
from engine.building import run, tool

FOLDER = Path("tests/native/cuda")
# Whether fibers switch by this machine's own instructions, or as on other processors.
SWITCHES = {"own": (), "ucontext": ("-DPYREL_FIBERS_OF_UCONTEXT",)}
FLAGS = (
    *("-std=c++20", "-O2", "-mfma", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"),
    *("-DPYREL_CUDA_EMULATED", "-Icsrc", "-Icsrc/cuda", f"-I{FOLDER}"),
)


def compiled(source: str, folder: Path, *options: str) -> Path:
    made = (folder / source).with_suffix(".o")
    run(tool("g++"), *FLAGS, *options, "-c", FOLDER / source, "-o", made)
    return made


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Compile the checks, which are the same for both ways to switch."""
    if platform.machine() != "x86_64":
        pytest.skip("for x86-64")
    folder = tmp_path_factory.mktemp("checks")
    return [compiled(f"check_emulator{part}.cpp", folder) for part in ("", "_numbers")]


@pytest.mark.parametrize("switch", SWITCHES)
def test_faults_of_kernels_are_found(checks: list[Path], switch: str, tmp_path: Path) -> None:
    emulator = compiled("emulator.cpp", tmp_path, *SWITCHES[switch])
    program = tmp_path / "check_emulator"
    run(tool("g++"), *checks, emulator, "-o", program)
    assert run(program).splitlines()[-1] == "0 failures"
