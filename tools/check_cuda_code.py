# SPDX-License-Identifier: Apache-2.0
"""Compiles the CUDA library for each architecture and checks its machine code; needs no GPU.

`make cuda` calls this. It reads what ptxas says of registers and spills, and the disassembly of the
kernels. Neither tests nor the emulator see what is looked for here: results are right without it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sass import Code, loops, parse

ROOT = Path(__file__).parents[1]
ARCHITECTURES = ("sm_80", "sm_90a")
# What an instruction can name; 256 threads, as in __launch_bounds__, then fill the 65,536 registers
# of a multiprocessor with one block.
REGISTERS = 255

# wgmma is HGMMA; LDGSTS copies to shared memory, from where LDS and LDSM read.
TENSOR = r"H(G)?MMA\..*TF32"
WIDE = r"LDG(STS)?\..*\b128\b"
WIDE_OR_SHARED = WIDE + r"|LDS\..*\b128\b|LDSM"
LOCAL = r"LDL|STL"
DOUBLE = r"D(ADD|MUL|FMA|SETP|MNMX|MMA)\b|\w+\..*F64|MUFU\.\w+64H"


@dataclass
class Usage:
    """What ptxas says of a function."""

    stack: int  # bytes, as the next
    spilled: int
    registers: int = 0  # of a kernel, with those of the functions that it calls


def usages(log: str) -> dict[tuple[str, str], Usage]:
    """Read the output of `ptxas -v`, by architecture and function.

    Raises
    ------
    ValueError
        If an output is not complete, or those of two runs are mixed.
    """
    found: dict[tuple[str, str], Usage] = {}
    kernel = function = ("", "")
    open_kernel = False  # its registers come last
    for line in log.splitlines():
        if one := re.search(r"Compiling entry function '(.+)' for '(\w+)'", line):
            if open_kernel:
                raise ValueError(f"ptxas does not end {kernel[1]} for {kernel[0]}")
            kernel, open_kernel = (one[2], one[1]), True
        elif one := re.search(r"Function properties for (\S+)", line):
            function = (kernel[0], one[1])
        elif one := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line
        ):
            found[function] = Usage(stack=int(one[1]), spilled=int(one[2]) + int(one[3]))
        elif one := re.search(r"Used (\d+) registers", line):
            if kernel not in found:
                raise ValueError(f"ptxas does not say what {kernel[1]} spills for {kernel[0]}")
            found[kernel].registers, open_kernel = int(one[1]), False
    if open_kernel:
        raise ValueError(f"ptxas does not end {kernel[1]} for {kernel[0]}")
    return found


def faults_of_usage(usage: Usage) -> list[str]:
    """Say what is wrong with what a function takes; empty where nothing is."""
    found = []
    if usage.stack:
        found.append(f"it has a stack frame of {usage.stack} bytes: an array is not in registers")
    if usage.spilled:
        found.append(f"it stores and loads {usage.spilled} bytes of spilled registers")
    if usage.registers > REGISTERS:
        found.append(f"it takes {usage.registers} registers, more than {REGISTERS}")
    return found


def product_loops(code: Code) -> list[frozenset[int]]:
    """List the inner loops of products: those around tensor cores, and those in float32.

    The latter read weights 16 bytes at once and multiply; what lies around another product's loop
    is not one itself.
    """
    every = sorted(loops(code), key=len)
    multiplies = set(code.matching("FFMA"))
    products = {
        loop for n in code.matching(TENSOR) if (loop := next((o for o in every if n in o), None))
    }
    reading = (
        next((loop for loop in every if n in loop and loop & multiplies), None)
        for n in code.matching(WIDE_OR_SHARED)
    )
    for loop in sorted({one for one in reading if one}, key=len):
        if not any(other < loop for other in products):
            products.add(loop)
    return sorted(products, key=min)


def faults_of_code(code: Code) -> list[str]:
    """Say what is wrong with the instructions of a kernel; empty where nothing is."""
    found = []
    if count := len(code.matching(LOCAL)):
        found.append(f"{count} instructions touch local memory (LDL, STL)")
    products = product_loops(code)
    tensor, wide = set(code.matching(TENSOR)), set(code.matching(WIDE_OR_SHARED))
    double = code.matching(DOUBLE)
    if count := len(tensor.difference(*products)):
        found.append(f"{count} instructions of tensor cores stand in no loop")
    for loop in products:
        where = f"the product's loop of {len(loop)} instructions from number {min(loop)} on"
        called = sorted({name for n in loop if (name := code.instructions[n].called)})
        if called:
            found.append(f"{where} calls {', '.join(called)}")
        if names := sorted({code.instructions[n].name for n in double if n in loop}):
            found.append(f"{where} computes in double precision ({', '.join(names)})")
        if loop & tensor and not loop & wide:
            found.append(f"{where} does not read weights 16 bytes at once")
    return found


def faults_of(
    architecture: str, codes: Sequence[Code], used: Mapping[tuple[str, str], Usage]
) -> list[str]:
    """Say what is wrong with all code of an architecture; empty where nothing is."""
    if not codes:
        return [f"{architecture}: the library has no code for it"]
    faults = [
        *(
            (name, fault)
            for (a, name), u in used.items()
            if a == architecture
            for fault in faults_of_usage(u)
        ),
        *((code.name, fault) for code in codes for fault in faults_of_code(code)),
        *(
            (code.name, "ptxas does not say what it takes")
            for code in codes
            if (architecture, code.name) not in used
        ),
    ]
    found = [f"{architecture} {name}: {fault}" for name, fault in faults]
    if not any(code.matching(TENSOR) for code in codes):
        found.append(f"{architecture}: no product is computed by tensor cores (HMMA of TF32)")
    if not any(code.matching(WIDE) for code in codes):
        found.append(f"{architecture}: weights are not read 16 bytes at once (LDG.E.128)")
    return found


def table(
    codes: Mapping[str, Sequence[Code]], used: Mapping[tuple[str, str], Usage]
) -> list[list[str]]:
    """Give the rows of what is printed, the heads of columns first."""
    heads = "architecture, kernel, registers, stack, spills, HMMA, 16-byte loads, instructions"
    rows = [heads.split(", ")]
    for architecture, each in codes.items():
        for code in each:
            usage = used.get((architecture, code.name))
            taken = (usage.registers, usage.stack, usage.spilled) if usage else ("?", "?", "?")
            counts = (len(code.matching(TENSOR)), len(code.matching(WIDE)), len(code.instructions))
            rows.append([architecture, code.name, *map(str, (*taken, *counts))])
    return rows


def environment() -> dict[str, str]:
    """Make an environment in which programs of this Python's packages come first."""
    folders = [sysconfig.get_path("scripts")]
    for name in ("cuobjdump", "nvdisasm"):
        files = importlib.metadata.files(f"nvidia-cuda-{name}") or []
        folders += [str(Path(file.locate()).parent) for file in files if file.name == name]
    return os.environ | {"PATH": os.pathsep.join([*folders, os.environ.get("PATH", "")])}


def run(*command: str | Path, env: Mapping[str, str], cwd: Path = ROOT) -> str:
    """Run a command and give all that it prints.

    Raises
    ------
    SystemExit
        If it fails, with what it has printed.
    """
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env, cwd=cwd
    )
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\n{' '.join(map(str, command))} failed")
    return done.stdout


def build(folder: Path, architectures: Sequence[str], env: Mapping[str, str]) -> str:
    """Compile the library anew, since ptxas speaks only then; give what was printed."""
    run(
        *("cmake", "-S", ROOT, "-B", folder, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release"),
        *("-DPYREL_PYTHON=OFF", "-DPYREL_CUDA=ON", "-DPYREL_WERROR=ON"),
        f"-DPYREL_CUDA_TARGETS={';'.join(architectures)}",
        "-DSKBUILD_PROJECT_VERSION=0.0.0",
        env=env,
    )
    target = ("--target", "pyrel_cuda", "--clean-first")
    return run("cmake", "--build", folder, *target, env=env)


def disassemble(library: Path, architecture: str, env: Mapping[str, str]) -> str:
    """Give the disassembly of all that a library has for an architecture."""
    with tempfile.TemporaryDirectory() as folder:
        run("cuobjdump", "-xelf", "all", library, env=env, cwd=Path(folder))
        cubins = sorted(Path(folder).glob(f"*.{architecture}.cubin"))
        return "".join(run("nvdisasm", "-c", cubin, env=env) for cubin in cubins)


def options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Compile the CUDA library and check the machine code of its kernels.",
        epilog="Exit status: 0 if nothing is wrong, 1 if something is, 2 if nvcc is not found.",
    )
    parser.add_argument(
        "--architectures",
        nargs="+",
        default=ARCHITECTURES,
        metavar="SM",
        help=f"GPUs to compile for (default: {' '.join(ARCHITECTURES)})",
    )
    parser.add_argument(
        "--build-dir",
        type=Path,
        default=ROOT / "build" / "cuda",
        metavar="DIR",
        help="folder that CMake builds in (default: build/cuda)",
    )
    parser.add_argument(
        "--sass-to", type=Path, metavar="DIR", help="write the disassembly to DIR/ARCHITECTURE.sass"
    )
    return parser.parse_args()


def main() -> int:
    chosen = options()
    if shutil.which("nvcc") is None:
        print(
            "nvcc is not found: install the CUDA toolkit, 12.0 or newer, and put its bin folder on "
            "PATH",
            file=sys.stderr,
        )
        return 2
    env, folder = environment(), chosen.build_dir.resolve()
    used = usages(build(folder, chosen.architectures, env))
    library = folder / "csrc" / "cuda" / "libpyrel_cuda.so"
    codes: dict[str, list[Code]] = {}
    for architecture in chosen.architectures:
        text = disassemble(library, architecture, env)
        if chosen.sass_to:
            chosen.sass_to.mkdir(parents=True, exist_ok=True)
            (chosen.sass_to / f"{architecture}.sass").write_text(text, "utf-8")
        codes[architecture] = parse(text)
    rows = table(codes, used)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip())
    faults = [fault for name, each in codes.items() for fault in faults_of(name, each, used)]
    print("\n".join(faults), file=sys.stderr, end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
