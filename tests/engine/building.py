# SPDX-License-Identifier: Apache-2.0
"""What the development install built, and the same for 64-bit ARM; skips where it is absent."""

from __future__ import annotations

import fcntl
import json
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ARM = "aarch64-linux-gnu"


def run(*command: str | Path, timeout: float = 120) -> str:
    """Run a command in the repository that must succeed, and return what it printed."""
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def tool(*names: str) -> str:
    """Find a program by one of its names."""
    for name in names:
        if found := shutil.which(name):
            return found
    pytest.skip(f"{names[0]} is not installed")


def build_folder() -> Path:
    """Find where the development install was built for this Python."""
    tag = f"cp{sys.version_info.major}{sys.version_info.minor}-"
    folders = [path.parent for path in (ROOT / "build").glob(f"{tag}*/check_kernels")]
    if not folders:
        pytest.skip("no development install here: `make build` makes one")
    return max(folders, key=lambda path: path.stat().st_mtime)


def kernel_commands() -> list[list[str]]:
    """List the commands that compiled the kernels, one for each instruction set."""
    entries = json.loads((build_folder() / "compile_commands.json").read_text())
    kernels = [entry for entry in entries if Path(entry["file"]).name.startswith("kernels")]
    return [shlex.split(entry["command"]) for entry in kernels]


@cache
def cross_compiled() -> Path:
    """Build the check program for 64-bit ARM in build/, where the next run finds it again.

    One process at a time: two that build in the same folder spoil the record of what is built.
    """
    tool(f"{ARM}-g++")
    cmake, ninja = tool("cmake"), tool("ninja")
    folder = ROOT / "build" / ARM
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        run(
            *(cmake, "-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}", "-S", ROOT, "-B", folder),
            f"-DCMAKE_TOOLCHAIN_FILE={ROOT / 'tools' / ARM}.cmake",
            *("-DPYREL_PYTHON=OFF", "-DPYREL_CHECK=ON", "-DPYREL_WERROR=ON"),
        )
        run(cmake, "--build", folder, timeout=900)  # minutes, where tests run beside it
    return folder / "check_kernels"


def run_for_arm(program: Path, *arguments: str) -> str:
    """Run a program for 64-bit ARM in an emulator."""
    emulator = tool("qemu-aarch64", "qemu-aarch64-static")
    return run(emulator, "-L", f"/usr/{ARM}", program, *arguments, timeout=300)
