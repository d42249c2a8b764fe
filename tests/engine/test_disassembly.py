# SPDX-License-Identifier: Apache-2.0
"""The dispatched products run on packed multiply-adds of the right width, their sums in registers.

Answers are right whatever the compiler makes of the kernels; only their instructions show that it
made vectors of them.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import pytest
from engine.building import cross_compiled, kernel_commands, run, run_for_arm
from engine.disassembly import Binary, Function, Instruction, innermost_loops

from pyrel import _core


@dataclass(frozen=True)
class Expected:
    """How the products of an instruction set look in a disassembly."""

    add: str  # the packed instruction that adds to a sum, whose register is the group
    fused: bool  # whether it multiplies as well
    scalar: str  # a multiply-add of one element
    forbidden: str  # what no function of the set may use
    store: str  # a vector written to memory
    sums: int  # of the largest tile: rows × vectors
    share: float  # of a tile's loop that multiply-adds are at least

    def sums_of(self, loop: Sequence[Instruction]) -> list[str]:
        """List the registers that the packed multiply-adds of a loop add to."""
        texts = [f"{name} {operands}" for _, name, operands in loop]
        return [found[1] for text in texts if (found := re.match(self.add, text))]

    def count(self, pattern: str, code: Sequence[Instruction]) -> int:
        return sum(bool(re.match(pattern, f"{name} {operands}")) for _, name, operands in code)


_FUSED = r"vf(?:n?m)(?:add|sub)\d+"
EXPECTED = {
    "baseline": Expected(
        add=r"addps .*(%xmm\d+)$",
        fused=False,
        scalar=r"mulss|addss",
        forbidden=r"v|.*%[yz]mm",
        store=r"mov[au]ps %xmm\d+,.*\(",
        sums=12,
        share=0.2,
    ),
    "avx2": Expected(
        add=_FUSED + r"ps .*(%ymm\d+)$",
        fused=True,
        scalar=_FUSED + r"s[sd]",
        forbidden=r".*(%zmm|%ymm(1[6-9]|[23]\d)|%k\d)",
        store=r"vmov[au]ps %ymm\d+,.*\(",
        sums=12,
        share=0.5,
    ),
    "avx512": Expected(
        add=_FUSED + r"ps .*(%zmm\d+)$",
        fused=True,
        scalar=_FUSED + r"s[sd]",
        forbidden=_FUSED + r"p[sd] .*%[xy]mm",
        store=r"vmov[au]ps %zmm\d+,.*\(",
        sums=24,
        share=0.5,
    ),
    "avx512_bf16": Expected(
        add=r"vdpbf16ps .*(%zmm\d+)$",
        fused=True,
        scalar=_FUSED + r"s[sd]",
        forbidden=r"(vdpbf16ps|" + _FUSED + r"p[sd]) .*%[xy]mm",
        store=r"vmov[au]ps %zmm\d+,.*\(",
        sums=24,
        share=0.5,
    ),
    "neon": Expected(
        add=r"fmla (v\d+)\.4s",
        fused=True,
        scalar=r"fmadd|fmla [sd]\d",
        forbidden=r"(fmla|fmul) v\d+\.2[sd]",
        store=r"st[rp] q\d+",
        sums=24,
        share=0.5,
    ),
}


IN_LANES = {**EXPECTED, "baseline": replace(EXPECTED["baseline"], sums=8)}


def faults(functions: Sequence[Function], expected: Expected) -> list[str]:
    """Say what is wrong with the functions that a product runs through; empty where nothing is."""
    found = []
    for function in functions:
        if count := expected.count(expected.forbidden, function.instructions):
            found.append(f"{function.name}: {count} instructions that the set should not use")
    packed = scalar = most = good = 0
    for function in functions:
        for loop in innermost_loops(function):
            registers = expected.sums_of(loop)
            packed += len(registers)
            scalar += expected.count(expected.scalar, loop)
            most = max(most, len(set(registers)))
            if len(set(registers)) < expected.sums:
                continue
            share = len(registers) / len(loop)
            stores = expected.count(expected.store, loop)
            if share >= expected.share and stores == 0:
                good += 1
            elif expected.fused:  # else it may be the loop of an epilogue that adds to all sums
                found.append(
                    f"{function.name}: a loop over {expected.sums} sums is {share:.0%} "
                    f"multiply-adds and writes {stores} vectors to memory"
                )
    if not good:
        found.append(f"no loop keeps {expected.sums} sums in registers, at most {most}")
    if 100 * scalar > packed:
        found.append(f"loops hold {scalar} scalar multiply-adds beside {packed} packed ones")
    return found


@cache
def extension() -> Binary:
    if sys.platform != "linux":
        pytest.skip("reads ELF files only")
    for tool in ("objdump", "readelf"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    binary = Binary(Path(_core.__file__))
    if not any("gemm" in symbol.name for symbol in binary.symbols):
        pytest.skip("the extension has no symbols: only the development install keeps them")
    return binary


def products() -> list[tuple[str, str, str]]:
    """List (instruction set, function, what it should look like) of all that this machine runs."""
    found = []
    for isa in _core.instruction_sets():
        wide = "avx512" if isa == "avx512_bf16" else isa  # a set of its own for bfloat16 only
        found.append((isa, "gemm", wide))
        found.append((isa, "gemm_in_lanes", wide))
        if _core.has_bf16(isa):
            found.append((isa, "gemm_bf16", isa))
    return found


@pytest.mark.parametrize(("isa", "function", "look"), products())
def test_dispatched_product(isa: str, function: str, look: str) -> None:
    functions = extension().reachable(_core.kernel_offsets(isa)[function])
    expected = IN_LANES if function == "gemm_in_lanes" else EXPECTED
    assert faults(functions, expected[look]) == []


# They multiply, divide, choose or take a root; and those whose derivatives do.
PLAIN = {
    *("leaky_relu", "reciprocal", "sqrt", "absolute", "square"),
    *("at_least", "above", "at_most", "below", "step"),
}
PLAIN_SLOPES = {"log", "log1p"}


def assert_packed(functions: Sequence[Function], expected: Expected, name: str) -> None:
    """Elementwise functions are computed in whole vectors, all but the plain ones by multiply-adds.

    What a power makes of its exponent may be computed once, in a scalar.
    """
    every = list(_core.enums["Function"])
    own = {
        every[int(found[1])]: function
        for function in functions
        if (found := re.search(rf"{name}_by.*FunctionE(\d+)", function.name))
    }
    assert own.keys() == set(every)
    power = own["pow"].name
    code = [i for function in functions if function.name != power for i in function.instructions]
    assert expected.count(expected.scalar, code) == 0
    assert expected.count(expected.forbidden, code) == 0
    plain = {each for each in every if not expected.sums_of(own[each].instructions)}
    assert plain <= PLAIN | (PLAIN_SLOPES if name == "slope" else set())


@pytest.mark.parametrize("name", ["activate", "slope"])
@pytest.mark.parametrize("isa", _core.instruction_sets())
def test_dispatched_functions(isa: str, name: str) -> None:
    functions = extension().reachable(_core.kernel_offsets(isa)[name])
    assert_packed(functions, EXPECTED["avx512" if isa == "avx512_bf16" else isa], name)


def test_functions_of_another_set_are_found_out() -> None:
    """Each set's product has faults by the measure of each other set."""
    for isa, function, look in products():
        functions = extension().reachable(_core.kernel_offsets(isa)[function])
        for other, expected in EXPECTED.items():
            assert other == look or faults(functions, expected), (isa, function, other)


def test_kernels_that_were_not_optimised_are_found_out(tmp_path: Path) -> None:
    isa = _core.instruction_sets()[-1]
    extension()
    (command,) = [c for c in kernel_commands() if f"kernels_{isa}.dir" in c[c.index("-o") + 1]]
    library = tmp_path / "kernels.so"
    command[command.index("-o") + 1] = str(library)
    command.remove("-c")
    run(*command, "-O0", "-shared")
    binary = Binary(library)
    (gemm,) = [symbol for symbol in binary.symbols if symbol.name.endswith("4gemmERKNS_8GemmTaskE")]
    assert faults(binary.reachable(gemm.address), EXPECTED["avx512" if "avx512" in isa else isa])


def test_dispatched_product_on_arm() -> None:
    program = cross_compiled()
    offsets = dict(line.split() for line in run_for_arm(program, "--list").splitlines())
    functions = Binary(program, "aarch64-linux-gnu-").reachable(int(offsets["neon"]))
    assert faults(functions, EXPECTED["neon"]) == []
