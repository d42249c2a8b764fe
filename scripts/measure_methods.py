# SPDX-License-Identifier: Apache-2.0
"""Judge all methods on one trained cell by all measures, and write a page with tables.

pyrel train Deep --dataset mnist --out runs/deep
python scripts/measure_methods.py runs/deep/model.safetensors --out docs/results

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
from pathlib import Path
from typing import Any

import numpy as np
from measure_degradation import PATTERNS
from torch import nn

import pyrel
from pyrel import metrics
from pyrel.cli.display import bar
from pyrel.experiment import Problem, TrainedCell, load_cell, new_cell, randomisation_check
from pyrel.experiment.degradation import PIXEL_MASS, relevance_of
from pyrel.experiment.problem import HIGH, LOW
from pyrel.experiment.reproduce.numbers import table
from pyrel.files.atomic import replacing
from pyrel.metrics import Summary
from pyrel.report.machine import machine_facts
from pyrel.report.words import label

TILE, POINTS = 7, range(0, 49, 4)
FIRST_TILES = 8
RADIUS, DRAWS = 0.1, 10  # of the noise
LAST = 3  # steps: a quarter of the twelve

# Heading -> measure, in the order of the tables; what is better.
BY_MODEL = {
    "area, most relevant first ↓": "area",
    "area, least relevant first ↑": "area_least",
    "comprehensiveness ↑": "comprehensiveness",
    "sufficiency ↓": "sufficiency",
    "log-odds ↑": "log_odds",
    "noise ↓": "noise",
}
BY_MAP = {
    "share in the majority ↑": "mass",
    "rank accuracy ↑": "rank",
    "entropy": "entropy",
    "Gini index": "gini",
    "last 3 steps, less pixels'": "last",
    "centre, less pixels'": "centre",
}
BY_DIGIT = {"first digit": "digit 0", "second": "digit 1", "third": "digit 2"}
FIRST = {
    "empty tiles": "tiles empty",
    "of the ink": "tiles ink",
    "in the majority": "tiles majority",
}
RANDOMISED = {
    "ranks, output layer": "output ranks",
    "ranks, all layers": "all ranks",
    "cosine, output layer": "output cosine",
    "cosine, all layers": "all cosine",
}

HEAD = """# How methods rank by each measure

All methods on one cell and the same samples, by the measures of `pyrel.metrics`: what each is, and
where it comes from, is in [methods](../methods.md#numbers-that-judge-an-explanation). One model, so
± is the standard error over samples: another seed may order methods that lie close together
otherwise. Written by `scripts/measure_methods.py`."""
MODEL = """## Measures that run the model

Tiles of {tile} × {tile} pixels are replaced by their mean. Area: mean probability of the class over
the curve of tiles replaced. Comprehensiveness and sufficiency: fall of the probability without, and
with only, the most relevant 1 to 50 % of the tiles. Log-odds: their fall without the most relevant
20 %. Noise: largest of {draws} relative changes of the map under noise of at most {radius:g} for
each pixel. ↑ higher, ↓ lower is better. Random order has an area of {random}."""
MAP = """## Measures of maps alone

Share and rank accuracy: of the relevance, and of the most relevant pixels, in the two majority
digits; signed maps are measured by their positive part. Entropy and Gini index tell how spread a
map is; neither is better. The last two tell where in the sequence it lies: share of the last
{last} of {steps} steps, and centre (0 first step, 1 last), both less those of the pixel mass."""
DIGIT = """## By place of the digit

What a digit gets of the relevance in the two majority digits, where it is one of them; pixel mass
is the evidence."""
TILES = """## What the first {count} tiles are

Of the tiles that a map names first: fraction that is empty, and so its own mean; fraction of the
sample's ink; fraction in the majority digits."""
WEIGHTS = """## After weights are randomised

Rank correlation of the sizes of relevance, and cosine of the maps, before and after the output
layer, and all layers, have the weights of an untrained cell. Near 0 where a map depends on what the
model has learned. A map that multiplies by the input is 0 at empty pixels whatever the weights are,
which keeps its ranks alike: there the cosine says more."""
AGREEMENT = """## Agreement between methods

Rank correlation of maps, mean over the samples."""


@dataclass(frozen=True, eq=False)
class Judged:
    """What is judged: a cell and its samples."""

    cell: TrainedCell
    problem: Problem
    x: Any
    y: Any
    relevant: Any
    fitting: Any  # sequences that patterns are fitted to


def main() -> None:
    arguments = parse()
    cell = load_cell(arguments.model)
    problem = cell.problem or Problem.of("mnist-mini", "majority", cell.model.steps)
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
    write(arguments.out, page(judged, found, maps, seconds), found, maps)


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
    parts = 3 * len(names) + 2
    for i, name in enumerate(names):
        told(f"explaining: {name}", 3 * i, parts)
        explain = explainer(judged, judged.cell.model, name)
        maps[name] = relevance_of(explain, judged.x, judged.y)
        told(f"judging: {name}", 3 * i + 1, parts)
        found[name] = of_map(judged, explain.forward, maps[name])
        found[name]["noise"] = noise(judged, explain)
        told(f"randomising: {name}", 3 * i + 2, parts)
        found[name] |= after_randomising(judged, name)
    told("judging: pixels and random order", parts - 2, parts)
    pixels = metrics.pixel_mass_map(judged.x, LOW)
    found[PIXEL_MASS] = of_map(judged, explain.forward, pixels)
    random = metrics.random_degradation(
        explain.forward, judged.x, judged.y, how=tiles(judged), removed=POINTS
    )
    found["random order"] = {"area": Summary.of(random.area_under())}
    return found, maps


def explainer(judged: Judged, model: nn.Module, name: str, **checked: Any) -> pyrel.Explainer:
    """Make the explainer of a method; patterns are those of the model that is explained."""
    graph = pyrel.capture(model, judged.x[:1])
    options = {}
    if name in PATTERNS:
        options = {"patterns": pyrel.patterns.fit(graph, judged.fitting)}
    method = pyrel.methods.get(name, **options)
    return pyrel.Explainer(graph, method=method, low=LOW, high=HIGH, **checked)


def tiles(judged: Judged) -> metrics.Perturbation:
    return metrics.Perturbation(metrics.patch_regions(judged.x.shape[1:], TILE))


def of_map(judged: Judged, forward: Any, relevance: Any) -> dict[str, Summary]:
    x, y, how = judged.x, judged.y, tiles(judged)

    def area(order: Any) -> Any:
        curve = metrics.degradation(forward, x, relevance, y, how=how, removed=POINTS, order=order)
        return curve.area_under()

    values = {
        "area": area("most_relevant"),
        "area_least": area("least_relevant"),
        "comprehensiveness": metrics.comprehensiveness(forward, x, relevance, y, how=how),
        "sufficiency": metrics.sufficiency(forward, x, relevance, y, how=how),
        "log_odds": metrics.log_odds(forward, x, relevance, y, how=how),
        "mass": metrics.relevance_mass_accuracy(relevance, judged.relevant),
        "rank": metrics.relevance_rank_accuracy(relevance, judged.relevant),
        "entropy": metrics.entropy(relevance),
        "gini": metrics.gini(relevance),
    }
    return {name: Summary.of(each) for name, each in (*values.items(), *places(judged, relevance))}


def places(judged: Judged, relevance: Any) -> Iterator[tuple[str, Any]]:
    """Yield where in the sequence relevance lies, and what the first tiles are."""
    shares = metrics.step_shares(relevance)
    mass = metrics.step_shares(metrics.pixel_mass_map(judged.x, LOW))
    last, centre = metrics.last_steps_share, metrics.centre_of_relevance
    yield "last", last(shares, LAST) - last(mass, LAST)
    yield "centre", centre(shares) - centre(mass)
    for part in metrics.position_shares(shares, mass, judged.relevant, parts=3):
        yield f"digit {part.position}", part.relevance.values
    labels = tiles(judged).regions.labels.reshape(-1)
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


def noise(judged: Judged, explain: pyrel.Explainer) -> Summary:
    moved = metrics.Noise(RADIUS, DRAWS, LOW, HIGH)
    return Summary.of(metrics.noise_sensitivity(explain, judged.x, judged.y, moved))


def after_randomising(judged: Judged, name: str) -> dict[str, Summary]:
    model, problem = judged.cell.model, judged.problem
    layers = randomisation_check(
        model,
        lambda: new_cell(type(model).__name__, problem, seed=1, sizes=model.sizes).eval(),
        lambda changed: explainer(judged, changed, name, check=None),
        judged.x,
        judged.y,
    )
    ends = {"output": layers[0], "all": layers[-1]}
    ranks = {f"{name} ranks": each.absolute_rank for name, each in ends.items()}
    return ranks | {f"{name} cosine": each.cosine for name, each in ends.items()}


def page(
    judged: Judged,
    found: Mapping[str, Mapping[str, Summary]],
    maps: Mapping[str, Any],
    seconds: float,
) -> str:
    samples, steps = judged.x.shape[:2]
    machine = machine_facts(1)["processor"]
    classified = pyrel.training.evaluate(judged.cell.model, judged.x, judged.y).accuracy
    cost = (
        f"{judged.cell.name} on {judged.problem.dataset}, {steps} steps, "
        f"{100 * classified:.1f} % of the first {samples:,} test sequences classified correctly; "
        f"options by default, patterns fitted to {len(judged.fitting):,} training sequences. "
        f"{seconds / 60:.1f} minutes of CPU time ({machine})."
    )
    texts = {
        MODEL.format(
            tile=TILE, draws=DRAWS, radius=RADIUS, random=found["random order"]["area"]
        ): BY_MODEL,
        MAP.format(last=LAST, steps=steps): BY_MAP,
        DIGIT: BY_DIGIT,
        TILES.format(count=FIRST_TILES): FIRST,
        WEIGHTS: RANDOMISED,
    }
    parts = [HEAD, cost]
    for text, columns in texts.items():
        parts += [text, _rows(found, columns)]
    return "\n\n".join([*parts, AGREEMENT, _agreement(maps)])


def _rows(found: Mapping[str, Mapping[str, Summary]], columns: Mapping[str, str]) -> str:
    rows = [
        [label(name), *(str(of.get(measure, "–")) for measure in columns.values())]
        for name, of in found.items()
        if any(measure in of for measure in columns.values()) and name != "random order"
    ]
    return table(["map", *columns], rows)


def _agreement(maps: Mapping[str, Any]) -> str:
    pairs = metrics.agreement(maps, "rank")
    names = list(maps)
    rows = []
    for i, name in enumerate(names[1:], 1):
        found = [pairs.get((other, name)) or pairs[name, other] for other in names[:i]]
        rows.append([label(name), *(f"{each.mean:+.2f}" for each in found)])
    filled = [[*row, *[""] * (len(names) - len(row))] for row in rows]
    return table(["", *map(label, names[:-1])], filled)


def write(
    out: Path, text: str, found: Mapping[str, Mapping[str, Summary]], maps: Mapping[str, Any]
) -> None:
    """Write the page and its numbers, both or none."""
    numbers = {
        "measures": {
            name: {measure: each.to_dict() for measure, each in of.items()}
            for name, of in found.items()
        },
        "agreement": {
            " – ".join(pair): each.to_dict() for pair, each in metrics.agreement(maps).items()
        },
    }
    (out / "measures").mkdir(parents=True, exist_ok=True)
    places = out / "measures.md", out / "measures" / "numbers.json"
    with replacing(*places) as files:
        files[0].write(f"{text}\n".encode())
        files[1].write((json.dumps(numbers, indent=1) + "\n").encode())
    print(f"Wrote {places[0]}")


if __name__ == "__main__":
    main()
