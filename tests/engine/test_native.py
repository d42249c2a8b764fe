# SPDX-License-Identifier: Apache-2.0
"""Kernels of every instruction set against plain loops, here and for 64-bit ARM in an emulator."""

from __future__ import annotations

import os
import sys

import pytest
from engine.building import build_folder, cross_compiled, run, run_for_arm, tool

from pyrel import _core

FUSED = {"avx2", "avx512", "avx512_bf16", "neon"}


def digests(output: str) -> dict[str, str]:
    """Read the digest of all results of each instruction set; all sets found no difference."""
    lines = [line.split() for line in output.splitlines()]
    assert all(verdict == "good" for _, _, verdict in lines), output
    return {isa: digest for isa, digest, _ in lines}


def test_kernels_agree_with_plain_loops() -> None:
    found = digests(run(build_folder() / "check_kernels"))
    assert list(found) == _core.instruction_sets()
    assert len({digest for isa, digest in found.items() if isa in FUSED}) <= 1, found


def test_arm_gives_the_bits_of_this_machine() -> None:
    """NEON those of AVX2 and AVX-512, the baseline those of the baseline here."""
    arm = digests(run_for_arm(cross_compiled()))
    here = digests(run(build_folder() / "check_kernels"))
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
    emulator = tool("qemu-x86_64", "qemu-x86_64-static")
    listed = run(emulator, "-cpu", cpu, build_folder() / "check_kernels", "--list").splitlines()
    assert [line.split()[0] for line in listed] == expected
