# SPDX-License-Identifier: Apache-2.0
"""Judge all methods on one trained cell by all measures, and write a page with tables.

pyrel train Deep --dataset mnist --seed 2 --out runs/deep
python scripts/measure_methods.py runs/deep/model.safetensors --samples 300 --out docs/results

Writes measures.md and measures/numbers.json. All measures take the same majority samples, the first
of the test set, and explain the true class. Methods that need patterns get them from the first
training sequences; after weights are randomised, from the same with the new weights.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measure_degradation import PATTERNS
from measures_page import RANDOM, Alike, groups, page
from torch import nn

import pyrel
from pyrel import metrics
from pyrel.cli.display import bar
from pyrel.experiment import Problem, TrainedCell, load_cell, randomisation_check
from pyrel.experiment.degradation import PIXEL_MASS, relevance_of
from pyrel.experiment.problem import DIGITS_IN_SAMPLE, HIGH, LOW
from pyrel.files.atomic import replacing
from pyrel.metrics import Summary
from pyrel.report.machine import machine_facts

TILE, POINTS = 7, range(0, 49, 4)
FIRST_TILES = 8
RADIUS, DRAWS = 0.1, 10  # of the noise
_SCALE = 1000  # of the progress bar, for each method


@dataclass(frozen=True, eq=False)
class Judged:
    """What is judged: a cell and its samples."""

    cell: TrainedCell
    problem: Problem
    x: Any
    y: Any
    relevant: Any
    fitting: Any  # sequences that patterns are fitted to

    @cached_property
    def tiles(self) -> metrics.Perturbation:
        """The tiles that are replaced by their mean."""
        return metrics.Perturbation(metrics.patch_regions(self.x.shape[1:], TILE))

    @cached_property
    def mass(self) -> Any:
        """Share of the pixel mass in each step, (n, steps)."""
        return metrics.step_shares(metrics.pixel_mass_map(self.x, LOW))


def main() -> None:
    arguments = parse()
    cell = load_cell(arguments.model)
    problem = cell.problem or Problem.of("mnist-mini", "majority", cell.model.steps)
    if problem.kind != "majority":
        raise SystemExit(f"{arguments.model}: wanted a cell of the majority problem")
    x, y, relevant = problem.samples(
        problem.images("test", arguments.data), count=arguments.samples
    )
    fitting = problem.samples(problem.images("train", arguments.data), count=arguments.fit)[0]
    judged = Judged(cell, problem, x, y, relevant, fitting)
    names = arguments.methods.split(",") if arguments.methods else pyrel.methods.names()
    start = time.process_time()
    with bar() as told:
        found, maps = measured(judged, names, told)
    seconds = time.process_time() - start
    command = f"python scripts/measure_methods.py MODEL --samples {len(x)} --fit {len(fitting)}"
    if arguments.methods:
        command += f" --methods {arguments.methods}"
    told_first = told_of(judged, command, seconds)
    alike = metrics.agreement(maps)
    text = page(told_first, settings(judged), found, alike, groups(maps))
    write(arguments.out, text, found, alike)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a cell that pyrel demo --keep or pyrel train left")
    parser.add_argument("--samples", type=int, default=500, help="how many, the first")
    parser.add_argument("--fit", type=int, default=2000, help="training sequences for patterns")
    parser.add_argument("--methods", help="names divided by commas; by default all")
    parser.add_argument("--data", help="folder of the data set, where it is not in the usual one")
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="folder of the page")
    return parser.parse_args()


def measured(
    judged: Judged, names: list[str], told: Callable[[str, int, int], None]
) -> tuple[dict[str, dict[str, Summary]], dict[str, Any]]:
    """Return measures by map, and the maps of the methods."""
    found: dict[str, dict[str, Summary]] = {}
    maps = {}
    total = _SCALE * (len(names) + 1)
    for i, name in enumerate(names):
        # Of a method's time most goes into noise: ten times as many maps as it is explained by.
        def part(what: str, fraction: float, at: int = i, name: str = name) -> None:
            told(f"{what}: {name}", int(_SCALE * (at + fraction)), total)

        part("explaining", 0.0)
        explain = explainer(judged, judged.cell.model, name)
        maps[name] = relevance_of(explain, judged.x, judged.y)
        part("judging", 0.1)
        found[name] = of_map(judged, explain.forward, maps[name])
        found[name]["noise"] = noise(judged, explain, lambda f: part("adding noise", 0.2 + 0.6 * f))
        found[name] |= after_randomising(
            judged, name, lambda layer: part(f"randomising {layer}", 0.8)
        )
    told("judging: pixels and random order", total - _SCALE, total)
    pixels = metrics.pixel_mass_map(judged.x, LOW)
    found[PIXEL_MASS] = of_map(judged, explain.forward, pixels)
    random = metrics.random_degradation(
        explain.forward, judged.x, judged.y, how=judged.tiles, removed=POINTS
    )
    found[RANDOM] = {"area": Summary.of(random.area_under())}
    return found, maps


def explainer(judged: Judged, model: nn.Module, name: str, **checked: Any) -> pyrel.Explainer:
    """Make the explainer of a method; patterns are those of the model that is explained."""
    graph = pyrel.capture(model, judged.x[:1])
    options = {}
    if name in PATTERNS:
        options = {"patterns": pyrel.patterns.fit(graph, judged.fitting)}
    method = pyrel.methods.get(name, **options)
    return pyrel.Explainer(graph, method=method, low=LOW, high=HIGH, **checked)


def of_map(judged: Judged, forward: Any, relevance: Any) -> dict[str, Summary]:
    x, y, how = judged.x, judged.y, judged.tiles
    share = metrics.relevance_mass_accuracy(relevance, judged.relevant)

    def area(order: Any) -> Any:
        curve = metrics.degradation(forward, x, relevance, y, how=how, removed=POINTS, order=order)
        return curve.area_under()

    values = {
        "area": area("most_relevant"),
        "area_least": area("least_relevant"),
        "comprehensiveness": metrics.comprehensiveness(forward, x, relevance, y, how=how),
        "sufficiency": metrics.sufficiency(forward, x, relevance, y, how=how),
        "log_odds": metrics.log_odds(forward, x, relevance, y, how=how),
        "mass": share,
        "rank": metrics.relevance_rank_accuracy(relevance, judged.relevant),
        "entropy": metrics.entropy(relevance),
        "gini": metrics.gini(relevance),
    }
    majority = judged.relevant.reshape(len(share), DIGITS_IN_SAMPLE, -1).any(axis=2)
    for digit in range(DIGITS_IN_SAMPLE):
        values[f"odd {digit}"] = np.where(majority[:, digit], np.nan, share)
    return {name: Summary.of(each) for name, each in (*values.items(), *places(judged, relevance))}


def places(judged: Judged, relevance: Any) -> Iterator[tuple[str, Any]]:
    """Yield where in the sequence relevance lies, and what the first tiles are."""
    shares, mass = metrics.step_shares(relevance), judged.mass
    last, centre = metrics.last_steps_share, metrics.centre_of_relevance
    yield "last", last(shares, quarter(judged)) - last(mass, quarter(judged))
    yield "centre", centre(shares) - centre(mass)
    for part in metrics.position_shares(shares, mass, judged.relevant, parts=DIGITS_IN_SAMPLE):
        yield f"digit {part.position}", part.relevance.values
    labels = judged.tiles.regions.labels.reshape(-1)
    marked = np.broadcast_to(
        judged.relevant.reshape(*judged.relevant.shape, *(1,) * (judged.x.ndim - 2)), judged.x.shape
    )
    count = labels.max() + 1
    sums = {
        name: np.stack([np.bincount(labels, row, count) for row in rows.reshape(len(rows), -1)])
        for name, rows in {
            "relevance": relevance.astype(np.float64),
            "ink": (judged.x - LOW).astype(np.float64),
            "marked": marked.astype(np.float64),
        }.items()
    }
    first = np.argsort(-sums["relevance"], axis=1, kind="stable")[:, :FIRST_TILES]
    ink = np.take_along_axis(sums["ink"], first, axis=1)
    yield "tiles empty", (ink == 0).mean(axis=1)
    yield "tiles ink", ink.sum(axis=1) / sums["ink"].sum(axis=1)
    yield "tiles majority", (np.take_along_axis(sums["marked"], first, axis=1) > 0).mean(axis=1)


def noise(judged: Judged, explain: pyrel.Explainer, told: Callable[[float], None]) -> Summary:
    moved = metrics.Noise(RADIUS, DRAWS, LOW, HIGH)
    relative = metrics.noise_sensitivity(
        explain, judged.x, judged.y, moved, progress=lambda done, total: told(done / total)
    )
    return Summary.of(relative)


def after_randomising(judged: Judged, name: str, told: Callable[[str], None]) -> dict[str, Summary]:
    model = judged.cell.model
    layers = randomisation_check(
        model,
        lambda: untrained(model),
        lambda changed: explainer(judged, changed, name, check=None),
        judged.x,
        judged.y,
        progress=told,
    )
    ends = {"output": layers[0], "all": layers[-1]}
    ranks = {f"{name} ranks": each.absolute_rank for name, each in ends.items()}
    return ranks | {f"{name} cosine": each.cosine for name, each in ends.items()}


def untrained(model: pyrel.nn.Cell) -> pyrel.nn.Cell:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return pyrel.nn.build(model.config()).eval()


def told_of(judged: Judged, command: str, seconds: float) -> str:
    """Return what was measured, by which command and for how long."""
    cell, (samples, steps) = judged.cell, judged.x.shape[:2]
    classified = pyrel.training.evaluate(cell.model, judged.x, judged.y).accuracy
    training = cell.training
    trained = (
        f", trained for {training['epochs']} epochs with seed {training['config']['seed']}"
        if training
        else ""
    )
    return (
        f"{cell.name} on {judged.problem.dataset}, {steps} steps{trained}, "
        f"{100 * classified:.1f} % of the first {samples:,} test sequences classified correctly; "
        f"options by default, patterns fitted to {len(judged.fitting):,} training sequences. "
        f"{seconds / 60:.1f} minutes of CPU time ({machine_facts()['processor']}):\n\n"
        f"```\n{command}\n```"
    )


def settings(judged: Judged) -> dict[str, Any]:
    return {
        "tile": TILE, "draws": DRAWS, "radius": RADIUS, "count": FIRST_TILES,
        "steps": judged.x.shape[1], "last": quarter(judged),
    }  # fmt: skip


def quarter(judged: Judged) -> int:
    return max(1, judged.x.shape[1] // 4)


def write(out: Path, text: str, found: Mapping[str, Mapping[str, Summary]], alike: Alike) -> None:
    """Write the page and its numbers, both or none."""
    numbers = {
        "measures": {
            name: {measure: each.to_dict() for measure, each in of.items()}
            for name, of in found.items()
        },
        "agreement": {" – ".join(pair): each.to_dict() for pair, each in alike.items()},
    }
    (out / "measures").mkdir(parents=True, exist_ok=True)
    places = out / "measures.md", out / "measures" / "numbers.json"
    with replacing(*places) as files:
        files[0].write(f"{text}\n".encode())
        files[1].write((json.dumps(numbers, indent=1) + "\n").encode())
    print(f"Wrote {places[0]}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        raise SystemExit(130) from None  # as of a shell; the page appears whole or not at all
