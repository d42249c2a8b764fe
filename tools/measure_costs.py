# SPDX-License-Identifier: Apache-2.0
"""Measure what each method costs in forward passes, and write it into docs/methods.md.

    pyrel demo --keep kept
    python tools/measure_costs.py kept/deep.safetensors

A cost is the time of a call of an explainer over that of its `Explainer.forward`, of the same
samples on one thread: the call and the forward pass take turns, of each the fastest of all rounds
counts, in seconds of the processor. ``--check`` measures nothing; it fails where the page says
other numbers than docs/results/performance/costs.json.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

import pyrel
from pyrel.benchmark.gated import gated_cell
from pyrel.experiment import Problem, load_cell
from pyrel.experiment.relevance_models import DeepTaylorMinMax
from pyrel.nn import DetectionPooling, MinMaxRelevance
from pyrel.report.machine import machine_facts

DOCS = Path(__file__).parents[1] / "docs"
PAGE, NUMBERS = DOCS / "methods.md", DOCS / "results" / "performance" / "costs.json"
BEGIN, END = "<!-- costs: begin -->", "<!-- costs: end -->"
SECTION = re.compile(r"(?<=\n)### `(\w+)`\n.*?(?=\n##)", re.DOTALL)
COST = re.compile(r"(?<=\n- \*\*Cost:\*\* ).*")
DEEP, LSTM, TWO_DIGIT = "Deep", "LSTM", "two-digit"
MINMAX = "DeepTaylorMinMax"  # a method of one net, which is no name of `Explainer`
FITTED = ("pattern_net", "pattern_attribution")
LEAST = 0.02  # seconds that the calls of a turn take together, so that the clock can tell

Floats = npt.NDArray[np.float32]
Call = Callable[[], Any]


@dataclass(frozen=True)
class Case:
    """A network with the samples to explain, and those that patterns are fitted to."""

    network: torch.nn.Module
    x: Floats
    seen: Floats
    low: float
    high: float


def cases(model: str, batch: int) -> dict[str, Case]:
    """Make the Deep cell of a file on shipped digits, and an LSTM on numbers in [-1, 1]."""
    cell = load_cell(model)
    problem = cell.problem or Problem.of("mnist-mini", "majority", cell.model.steps)
    test, train = (problem.samples(problem.images(split))[0] for split in ("test", "train"))
    torch.manual_seed(0)
    lstm = gated_cell("LSTM", 25).eval()
    x = np.random.default_rng(0).uniform(-1, 1, (batch + 200, 25, 200)).astype(np.float32)
    return {
        DEEP: Case(cell.model, test[:batch], train[:1000], 0.0, 1.0),
        LSTM: Case(lstm, x[:batch], x[batch:], -1.0, 1.0),
    }


def calls(case: Case) -> dict[str, tuple[Call, Call]]:
    """Return the explaining and the forward call of each method."""
    graph = pyrel.capture(case.network, case.x[:1])
    patterns = pyrel.patterns.fit(graph, case.seen)
    made = {}
    for name in pyrel.methods.names():
        options = {"patterns": patterns} if name in FITTED else {}
        explainer = pyrel.Explainer(graph, None, name, low=case.low, high=case.high, **options)
        target = explainer.forward(case.x).argmax(1)
        made[name] = pair(explainer, case.x, target)
    return made


def minmax_calls(batch: int) -> dict[str, tuple[Call, Call]]:
    """Return those of `DeepTaylorMinMax`, on the network of the two-digit problem untrained."""
    torch.manual_seed(0)
    network = DetectionPooling()
    with torch.no_grad():
        for layer in network.linear:
            layer.bias.clamp_(max=0)
    (_, pools), (above, _) = network.sizes
    model = MinMaxRelevance(28 * 56, above, pools, 4)
    x = np.random.default_rng(0).uniform(-0.5, 1.5, (batch, 28, 56)).astype(np.float32)
    method = DeepTaylorMinMax(network, model, x[:1], low=-0.5, high=1.5)
    forward = method.explainer.forward
    return {MINMAX: (lambda: method(x), lambda: forward(x))}


def pair(explainer: pyrel.Explainer, x: Floats, target: Any) -> tuple[Call, Call]:
    return lambda: explainer(x, target), lambda: explainer.forward(x)


def measured(made: Mapping[str, tuple[Call, Call]], rounds: int) -> dict[str, dict[str, float]]:
    """Let calls take turns, and return the least seconds of each, and their ratio."""
    counts = {name: tuple(_count(call) for call in both) for name, both in made.items()}
    least = {name: [float("inf"), float("inf")] for name in made}
    for _ in range(rounds):
        for name, both in made.items():
            for i, call in enumerate(both):
                least[name][i] = min(least[name][i], _seconds(call, counts[name][i]))
    return {
        name: {"seconds": explain, "forward": forward, "ratio": explain / forward}
        for name, (explain, forward) in least.items()
    }


def _count(call: Call) -> int:
    """Warm up, and return how many calls make a turn."""
    call()
    return max(1, round(LEAST / _seconds(call, 1)))


def _seconds(call: Call, count: int) -> float:
    start = time.process_time()
    for _ in range(count):
        call()
    return (time.process_time() - start) / count


def ratio(value: float) -> str:
    """Return a ratio with two digits, without a claim to more."""
    return f"{value:.1f}" if value < 10 else f"{value:.0f}"


def table(numbers: Mapping[str, Any]) -> str:
    """Return the table of the page, with what it was measured on."""
    costs, machine = numbers["costs"], numbers["machine"]
    lines = [
        f"Forward passes that a call costs, options by default, {numbers['batch']} samples, one "
        f"thread of {machine['processor']} ({machine['isa']}), the fastest of "
        f"{numbers['rounds']} turns:",
        "",
        f"| method | {DEEP}, 12 steps | {LSTM}, 25 steps |",
        "|---|---|---|",
        *(
            f"| `{name}` | {ratio(costs[DEEP][name]['ratio'])} | "
            f"{ratio(costs[LSTM][name]['ratio'])} |"
            for name in costs[DEEP]
        ),
        f"| `{MINMAX}` | {ratio(costs[TWO_DIGIT][MINMAX]['ratio'])}, on the two-digit network "
        "and its model | |",
    ]
    return "\n".join(lines)


def told(name: str, costs: Mapping[str, Any]) -> str:
    """Return what the section of a method says of its cost."""
    if name == MINMAX:
        found = ratio(costs[TWO_DIGIT][MINMAX]["ratio"])
        return f"{found} forward passes of network and model (two-digit)."
    deep, lstm = (ratio(costs[case][name]["ratio"]) for case in (DEEP, LSTM))
    return f"{deep} forward passes ({DEEP}), {lstm} ({LSTM})."


def written(page: str, numbers: Mapping[str, Any]) -> str:
    """Return the page with the numbers in its table and its sections."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    page = f"{before}{BEGIN}\n{table(numbers)}\n{END}{after}"
    return SECTION.sub(
        lambda found: COST.sub(told(found[1], numbers["costs"]), found[0]),
        page,
    )


def main() -> int:
    """Measure and write, or check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", nargs="?", help="the Deep cell that pyrel demo --keep left")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--check", action="store_true", help="compare the page with the numbers")
    parser.add_argument("--write", action="store_true", help="write the page from the numbers")
    given = parser.parse_args()
    if given.model:
        pyrel.set_num_threads(1)
        torch.set_num_threads(1)
        costs = {
            name: measured(calls(case), given.rounds)
            for name, case in cases(given.model, given.batch).items()
        }
        costs[TWO_DIGIT] = measured(minmax_calls(given.batch), given.rounds)
        machine = {**machine_facts(1), "isa": pyrel.show_config()["isa"]}
        numbers = {"machine": machine, "batch": given.batch, "rounds": given.rounds, "costs": costs}
        NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n", "utf-8")
        print(table(numbers))
    elif not (given.check or given.write):
        parser.error("name the Deep cell that pyrel demo --keep left")
    numbers = json.loads(NUMBERS.read_text("utf-8"))
    page = PAGE.read_text("utf-8")
    if given.check:
        return int(written(page, numbers) != page)
    PAGE.write_text(written(page, numbers), "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
