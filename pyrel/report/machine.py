# SPDX-License-Identifier: Apache-2.0
"""Facts about the machine of a run, without anything that names its owner."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

_PACKAGES = ("pyrel", "torch", "numpy")


def machine_facts(threads: int | None = None) -> dict[str, str | int]:
    """Return processor, system and versions, for the configuration of a study.

    Host name, user name and paths are left out, so that a report can be given away.

    Parameters
    ----------
    threads
        Number of threads that the run used; None leaves it out.
    """
    facts: dict[str, str | int] = {
        "processor": _processor(),
        "cores": _cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }
    if threads is not None:
        facts["threads"] = threads
    return facts | {name: metadata.version(name) for name in _PACKAGES}


def _processor() -> str:
    if platform.system() == "Darwin":
        query = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(query, capture_output=True, text=True, check=True).stdout.strip()
    for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
