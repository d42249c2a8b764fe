# SPDX-License-Identifier: Apache-2.0
"""Processes that tests start, and send signals to."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 60.0  # seconds; a loaded machine takes long to import torch

# A shell without job control, as in `(make test &)`, starts what it runs with SIGINT ignored, and
# children inherit that. exec keeps the process, and what is ignored or not.
_AS_A_TERMINAL_DOES = """
import os, signal, sys
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start Python as a terminal does, with the default handlers of signals.

    Parameters
    ----------
    *arguments
        Of the interpreter, such as ``"-m", "pyrel", "train"``.
    **options
        Of `subprocess.Popen`.
    """
    command = [sys.executable, "-c", _AS_A_TERMINAL_DOES, *map(str, arguments)]
    return subprocess.Popen(command, text=True, **options)


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    """Wait until something is so while a process runs."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert process.poll() is None, "the process has ended"
        assert time.monotonic() < deadline
        time.sleep(0.01)
