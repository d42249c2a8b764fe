# SPDX-License-Identifier: Apache-2.0
"""The process that does the work: ``python -m pyrel.benchmark.worker``.

It reads requests from standard input, a line of JSON each, and answers each with a line; it ends
with the end of its input, so that it cannot outlive who started it by more than one request. Time
is taken here, around the call alone.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel import _core
from pyrel.benchmark import reference
from pyrel.benchmark.contestants import LINEAR
from pyrel.benchmark.jobs import Job, Runner, as_rows, make_runner

_PEAK_REPETITIONS = 2_000_000  # some 15 ms
_COPIED = 64 << 20  # bytes for each thread, beyond the caches

Request = dict[str, Any]


class Worker:
    """One contestant, or the measures of the machine; a method for each request."""

    def __init__(self) -> None:
        self._runner: Runner | None = None
        self._inputs: list[Any] = []
        self._rows: list[npt.NDArray[np.intp]] = []
        self._answer: tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None = None
        self._turn = 0

    def make(self, request: Request) -> Request:
        """Make a contestant explain a cell with a method."""
        self._inputs = []
        job = Job(**{**request["job"], "weights": Path(request["job"]["weights"])})
        self._runner = make_runner(request["maker"], job)
        return {"versions": dict(self._runner.versions)}

    def inputs(self, request: Request) -> Request:
        """Take inputs of one size and their answers, and call once on each: compile, fault in."""
        assert self._runner is not None
        pool = np.load(request["pool"], mmap_mode="r")
        with np.load(request["answers"]) as answers:
            self._answer = answers["relevance"], answers["allowed"]
        arrays, batch = request["arrays"], request["batch"]
        starts = [i * len(pool) // arrays for i in range(arrays)]
        self._rows = [(start + np.arange(batch)) % len(pool) for start in starts]
        self._inputs = [self._runner.load(np.ascontiguousarray(pool[r])) for r in self._rows]
        self._turn = 0
        for x in self._inputs:
            self._runner.run(x)
        return {}

    def release(self, request: Request) -> Request:
        """Let go of inputs."""
        self._inputs, self._rows, self._answer = [], [], None
        return {}

    def time(self, request: Request) -> Request:
        """Time a turn: a pause, a call that is not timed, and some that are; check the last."""
        assert self._runner is not None
        run, inputs = self._runner.run, self._inputs
        time.sleep(request["pause"])
        run(inputs[self._turn % len(inputs)])
        seconds: list[float] = []
        result = None
        while len(seconds) < request["calls"] and sum(seconds) < request["turn_seconds"]:
            self._turn += 1
            x = inputs[self._turn % len(inputs)]
            start = time.perf_counter()
            result = run(x)
            seconds.append(time.perf_counter() - start)
        rows = self._rows[self._turn % len(inputs)]
        checked = self._check(self._runner.relevance(result), rows, request)
        return {"seconds": seconds, **checked}

    def _check(
        self, relevance: npt.NDArray[Any], rows: npt.NDArray[np.intp], request: Request
    ) -> Request:
        """Compare with the reference: the worst error, and the worst in parts of what is allowed.

        Allowed are the bounds of the reference, or a cosine that all samples but some must have.
        """
        assert self._answer is not None
        wanted, given = as_rows(self._answer[0][rows]), as_rows(relevance)
        if given.shape != wanted.shape:
            raise ValueError(f"relevance: wanted shape {wanted.shape}, got {given.shape}")
        error, norm = (np.sqrt((v**2).sum(axis=1)) for v in (given - wanted, wanted))
        relative, excess = error / norm, error / self._answer[1][rows]
        if request["cosine"] is not None:
            cosine = (given * wanted).sum(axis=1) / norm / np.sqrt((given**2).sum(axis=1))
            excess = (1 - np.nan_to_num(cosine, nan=-np.inf)) / (1 - request["cosine"])
            excess = np.sort(excess)[: len(excess) - int(request["exempt"] * len(excess))]
        return {"error": _largest(relative), "excess": _largest(excess)}

    def peak(self, request: Request) -> Request:
        """Measure the FLOP/s of multiply-adds on some threads at once."""
        time.sleep(request["pause"])
        work = _core.peak(request["isa"], _PEAK_REPETITIONS)
        calls = [lambda: _core.peak(request["isa"], _PEAK_REPETITIONS)] * request["threads"]
        seconds = [_together(calls) for _ in range(request["calls"])]
        return {"flops": request["threads"] * work / min(seconds)}

    def bandwidth(self, request: Request) -> Request:
        """Measure the bytes/s, read and written, of copies on some threads at once."""
        halves = np.ones((request["threads"], 2, _COPIED), np.uint8)
        calls = [functools.partial(np.copyto, out, source) for out, source in halves]
        seconds = [_together(calls) for _ in range(request["calls"])]
        return {"bytes": 2 * _COPIED * request["threads"] / min(seconds)}

    def reference(self, request: Request) -> Request:
        """Explain candidates in float64, and keep as many as wanted whose answer is decided."""
        job = Job(**{**request["job"], "weights": Path(request["job"]["weights"])})
        x = np.load(request["candidates"])
        if job.config["cell"] in LINEAR:
            answer = reference.explain(job.layers(), x, job.method)
        else:
            from pyrel.benchmark import noisy

            answer = noisy.explain(job, x)
        kept = np.flatnonzero(answer.decided)[: request["wanted"]]
        np.save(request["pool"], x[kept])
        np.savez(request["answers"], relevance=answer.relevance[kept], allowed=answer.allowed[kept])
        if request["answers_plus"] is not None:
            plus = reference.explain(job.layers(), x[kept], job.method, box=False)
            np.savez(request["answers_plus"], relevance=plus.relevance, allowed=plus.allowed)
        return {
            "kept": len(kept),
            "undecided": int((~answer.decided).sum()),
            "candidates": len(x),
            "zeros": answer.zeros,
        }


def _largest(values: npt.NDArray[np.float64]) -> float | None:
    """Return the largest value; None, as JSON has no other word for it, if one is not finite."""
    return float(values.max()) if np.isfinite(values).all() else None


def _together(calls: Sequence[Callable[[], object]]) -> float:
    """Run calls in threads that start at once; return the seconds from first to last."""
    barrier = threading.Barrier(len(calls))
    spans: list[tuple[float, float]] = []

    def run(call: Callable[[], object]) -> None:
        barrier.wait()
        start = time.perf_counter()
        call()
        spans.append((start, time.perf_counter()))

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return max(stop for _, stop in spans) - min(start for start, _ in spans)


def _keep_to_processors(count: int) -> None:
    """Use no more processors than that: JAX asks for their number and for nothing else."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def main() -> None:
    """Answer requests until there are no more."""
    if text := os.environ.get("PYREL_NUM_THREADS"):
        _keep_to_processors(int(text))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who started this; he ends it
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # whatever a library prints goes elsewhere
    worker = Worker()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"answer": getattr(worker, request.pop("do"))(request)}
        except Exception as error:
            kind, text = type(error).__name__, str(error)
            answer = {"failure": {"kind": kind, "text": text, "trace": traceback.format_exc()}}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
