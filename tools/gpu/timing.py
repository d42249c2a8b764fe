# SPDX-License-Identifier: Apache-2.0
"""Times pyrel on a device beside torch and cuDNN; checks every answer first.

The rows that matter most come first. A call counts until its answer is there. A row of float32 or
of three products of TF32 whose answer is wrong has no times; one of TF32 has them, marked as wrong.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from direct import IN_PARTS, PRECISIONS, WHOLE, Choice, Direct
from machine import Machine, Rows, options_of
from models import Answered, answered, full_cell, tiny_cell
from peers import peers_of, whole
from torch import Tensor

from pyrel.benchmark.contestants import GATED
from pyrel.benchmark.work import cell_flops
from pyrel.nn import Cell, ConvDeep

KEYS = (
    *("cell", "steps", "method", "batch", "contestant", "precision"),
    *("groups", "team", "by_steps", "in_parts"),
    *("median_ms", "least_ms", "times", "useful_gflops", "ratio", "error", "excess", "right"),
    "failure",
)
SECONDS = 150.0  # the stage's limit, without what starts before
POOL = 64  # different samples, of which a batch has as many copies as it needs
PYREL = "pyrel"  # as everybody calls it; ratios are to it


class Part(NamedTuple):
    """A cell and a method at some batch sizes; ``compiled`` for torch.compile alone."""

    cell: str
    steps: int
    method: str
    batches: tuple[int, ...]
    compiled: bool = False


PARTS = (
    Part("Deep", 12, "deep_taylor", (1, 64, 100_000)),
    Part("LSTM", 25, "lrp_epsilon", (1, 64, 4096, 100_000)),
    Part("ConvDeep", 12, "deep_taylor", (1, 64, 100_000)),
    Part("Deep", 12, "deep_taylor", (1024,)),
    Part("GRU", 25, "lrp_epsilon", (1, 64, 100_000)),
    Part("LSTM", 25, "gradient", (1, 64, 4096, 100_000)),
    Part("GRU", 25, "gradient", (1, 64, 100_000)),
    Part("LSTM", 25, "lrp_epsilon", (1024,)),
    Part("ConvDeep", 12, "deep_taylor", (1024,)),
    Part("GRU", 25, "lrp_epsilon", (1024,)),
    Part("Deep", 12, "deep_taylor", (1, 64, 1024), compiled=True),
    Part("LSTM", 25, "gradient", (1024,)),
    Part("GRU", 25, "gradient", (1024,)),
    Part("ConvDeep", 12, "deep_taylor", (1024,), compiled=True),
)
TINY = (
    Part("Deep", 2, "deep_taylor", (9,)),
    Part("LSTM", 2, "lrp_epsilon", (9,)),
    Part("ConvDeep", 2, "deep_taylor", (9,)),
    Part("GRU", 2, "gradient", (9,)),
    Part("Deep", 2, "deep_taylor", (9,), compiled=True),
)
SMALL = (Choice(1, 1), Choice(1, 4), Choice(1, 8), Choice(1, 1, 0, True), Choice(1, 8, 0, True))
MIDDLE = (Choice(1, 8), Choice(2, 4), Choice(4, 2), Choice(8, 1), Choice(1, 8, 0, True))
LARGE = (Choice(2, 1), Choice(4, 1), Choice(8, 1), Choice(16, 1), Choice(8, 1, 0, True))
CONVOLUTIONS = (Choice(8, 1, 0, False, WHOLE), Choice(8, 1, 0, False, IN_PARTS))  # of large batches


class Contestant(NamedTuple):
    """Whoever explains a batch; ``make`` returns what is timed."""

    name: str
    make: Callable[[], Callable[[], Tensor]]
    precision: str = "float32"
    choice: Choice | None = None
    forward: bool = False
    peer: bool = False


def choices(cell: Cell, batch: int) -> tuple[Choice, ...]:
    """Return divisions that are worth a try for a cell and a batch size."""
    if batch < 64:
        return SMALL
    if batch < 10_000:
        return MIDDLE
    return (*LARGE, *CONVOLUTIONS) if isinstance(cell, ConvDeep) else LARGE


def own(case: Answered, explainer: Any, x: Tensor, machine: Machine) -> Iterator[Contestant]:
    """List pyrel's ways: as everybody calls it, and by pointer with choices."""
    given = x.reshape(len(x), case.cell.steps, *case.cell.step_shape)
    direct = Direct(explainer, machine.place)

    def called(precision: str, choice: Choice) -> Callable[[], Callable[[], Tensor]]:
        return lambda: lambda: direct(given, precision, choice).relevance

    yield Contestant(PYREL, lambda: lambda: explainer(given).relevance)
    for precision in PRECISIONS:
        yield Contestant("pyrel by pointer", called(precision, Choice()), precision, Choice())
    for precision in ("float32", "tf32"):
        for choice in choices(case.cell, len(x)):
            yield Contestant("pyrel by pointer", called(precision, choice), precision, choice)


def contestants(
    case: Answered, explainer: Any, x: Tensor, machine: Machine, compiled: bool
) -> Iterator[Contestant]:
    """List all for a batch: pyrel by its own choice, the peers, then pyrel by other choices."""
    mine = [*own(case, explainer, x, machine)]
    first = 1 + len(PRECISIONS)
    yield from mine[:1] if compiled else mine[:first]
    for peer in peers_of(case, machine, compiled):
        precision = "tf32" if peer.tf32 else "float32"
        yield Contestant(
            peer.name,
            lambda peer=peer: whole(peer, x),  # type: ignore[misc]
            precision,
            forward=peer.forward,
            peer=True,
        )
    if not compiled:
        yield from mine[first:]


def measured(machine: Machine, case: Answered, one: Contestant) -> dict[str, Any]:
    """Check a contestant, then time it."""
    tf32 = one.precision == "tf32"
    machine.forget()
    machine.use_tf32(tf32 and one.peer)
    try:
        run = one.make()
        found: dict[str, Any] = {}
        if not one.forward:
            error, excess = case.worst(run(), tf32)
            found = {"error": error, "excess": excess, "right": excess <= 1}
            if excess > 1 and not tf32:
                return {**found, "failure": "its answer is wrong"}
        seconds = machine.times(run)
    finally:
        machine.use_tf32(False)
    median = statistics.median(seconds)
    return {
        **found,
        "median_ms": 1e3 * median,
        "least_ms": 1e3 * min(seconds),
        "times": len(seconds),
    }


def useful_flops(case: Answered) -> float | None:
    """Return those of a sample; None for gradients through gates, which are not counted."""
    gates = case.job.config["cell"] in GATED and case.job.method == "gradient"
    return None if gates else cell_flops(case.cell, case.job.method)


def measure(machine: Machine, rows: Rows, part: Part, case: Answered, end: float) -> bool:
    """Write the rows of a part; False if the time is over before them."""
    explainer, flops = case.explainer(), useful_flops(case)
    pool = torch.from_numpy(case.x).to(machine.place)
    for batch in part.batches:
        x = pool.repeat(-(-batch // len(pool)), 1, 1)[:batch].contiguous()
        own_ms: float | None = None
        for one in contestants(case, explainer, x, machine, part.compiled):
            if time.monotonic() > end:
                return False
            row: dict[str, Any] = {}
            if one.choice is not None:
                row = one.choice._asdict()
                del row["teams"]
            try:
                row |= measured(machine, case, one)
            except Exception as error:  # the others still tell something
                row["failure"] = f"{type(error).__name__}: {error}"[:300]
            if "median_ms" in row:
                own_ms = row["median_ms"] if one.name == PYREL else own_ms
                row["ratio"] = row["median_ms"] / own_ms if own_ms else None
                if flops is not None and not one.forward:
                    row["useful_gflops"] = batch * flops / row["median_ms"] / 1e6
            named = {"cell": part.cell, "steps": part.steps, "method": part.method}
            names = {"contestant": one.name, "precision": one.precision}
            rows.add(**named, batch=batch, **names, **row)
    return True


def main() -> None:
    """Time all; exit status 1 if an answer is wrong or a contestant fails."""
    options = options_of(__doc__, SECONDS)
    end = time.monotonic() + options.seconds
    machine = Machine(options.emulated)
    rows = Rows(options.out, KEYS)
    known: dict[tuple[str, str], Answered] = {}
    for part in TINY if machine.emulated else PARTS:
        key = part.cell, part.method
        if key not in known:
            cell = tiny_cell(part.cell) if machine.emulated else full_cell(part.cell, part.steps)
            known[key] = answered(cell, part.method, 4 if machine.emulated else POOL)
        if not measure(machine, rows, part, known[key], end):
            print(f"the time is over: {part} and what follows are left out, or a part of it")
            break
    raise SystemExit(1 if rows.wrong else 0)


if __name__ == "__main__":
    main()
