# SPDX-License-Identifier: Apache-2.0
"""False alarms of the self-check and what it costs: ``python bench/self_check.py --draws 100``.

Compiles every model of the tests' zoo again and again, each time with other weights, and counts how
often the check that runs when compiling says that a program is wrong though nothing is, how often
float64 had to decide, and what share of the processor time of compiling the check takes. Prints
tables of Markdown, also of what is done when it is stopped by Ctrl-C or after ``--seconds``.
docs/results/self-check.md has the numbers.
"""

from __future__ import annotations

import argparse
import copy
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

import pyrel
from pyrel.compiler.capture.capture import Capture, capture_at
from pyrel.engine.model_reference import ModelReference
from pyrel.engine.prepare import Captured

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from engine.zoo import ZOO  # noqa: E402


@dataclass
class Tally:
    """What was seen of one model."""

    compiled: int = 0
    alarms: list[str] = field(default_factory=list)
    decided: int = 0  # in float64
    undecided: int = 0  # there either
    seconds: float = 0.0
    checking: float = 0.0

    @property
    def share(self) -> float:
        """Of the processor time."""
        return self.checking / self.seconds if self.seconds else 0.0


class Watched:
    """Measures the check while it runs, and notes whether float64 was asked."""

    def __init__(self) -> None:
        self.seconds, self.exact = 0.0, 0
        self._check, self._exact = pyrel.Explainer._check, ModelReference.exact

    def check(self, explainer: Any, *args: Any) -> Any:
        """Run the check."""
        start = time.process_time()
        try:
            return self._check(explainer, *args)
        finally:
            self.seconds += time.process_time() - start

    def asked(self, reference: Any, *args: Any) -> Any:
        """Ask in float64."""
        self.exact += 1
        return self._exact(reference, *args)


def with_weights_of_now(capture: Capture) -> Capture:
    """Capture the weights as they are now. No weight decides what torch.export gives."""
    other = Capture(capture._programs, capture._lengths, capture.steps, capture._causes)
    if capture._one_step:
        other.add_one_step(capture._one_step)
    other._no_single_step = capture._no_single_step
    return other


class Subject:
    """A copy of a model whose weights are drawn again and again."""

    def __init__(self, exhibit: Any) -> None:
        self.exhibit = exhibit
        self.module = copy.deepcopy(exhibit.module)
        self._sizes = [float(p.detach().square().mean().sqrt()) for p in self.module.parameters()]
        self._capture: Capture | None = None

    def redraw(self, seed: int) -> None:
        """Give every parameter normal values of the size that its own have."""
        random = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for each, size in zip(self.module.parameters(), self._sizes, strict=True):
                each.copy_(torch.randn(each.shape, generator=random) * size)

    def captured(self, x: Any) -> Captured:
        """Return the module with a capture of its weights as they are; exported the first time."""
        if self._capture is None:
            self._capture = capture_at(self.module, x)
        return Captured(with_weights_of_now(self._capture), self.module)


def compiled_once(subject: Subject, seed: int, method: str, tally: Tally, export: bool) -> None:
    """Compile a model with other weights, and add to what was seen of it."""
    subject.redraw(seed)
    exhibit, watched = subject.exhibit, Watched()
    x = np.asarray(exhibit.inputs[2 * seed % 38 :][:2])
    model = subject.module if export else subject.captured(x)
    with (
        mock.patch.object(pyrel.Explainer, "_check", lambda *args: watched.check(*args)),
        mock.patch.object(ModelReference, "exact", lambda *args: watched.asked(*args)),
    ):
        start = time.process_time()
        try:
            explainer = pyrel.Explainer(model, x, method, **exhibit.domain)
            tally.undecided += "not decidable" in explainer.checked
        except pyrel.SelfCheckError as error:
            tally.alarms.append(f"{exhibit.name}, draw {seed}, {method}: {error}")
        tally.seconds += time.process_time() - start
    tally.checking += watched.seconds
    tally.decided += watched.exact > 0
    tally.compiled += 1


def processor() -> str:
    """Name of the processor, as Linux has it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def report(tallies: dict[tuple[str, str], Tally]) -> Iterator[str]:
    """Yield tables of Markdown."""
    yield f"{processor()}, torch {torch.__version__}, {torch.get_num_threads()} thread(s)\n"
    columns = "method", "models", "compiled", "false alarms", "float64 asked", "undecided"
    yield f"| {' | '.join((*columns, 'share of time', 'most'))} |"
    yield "|---|---|---|---|---|---|---|---|"
    for method in dict.fromkeys(method for _, method in tallies):
        some = [each for (_, its), each in tallies.items() if its == method and each.compiled]
        seconds, checking = sum(t.seconds for t in some), sum(t.checking for t in some)
        compiled, alarms = sum(t.compiled for t in some), sum(len(t.alarms) for t in some)
        decided, undecided = sum(t.decided for t in some), sum(t.undecided for t in some)
        share, most = checking / max(seconds, 1e-9), max((t.share for t in some), default=0.0)
        yield (
            f"| {method} | {len(some)} | {compiled:,} | {alarms} | {decided} | "
            f"{undecided} | {share:.1%} | {most:.1%} |"
        )
    worst = sorted(tallies.items(), key=lambda item: -item[1].share)[:5]
    yield "\n| model | method | share of time | ms a compile |\n|---|---|---|---|"
    for (name, method), tally in worst:
        each = 1000 * tally.seconds / max(1, tally.compiled)
        yield f"| {name} | {method} | {tally.share:.1%} | {each:.0f} |"
    alarms = [text for tally in tallies.values() for text in tally.alarms]
    if alarms:
        yield "\nFalse alarms:\n"
        yield from (f"- {text}" for text in alarms)


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=100, help="draws of weights of each model")
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument(
        "--methods", nargs="+", default=["gradient"], choices=pyrel.methods.names(), metavar="M",
        help="methods, gradient by default: %(choices)s",
    )  # fmt: skip
    parser.add_argument(
        "--export-once", action="store_true",
        help="export each model once, which no weights change: faster, but shares of time are then "
        "those of compiling without exporting",
    )  # fmt: skip
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(True)
    tallies = {(each.name, method): Tally() for method in arguments.methods for each in ZOO}
    start = time.monotonic()
    subjects = [Subject(exhibit) for exhibit in ZOO]
    export = not arguments.export_once
    # What torch loads at first counts not.
    compiled_once(subjects[0], 0, arguments.methods[0], Tally(), export)
    try:
        for draw in range(arguments.first, arguments.first + arguments.draws):
            for subject in subjects:
                for method in arguments.methods:
                    tally = tallies[subject.exhibit.name, method]
                    compiled_once(subject, draw, method, tally, export)
            passed = time.monotonic() - start
            alarms = sum(len(tally.alarms) for tally in tallies.values())
            print(
                f"draw {draw}: {passed:.0f} s, {alarms} false alarms", file=sys.stderr, flush=True
            )
            if arguments.seconds is not None and passed > arguments.seconds:
                break
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    for line in report(tallies):
        print(line)
    return int(any(tally.alarms for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
