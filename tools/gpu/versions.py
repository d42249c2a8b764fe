# SPDX-License-Identifier: Apache-2.0
"""Says which device and which versions there are; exit status 1 without a device.

It runs before pyrel is built, so it imports nothing of it.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import subprocess
from pathlib import Path
from typing import Any

import torch

PROGRAMS = ("nvcc", "compute-sanitizer", "ncu", "g++", "nvidia-smi")


def target() -> str:
    """Return what nvcc compiles for on the first device, such as sm_90a."""
    major, minor = torch.cuda.get_device_capability(0)
    return f"sm_{major}{minor}" + ("a" if major >= 9 else "")


def version_of(program: str) -> str | None:
    """Return the line of a program's version that has a number, or None if it is not there."""
    if shutil.which(program) is None:
        return None
    option = ["--query-gpu=driver_version", "--format=csv,noheader"]
    given = option if program == "nvidia-smi" else ["--version"]
    try:
        done = subprocess.run([program, *given], capture_output=True, text=True, timeout=4)
    except subprocess.TimeoutExpired:
        return "does not answer"
    lines = [line.strip() for line in done.stdout.splitlines() if any(c.isdigit() for c in line)]
    return next(
        (line for line in lines if "release" in line or "ersion" in line), (lines or [""])[0]
    )


def facts(emulated: bool) -> dict[str, Any]:
    """Return what there is."""
    found: dict[str, Any] = {
        "emulated": emulated,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        **{name: version_of(name) for name in PROGRAMS},
    }
    if not emulated:
        properties = torch.cuda.get_device_properties(0)
        found |= {
            "device": properties.name,
            "target": target(),
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "multiprocessors": properties.multi_processor_count,
            "cudnn": torch.backends.cudnn.version(),
        }
    return found


def main() -> None:
    """Write them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--emulated", action="store_true")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--target", action="store_true", help="print what nvcc compiles for, alone")
    options = parser.parse_args()
    if not options.emulated and not torch.cuda.is_available():
        raise SystemExit("torch finds no CUDA device: nothing is checked (see --emulated)")
    if options.target:
        print(target())
        return
    text = json.dumps(facts(options.emulated))
    print(text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
