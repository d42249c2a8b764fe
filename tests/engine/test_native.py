# SPDX-License-Identifier: Apache-2.0
"""Kernels of every instruction set against plain loops, here and for 64-bit ARM in an emulator."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyrel import _core

ROOT = Path(__file__).parents[2]
FUSED = {"avx2", "avx512", "neon"}


def built() -> Path:
    """Find what the development install built for this Python, beside the extension."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}-"
    programs = sorted((ROOT / "build").glob(f"{tag}*/check_kernels"))
    if not programs:
        pytest.skip("no development install: `make build` builds the check program")
    return max(programs, key=lambda path: path.stat().st_mtime)


def run(*command: str | Path, timeout: float = 120) -> str:
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def digests(output: str) -> dict[str, str]:
    """Read the digest of all results of each instruction set; all sets found no difference."""
    lines = [line.split() for line in output.splitlines()]
    assert all(verdict == "good" for _, _, verdict in lines), output
    return {isa: digest for isa, digest, _ in lines}


def test_kernels_agree_with_plain_loops() -> None:
    found = digests(run(built()))
    assert list(found) == _core.instruction_sets()
    assert len({digest for isa, digest in found.items() if isa in FUSED}) <= 1, found


def cross_compiled() -> Path:
    """Build the check program for 64-bit ARM in build/, where a second run finds it again."""
    for tool in ("cmake", "ninja", "aarch64-linux-gnu-g++"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = ROOT / "build" / "aarch64-linux-gnu"
    toolchain = ROOT / "tools" / "aarch64-linux-gnu.cmake"
    run(
        *("cmake", "-G", "Ninja", "-S", ROOT, "-B", folder, f"-DCMAKE_TOOLCHAIN_FILE={toolchain}"),
        *("-DPYREL_PYTHON=OFF", "-DPYREL_CHECK=ON", "-DPYREL_WERROR=ON"),
    )
    run("cmake", "--build", folder, timeout=300)
    return folder / "check_kernels"


def test_arm_gives_the_bits_of_this_machine() -> None:
    """NEON those of AVX2 and AVX-512, the baseline those of the baseline here."""
    program = cross_compiled()
    emulator = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    if emulator is None:
        pytest.skip("qemu-aarch64 is not installed")
    arm = digests(run(emulator, "-L", "/usr/aarch64-linux-gnu", program, timeout=300))
    here = digests(run(built()))
    assert arm.keys() == {"baseline", "neon"}
    assert arm["baseline"] == here["baseline"]
    assert {arm["neon"]} | {here[isa] for isa in FUSED & here.keys()} == {arm["neon"]}


@pytest.mark.skipif(sys.platform != "linux" or os.uname().machine != "x86_64", reason="x86 Linux")
@pytest.mark.parametrize(
    ("cpu", "expected"),
    [
        ("Nehalem", ["baseline"]),
        ("Haswell", ["baseline", "avx2"]),
        ("Haswell,-fma", ["baseline"]),
        ("Haswell,-avx2", ["baseline"]),
        ("Haswell,-popcnt", ["baseline"]),
        # The processor has AVX2, but the operating system saves none of its registers.
        ("Haswell,-xsave", ["baseline"]),
    ],
)
def test_dispatch_on_other_processors(cpu: str, expected: list[str]) -> None:
    emulator = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if emulator is None:
        pytest.skip("qemu-x86_64 is not installed")
    assert run(emulator, "-cpu", cpu, built(), "--list").split() == expected
