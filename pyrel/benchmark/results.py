# SPDX-License-Identifier: Apache-2.0
"""Measurements as a file, and the arithmetic on them."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pyrel.benchmark.contestants import PYREL
from pyrel.files.atomic import write_whole
from pyrel.files.foreign import parsing, read_whole

FORMAT_VERSION = 1


class WrongAnswerError(RuntimeError):
    """A timed answer is not what the method's formula gives."""


@dataclass(frozen=True)
class Protocol:
    """Settings of a measurement.

    Attributes
    ----------
    blocks : int
        Rounds; in each the peak and every contestant have a turn. Those dropped are repeated, as
        long as there are no more than twice as many in all.
    calls : int
        Timed calls of a turn, of which the fastest counts.
    pause : float
        Seconds before a turn: another library's threads spin on for a while after their last call.
    arrays : int
        Different inputs that take turns.
    turn_seconds : float
        A turn makes no further call after so long, so that slow contestants do not hold up all.
    least_peak : float
        Blocks whose peak is below this part of the run's highest are dropped: the machine was busy.
    threads : int
    seed : int
        Of random weights and inputs.
    """

    blocks: int = 20
    calls: int = 6
    pause: float = 0.3
    arrays: int = 4
    turn_seconds: float = 3.0
    least_peak: float = 0.9
    threads: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges.

        Raises
        ------
        ValueError
            If a number makes no sense; the message names it.
        """
        for name in ("blocks", "calls", "arrays", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: wanted at least 1, got {getattr(self, name)}")
        if self.pause < 0 or self.turn_seconds <= 0:
            raise ValueError("pause, turn_seconds: wanted seconds of at least and above zero")
        if not 0 <= self.least_peak <= 1:
            raise ValueError(f"least_peak: wanted a part in [0, 1], got {self.least_peak}")


@dataclass(frozen=True)
class Block:
    """One round: FLOP/s by instruction set, seconds of every call by contestant."""

    peak: Mapping[str, float]
    seconds: Mapping[str, Sequence[float]]

    def best(self, name: str) -> float:
        """Return the seconds of a contestant's fastest call."""
        return min(self.seconds[name])


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    lower: float
    median: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Return them of some values, at least one."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        return cls(*statistics.quantiles(values, n=4, method="inclusive"))


@dataclass(frozen=True)
class Row:
    """The row of a table for one contestant in one case."""

    samples_per_second: Spread
    ratio: Spread  # its seconds / those of pyrel, block by block
    share_of_peak: Spread  # useful FLOP/s / those of the peak, block by block
    error: float  # worst relative error of a timed answer; inf: not finite
    excess: float  # the worst in parts of what is allowed


@dataclass(frozen=True)
class CaseResult:
    """All measurements of a case.

    Attributes
    ----------
    cell, steps, method, batch
        The case.
    sizes : str
        Of the cell.
    weights, inputs : str
        Where they come from.
    zeros : mapping
        Share of zeros in ``input`` and ``activations``.
    flops : float
        Useful FLOPs of a sample.
    bytes : float
        That have to be moved for a sample.
    undecided : sequence of int
        How many of how many candidates were not used, as float32 cannot decide about them.
    isa : mapping
        Instruction set whose peak counts, by contestant.
    blocks : sequence of Block
    errors, excesses : mapping
        Worst error of a contestant's timed answers, relative, and in parts of what is allowed; None
        if an answer was not finite.
    """

    cell: str
    steps: int
    method: str
    batch: int
    sizes: str
    weights: str
    inputs: str
    zeros: Mapping[str, float]
    flops: float
    bytes: float
    undecided: Sequence[int]
    isa: Mapping[str, str]
    blocks: Sequence[Block]
    errors: Mapping[str, float | None]
    excesses: Mapping[str, float | None]

    @property
    def names(self) -> list[str]:
        """Names of the contestants that were measured, in their order."""
        return list(self.blocks[0].seconds)

    @property
    def peaks(self) -> list[float]:
        """Return the peak of every block, with the instruction set that pyrel uses."""
        return [block.peak[self.isa[PYREL]] for block in self.blocks]

    def kept(self, floor: float) -> list[Block]:
        """Return the blocks whose peak is not below a number of FLOP/s."""
        pairs = zip(self.blocks, self.peaks, strict=True)
        return [block for block, peak in pairs if peak >= floor]

    def row(self, name: str, floor: float) -> Row | None:
        """Return the numbers of a contestant in the blocks kept; None if there are none."""
        blocks = self.kept(floor)
        if not blocks:
            return None
        best = [block.best(name) for block in blocks]
        peaks = [block.peak[self.isa[name]] for block in blocks]
        error, excess = self.errors[name], self.excesses[name]
        return Row(
            Spread.of([self.batch / seconds for seconds in best]),
            Spread.of([s / block.best(PYREL) for s, block in zip(best, blocks, strict=True)]),
            Spread.of([self.flops * self.batch / s / p for s, p in zip(best, peaks, strict=True)]),
            float("inf") if error is None else error,
            float("inf") if excess is None else excess,
        )


@dataclass(frozen=True)
class Results:
    """A run of the benchmark.

    Attributes
    ----------
    machine : mapping
        Facts for the reader.
    protocol : Protocol
    titles : mapping
        Of contestants, by name.
    versions : mapping
        Of packages, by contestant.
    notes : mapping
        On contestants, by name.
    skipped : mapping
        Why contestants did not take part.
    bandwidth : float
        Bytes/s of copies.
    cases : sequence of CaseResult
    """

    machine: Mapping[str, str | int]
    protocol: Protocol
    titles: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    notes: Mapping[str, str] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    bandwidth: float = 0.0
    cases: Sequence[CaseResult] = ()

    @property
    def highest_peak(self) -> float:
        """Return the highest FLOP/s that were measured with pyrel's instruction set, or 0."""
        return max((peak for case in self.cases for peak in case.peaks), default=0.0)

    @property
    def floor(self) -> float:
        """Return the FLOP/s that a block's peak must have, lest it be dropped."""
        return self.protocol.least_peak * self.highest_peak

    def with_case(self, case: CaseResult) -> Results:
        """Return these results and one more."""
        return replace(self, cases=(*self.cases, case))

    def save(self, path: Path) -> None:
        """Write a JSON file, whole or not at all."""
        text = json.dumps({"format": FORMAT_VERSION, **asdict(self)}, indent=1, allow_nan=False)
        write_whole(path, (text + "\n").encode())


def load_results(path: Path) -> Results:
    """Read a file of `Results.save`.

    Raises
    ------
    OSError
        If it cannot be read.
    ValueError
        If it is something else.
    """
    raw = read_whole(path)
    with parsing(path, "is no file of results of this pyrel's bench: {error}"):
        content = json.loads(raw)
        if content.pop("format") != FORMAT_VERSION:
            raise ValueError("another format")
        return _results(content)


def _results(content: dict[str, Any]) -> Results:
    protocol, cases = Protocol(**content.pop("protocol")), content.pop("cases")
    return Results(protocol=protocol, cases=tuple(map(_case, cases)), **content)


def _case(content: dict[str, Any]) -> CaseResult:
    blocks = tuple(Block(**block) for block in content.pop("blocks"))
    if not blocks:
        raise ValueError("a case without blocks")
    return CaseResult(blocks=blocks, **content)
