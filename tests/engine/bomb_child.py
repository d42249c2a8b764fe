# SPDX-License-Identifier: Apache-2.0
"""Loads a file in a forked process, and says what that took."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import pyrel
from pyrel.training import load_model

SECONDS = 60


def status(name: str) -> int:
    """Return a size in bytes of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1]) << 10
    raise KeyError(name)


def load(path: Path) -> str:
    """Return "loaded" or why it was refused."""
    try:
        if path.suffix == ".model":
            load_model(path)
        else:
            pyrel.Explainer.load(path)
    except ValueError as error:
        return str(error)
    return "loaded"


def measured(path: Path) -> dict[str, object]:
    """Load a file; its own seconds, and bytes at the peak beyond those before and the file."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here
    before = status("VmRSS")
    room = status("VmSize") + (2 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    start = time.process_time()
    outcome = load(path)
    seconds = time.process_time() - start
    more = status("VmHWM") - before - path.stat().st_size
    return {"outcome": outcome, "seconds": seconds, "bytes": more}


def in_child(path: Path) -> dict[str, object]:
    """Do so in a process that is ended where it takes too long."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        ended = 1
        try:
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            os.write(writing, json.dumps(measured(path)).encode())
            ended = 0
        finally:
            os._exit(ended)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return (
        json.loads(answer)
        if answer
        else {"outcome": f"ended by {code}", "seconds": SECONDS, "bytes": 0}
    )
