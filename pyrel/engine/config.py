# SPDX-License-Identifier: Apache-2.0
"""How the engine runs: number of threads, instruction set, and what was built."""

from __future__ import annotations

import os
from typing import Any

from pyrel import _core
from pyrel.engine.cuda.library import devices
from pyrel.methods.options import single

_threads: int | None = None


def set_num_threads(n: int) -> None:
    """Set how many threads an explanation uses at most.

    Results do not depend on it. The default is the environment variable ``PYREL_NUM_THREADS``, or
    else the number of processors that this process may use.

    Parameters
    ----------
    n : int
        At least 1.

    Examples
    --------
    >>> pyrel.set_num_threads(2)
    >>> pyrel.show_config()["num_threads"]
    2
    """
    global _threads
    n = single(n)
    if isinstance(n, bool) or not isinstance(n, int):
        raise TypeError(f"n: wanted a number of threads, an int; got {type(n).__name__}")
    if n < 1:
        raise ValueError(f"n: wanted at least 1 thread, got {n}")
    _threads = n


def num_threads() -> int:
    """How many threads an explanation uses at most."""
    if _threads is not None:
        return _threads
    text = os.environ.get("PYREL_NUM_THREADS", "").strip()
    if not text:
        affinity = getattr(os, "sched_getaffinity", None)
        return len(affinity(0)) if affinity else os.cpu_count() or 1
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"PYREL_NUM_THREADS: wanted a whole number from 1 on, got '{text}'")
    return int(text)


def isa() -> str:
    """Name of the instruction set that new explainers use.

    The fastest that this machine runs, or the one that ``PYREL_ISA`` names.
    """
    available = _core.instruction_sets()
    wanted = os.environ.get("PYREL_ISA", "").strip()
    if wanted and wanted not in available:
        raise ValueError(f"PYREL_ISA: this machine runs {', '.join(available)}, not '{wanted}'")
    return wanted or available[-1]


def show_config() -> dict[str, Any]:
    """Tell what pyrel was built with and runs on.

    Returns
    -------
    dict
        ``version``, ``compiler``, ``isa`` (the instruction set in use), ``available_isas`` (slowest
        first), ``num_threads``, ``cuda`` (whether there is a library for CUDA, which loads, and a
        device that its driver finds).

    Examples
    --------
    >>> sorted(pyrel.show_config())
    ['available_isas', 'compiler', 'cuda', 'isa', 'num_threads', 'version']
    """
    return {
        "version": _core.version(),
        "compiler": _core.compiler(),
        "isa": isa(),
        "available_isas": _core.instruction_sets(),
        "num_threads": num_threads(),
        "cuda": devices() > 0,
    }
