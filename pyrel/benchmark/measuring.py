# SPDX-License-Identifier: Apache-2.0
"""The protocol: who is asked what, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import numpy as np
import safetensors.torch

from pyrel.benchmark.cases import Case, Model
from pyrel.benchmark.contestants import (
    LEAST_COSINE,
    LINEAR,
    PYREL,
    Contestant,
    environment,
    thread_counts,
)
from pyrel.benchmark.processes import WorkerProcess
from pyrel.benchmark.results import Block, CaseResult, Protocol, Results, WrongAnswerError
from pyrel.benchmark.work import cell_flops, compulsory_bytes
from pyrel.engine import config as runtime
from pyrel.files.temporary import temporary_folder
from pyrel.nn import FeedbackCell
from pyrel.report.machine import machine_facts

_SMALL_POOL = 512  # of cells whose right answers take longer
Progress = Callable[[str, int, int], None]

_POOL = 2048  # different samples at most; larger batches hold some of them several times


def run(
    cases: Sequence[tuple[Model, Case]],
    contestants: Sequence[Contestant],
    protocol: Protocol,
    *,
    save: Callable[[Results], None] | None = None,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> Results:
    """Measure contestants in all cases.

    Parameters
    ----------
    cases
        As `pyrel.benchmark.cases.cases_of` gives them.
    contestants
        pyrel among them. Those that this machine cannot run are left out, and `skipped` says why.
    protocol
        How to measure.
    save
        Called with the results so far after every case.
    say
        Called with a line on what comes next or who does not take part.
    progress
        Called with (what, done, total).

    Returns
    -------
    Results

    Raises
    ------
    WrongAnswerError
        If a contestant answers something wrong.
    WorkerError
        If one fails.
    """
    say = say or (lambda text: None)
    present, skipped = _present(contestants, say)
    results = Results(
        machine={**machine_facts(protocol.threads), "isa": runtime.isa()},
        protocol=protocol,
        titles={c.name: c.title for c in present},
        notes={c.name: c.note for c in present if c.note is not None},
        skipped=skipped,
    )
    with _Field(present, protocol, progress or (lambda what, done, total: None)) as field_:
        results = replace(results, bandwidth=field_.bandwidth())
        for (model, method), group in groupby(cases, key=lambda pair: (pair[0], pair[1].method)):
            members = [case for _, case in group]
            say(f"{members[0].cell}-{members[0].steps}, {method}: preparing")
            contest = field_.prepare(model, method, max(case.batch for case in members))
            results = replace(results, versions={**results.versions, **contest.versions})
            for case in members:
                results = results.with_case(field_.measure(contest, case))
                if save is not None:
                    save(results)
    return results


def _present(
    contestants: Sequence[Contestant], say: Callable[[str], None]
) -> tuple[list[Contestant], dict[str, str]]:
    reasons = {c.name: c.why_not() for c in contestants}
    skipped = {name: reason for name, reason in reasons.items() if reason is not None}
    for contestant in contestants:
        if contestant.name in skipped:
            say(f"Without {contestant.title}: {skipped[contestant.name]}")
    present = [c for c in contestants if c.name not in skipped]
    if PYREL not in [c.name for c in present]:
        raise ValueError("contestants: pyrel must be among them; ratios are to it")
    return present, skipped


@dataclass
class _Contest:
    """A model and a method with everybody ready for them."""

    model: Model
    method: str
    contestants: list[Contestant]
    pool: str
    answers: dict[bool, str]  # by whether z^β or z⁺ is at the pixels
    found: dict[str, Any]  # what the reference has told
    versions: dict[str, dict[str, str]] = field(default_factory=dict)


class _Field:
    """The processes of a run."""

    def __init__(
        self, contestants: Sequence[Contestant], protocol: Protocol, progress: Progress
    ) -> None:
        self._contestants, self._protocol, self._progress = contestants, protocol, progress
        self._workers: dict[str, WorkerProcess] = {}
        self._stack = ExitStack()
        self._highest = 0.0  # peak of the run

    def __enter__(self) -> _Field:
        try:
            self._folder = self._stack.enter_context(temporary_folder("pyrel-benchmark-"))
            self._machine = self._start("the machine's peak", thread_counts(self._protocol.threads))
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *what: object) -> None:
        self._stack.close()

    def _start(self, name: str, variables: dict[str, str]) -> WorkerProcess:
        log = self._folder / f"{name}.log"
        return self._stack.enter_context(WorkerProcess(name, variables, log))

    def _worker(self, contestant: Contestant) -> WorkerProcess:
        if contestant.name not in self._workers:
            variables = environment(contestant, self._protocol.threads)
            self._workers[contestant.name] = self._start(contestant.title, variables)
        return self._workers[contestant.name]

    def bandwidth(self) -> float:
        """Return the bytes/s that copies read and write."""
        threads, calls = self._protocol.threads, self._protocol.calls
        return float(self._machine.ask("bandwidth", threads=threads, calls=calls)["bytes"])

    def prepare(self, model: Model, method: str, largest: int) -> _Contest:
        """Have the right answers computed, and everybody make what he needs for a method."""
        weights = self._folder / "weights.safetensors"
        safetensors.torch.save_file(model.cell.state_dict(), weights)
        job = {
            "config": model.cell.config(),
            "weights": str(weights),
            "method": method,
        }
        present = [c for c in self._contestants if method in c.methods and model.title in c.cells]
        contest = self._reference(model, method, largest, present, job)
        for i, contestant in enumerate(present):
            self._progress(f"{contestant.title} prepares", i, len(present))
            answer = self._worker(contestant).ask(
                "make", maker=contestant.maker, job={**job, "options": dict(contestant.options)}
            )
            contest.versions[contestant.name] = answer["versions"]
        return contest

    def _reference(
        self,
        model: Model,
        method: str,
        largest: int,
        present: list[Contestant],
        job: dict[str, Any],
    ) -> _Contest:
        pool = _POOL if model.title in LINEAR else _SMALL_POOL
        wanted = min(pool, largest * self._protocol.arrays)
        # Some of them float32 cannot decide about: rarely more than a half.
        candidates = model.candidates(2 * wanted + 16, self._protocol.seed)
        paths = {name: str(self._folder / name) for name in ("candidates.npy", "pool.npy")}
        answers = {box: str(self._folder / f"answers-{box}.npz") for box in (True, False)}
        np.save(paths["candidates.npy"], candidates)
        self._progress("computing the right answers", 0, 1)
        # A process of its own for each, so that the memory is free again.
        with WorkerProcess("the reference", {}, self._folder / "reference.log") as worker:
            found = worker.ask(
                "reference",
                job={**job, "options": {}},
                candidates=paths["candidates.npy"],
                wanted=wanted,
                pool=paths["pool.npy"],
                answers=answers[True],
                answers_plus=None if all(c.box for c in present) else answers[False],
            )
        if found["kept"] < min(wanted, self._protocol.arrays):
            raise ValueError(
                f"float32 can decide about {found['kept']} of {found['candidates']} samples of "
                f"this model only, which is too few to measure with"
            )
        return _Contest(model, method, present, paths["pool.npy"], answers, found)

    def measure(self, contest: _Contest, case: Case) -> CaseResult:
        """Measure a case: as many blocks as are wanted, and more where the machine was busy."""
        protocol, present = self._protocol, contest.contestants
        isa = {c.name: c.isa if c.is_pyrel and c.isa else runtime.isa() for c in present}
        worst: dict[str, tuple[Any, Any]] = {c.name: (0.0, 0.0) for c in present}
        blocks: list[Block] = []
        with self._inputs(contest, case):
            while len(blocks) < 2 * protocol.blocks:
                blocks.append(self._block(case, present, isa, len(blocks), worst))
                self._highest = max(self._highest, blocks[-1].peak[isa[PYREL]])
                floor = protocol.least_peak * self._highest
                if sum(b.peak[isa[PYREL]] >= floor for b in blocks) >= protocol.blocks:
                    break
        return self._result(contest, case, isa, blocks, worst)

    def _block(
        self,
        case: Case,
        present: list[Contestant],
        isa: dict[str, str],
        number: int,
        worst: dict[str, tuple[Any, Any]],
    ) -> Block:
        peak = {name: self._peak(name) for name in sorted(set(isa.values()))}
        seconds: dict[str, list[float]] = {c.name: [] for c in present}
        first = number % len(present)  # another one, so that nobody always follows the same one
        for i, contestant in enumerate(present[first:] + present[:first]):
            done = number * len(present) + i
            self._progress(str(case), done, max(self._protocol.blocks, number + 1) * len(present))
            turn = self._turn(contestant)
            self._refuse_wrong(contestant, case, turn)
            seconds[contestant.name] = turn["seconds"]
            worst[contestant.name] = _worse(worst[contestant.name], turn)
        return Block(peak, seconds)

    @contextmanager
    def _inputs(self, contest: _Contest, case: Case) -> Iterator[None]:
        for i, contestant in enumerate(contest.contestants):
            self._progress(f"{case}: {contestant.title} warms up", i, len(contest.contestants))
            self._worker(contestant).ask(
                "inputs",
                pool=contest.pool,
                answers=contest.answers[contestant.box],
                arrays=self._protocol.arrays,
                batch=case.batch,
            )
        yield
        for contestant in contest.contestants:
            self._worker(contestant).ask("release")

    def _peak(self, isa: str) -> float:
        protocol = self._protocol
        return float(
            self._machine.ask(
                "peak",
                isa=isa,
                threads=protocol.threads,
                calls=protocol.calls,
                pause=protocol.pause,
            )["flops"]
        )

    def _turn(self, contestant: Contestant) -> dict[str, Any]:
        protocol = self._protocol
        return self._worker(contestant).ask(
            "time",
            pause=protocol.pause,
            calls=protocol.calls,
            turn_seconds=protocol.turn_seconds,
            cosine=LEAST_COSINE if contestant.bf16 else None,
            exempt=contestant.exempt,
        )

    def _refuse_wrong(self, contestant: Contestant, case: Case, turn: dict[str, Any]) -> None:
        excess = turn["excess"]
        if excess is not None and excess <= 1:
            return
        what = "the relevance is not finite"
        if excess is not None:
            what = f"relative error {turn['error']:.1e}, {excess:.1f} times what is allowed"
        raise WrongAnswerError(f"{contestant.title} answers wrongly in {case}: {what}")

    def _result(
        self,
        contest: _Contest,
        case: Case,
        isa: dict[str, str],
        blocks: list[Block],
        worst: dict[str, Any],
    ) -> CaseResult:
        cell = contest.model.cell
        widths = "-".join(map(str, (cell.step_features, *cell.sizes, cell.classes)))
        recurrent = f", recurrent {cell.recurrent}" if isinstance(cell, FeedbackCell) else ""
        return CaseResult(
            cell=case.cell,
            steps=case.steps,
            method=case.method,
            batch=case.batch,
            sizes=widths + recurrent,
            weights=contest.model.weights,
            inputs=contest.model.inputs,
            zeros=contest.found["zeros"],
            flops=cell_flops(cell, case.method),
            bytes=compulsory_bytes(cell, case.batch),
            undecided=(contest.found["undecided"], contest.found["candidates"]),
            isa=isa,
            blocks=tuple(blocks),
            errors={name: error for name, (error, _) in worst.items()},
            excesses={name: excess for name, (_, excess) in worst.items()},
        )


def _worse(so_far: tuple[Any, Any], turn: dict[str, Any]) -> tuple[Any, Any]:
    """Return the larger error and excess; None, not finite, is larger than any number."""
    new = (turn["error"], turn["excess"])
    pairs = zip(so_far, new, strict=True)
    error, excess = (None if a is None or b is None else max(a, b) for a, b in pairs)
    return error, excess
