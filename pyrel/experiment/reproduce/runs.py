# SPDX-License-Identifier: Apache-2.0
"""Runs of an experiment: each is worked out once, and its numbers are kept."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pyrel.engine.config import num_threads
from pyrel.files.atomic import replacing
from pyrel.report.machine import machine_facts

Arrays = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Found:
    """What a run found.

    Attributes
    ----------
    numbers : dict
        JSON-able.
    arrays : dict of ndarray
        For figures; few and small.
    """

    numbers: dict[str, Any]
    arrays: Arrays


@dataclass(frozen=True, eq=False)
class Run:
    """A part of an experiment that is worked out at once, such as one trained cell.

    Attributes
    ----------
    name : str
        Unique in the experiment, fit for a file's name, such as "mnist-Deep-7-seed-0".
    settings : dict
        JSON-able: all that decides the result. A kept result of other settings is worked out anew.
    work : callable
        Takes a folder for checkpoints and models, and returns a `Found`.
    """

    name: str
    settings: dict[str, Any]
    work: Callable[[Path], Found]


@dataclass(frozen=True, eq=False)
class Kept:
    """A finished run: what it found, what it was asked and what it cost.

    Attributes
    ----------
    settings, numbers, arrays
        As of `Run` and `Found`.
    seconds : float
        Wall-clock time, of the last start where it was interrupted.
    machine : dict
        See `pyrel.report.machine.machine_facts`.
    """

    settings: dict[str, Any]
    numbers: dict[str, Any]
    arrays: Arrays
    seconds: float
    machine: dict[str, Any]

    @property
    def least_seconds(self) -> float:
        """What it took at least: of a run that was interrupted, its epochs before count, too."""
        return max(self.seconds, float(self.numbers.get("training seconds", 0.0)))


def complete(
    runs: Sequence[Run],
    kept: Path,
    models: Path,
    say: Callable[[str, int, int], None] | None = None,
) -> dict[str, Kept]:
    """Work out the runs that have no kept result, one after the other.

    Parameters
    ----------
    runs
    kept
        Folder of the results: ``NAME.json``, and ``NAME.npz`` where there are arrays. Each is
        written when its run ends, so that an interrupted experiment goes on with the next.
    models
        Folder in which each run has one for its checkpoints.
    say
        Called with (run, done, total) before each run, and at the end.

    Raises
    ------
    OSError, ValueError
        A kept result cannot be read, or a run refuses something.
    """
    kept.mkdir(parents=True, exist_ok=True)
    results = {}
    for done, run in enumerate(runs):
        if say is not None:
            say(run.name, done, len(runs))
        result = read_kept(kept, run)
        if result is None:
            folder = models / run.name
            folder.mkdir(parents=True, exist_ok=True)
            start = time.perf_counter()
            found = run.work(folder)
            seconds = time.perf_counter() - start
            machine = machine_facts(num_threads())
            made = Kept(run.settings, found.numbers, found.arrays, seconds, dict(machine))
            _write(kept, run.name, made)
            # As it is kept: the page of a fresh run is that of the kept one, order of keys and all.
            result = read_kept(kept, run)
            assert result is not None, run.name
        results[run.name] = result
    if say is not None:
        say("all runs", len(runs), len(runs))
    return results


def clock(runs: Sequence[Kept]) -> str:
    """Say how long runs took together, and on which processors."""
    minutes = sum(run.least_seconds for run in runs) / 60
    least = "at least " if any(run.least_seconds > run.seconds for run in runs) else ""
    told = f"{minutes:.0f} minutes" if minutes < 90 else f"{minutes / 60:.1f} hours"
    processors = ", ".join(sorted({str(run.machine["processor"]) for run in runs}))
    return f"{least}{told} by the clock ({processors})"


def read_kept(kept: Path, run: Run) -> Kept | None:
    """Return the kept result of a run; None if there is none, or one of other settings."""
    path = kept / f"{run.name}.json"
    if not path.exists():
        return None
    try:
        told = json.loads(path.read_text("utf-8"))
        settings, numbers = told["settings"], told["numbers"]
        names, seconds, machine = told["arrays"], float(told["seconds"]), told["machine"]
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} is no result of a run; remove it ({error})") from None
    if settings != json.loads(json.dumps(run.settings)):  # where tuples are lists, too
        return None
    arrays = {}
    if names:
        with np.load(path.with_suffix(".npz")) as file:
            arrays = {name: file[name] for name in names}
    return Kept(settings, numbers, arrays, seconds, machine)


def _write(kept: Path, name: str, result: Kept) -> None:
    told = {
        "settings": result.settings,
        "numbers": result.numbers,
        "seconds": round(result.seconds, 1),
        "machine": result.machine,
        "arrays": sorted(result.arrays),
    }
    text = json.dumps(told, indent=1, sort_keys=True) + "\n"
    path = kept / f"{name}.json"
    places = [path.with_suffix(".npz"), path] if result.arrays else [path]
    with replacing(*places) as files:
        if result.arrays:
            _save(files[0], result.arrays)
        files[-1].write(text.encode())


def _save(file: IO[bytes], arrays: Arrays) -> None:
    """Write arrays as NumPy reads them, without pickling."""
    given: dict[str, Any] = dict(arrays)
    np.savez_compressed(file, allow_pickle=False, **given)
