# SPDX-License-Identifier: Apache-2.0
"""The page of experiment 1: table 4.5 and figures 4.7 to 4.10 of the thesis."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pyrel.experiment.problem import Problem
from pyrel.experiment.reproduce.claims import Claim, claims_section
from pyrel.experiment.reproduce.experiment import Page, Settings
from pyrel.experiment.reproduce.numbers import Interval, by_seed, table
from pyrel.experiment.reproduce.runs import Kept, clock
from pyrel.experiment.reproduce.sequence_claims import (
    CRITERIA,
    LAST,
    between_cells,
    claims,
    distances,
    profiles,
)
from pyrel.experiment.reproduce.trained import MINIMUM
from pyrel.metrics import StepProfile

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CELLS = ("Shallow", "Deep")
_METHODS = {
    "sensitivity": "sensitivity",
    "guided_backprop": "guided backprop",
    "deep_taylor": "deep Taylor",
}
SHOWN = (0, 1, 5, 9)  # classes of the heatmaps of all cells
EVIDENCE = 1  # class 1 of MNIST, trouser of Fashion-MNIST: what decides stands in the middle

Results = Mapping[str, Kept]


def steps_of(settings: Settings) -> tuple[int, ...]:
    """Return the numbers of steps: those of the thesis, the ends of them for the quick way."""
    return (1, 7) if settings.quick else (1, 4, 7)


def page(results: Results, datasets: Sequence[str], settings: Settings) -> Page:
    """Return the page."""
    accuracy, shares = _accuracies(results, datasets, settings), {}
    decided = {dataset: _claims(results, dataset, settings) for dataset in datasets}
    figures: dict[str, Figure] = {}
    sections = []
    for dataset in datasets:
        shares[dataset] = _shares(results, dataset, settings)
        figures |= _figures(results, dataset, settings, shares[dataset])
        sections.append(_section(dataset, shares[dataset], results, settings))
    parts = [_HEAD, _cost(results, settings), _table(accuracy, steps_of(settings)), _AFTER]
    text = "\n\n".join([*parts, claims_section(decided, CRITERIA, "thesis"), _UNDECIDED, *sections])
    told = {name: {key: vars(value) for key, value in of.items()} for name, of in accuracy.items()}
    verdicts = {name: [claim.in_json() for claim in of] for name, of in decided.items()}
    return Page(text, figures, {"accuracy": told, "claims": verdicts, "shares": shares})


_HEAD = """# Sequence classification: Shallow and Deep on T = 1, 4, 7

Experiment 1 of the thesis (section 4.4). An image is cut by columns into T strips; a cell reads
one strip a step and names the class after the last. Cells and sizes are those of figure 4.5.
Written by `pyrel reproduce sequence`."""

_AFTER = """Fraction of the test images classified correctly, and its 95 % interval over the seeds
(Student's t). The thesis's draft has no numbers in its table 4.5 ("xx.xx%"). A cell below the
minimum of table 4.3 is trained anew for twice the epochs."""

_UNDECIDED = """Not decided, all in 4.4.2: that maps of sensitivity and guided backprop are sparse,
of Deep on Fashion-MNIST a little more than of Shallow, and those of deep Taylor are not; that maps
of Shallow-1 and Deep-1 look alike; that deep Taylor of Deep-4 and Deep-7 lies too late on
Fashion-MNIST, but for samples such as the trouser. The runs keep maps of a few samples of seed 0
only; the figures below show them, and a table how far to the right those of deep Taylor lie."""

_TO_THE_RIGHT = """Deep Taylor, seed 0: mean column of the relevance less that of the pixels, for
the sample of each class in these figures. One sample of a class decides nothing."""


def _name(dataset: str, cell: str, steps: int, seed: int) -> str:
    return f"{dataset}-{cell}-{steps}-seed-{seed}"


def _of_seeds(results: Results, dataset: str, cell: str, steps: int, settings: Settings) -> Any:
    names = [_name(dataset, cell, steps, seed) for seed in range(settings.seeds)]
    return [results[name].numbers for name in names]


def _accuracies(
    results: Results, datasets: Sequence[str], settings: Settings
) -> dict[str, dict[str, Interval]]:
    return {
        dataset: {
            f"{cell}-{steps}": Interval.of(
                [run["accuracy"] for run in _of_seeds(results, dataset, cell, steps, settings)]
            )
            for steps in steps_of(settings)
            for cell in CELLS
        }
        for dataset in datasets
    }


def _table(accuracy: Mapping[str, Mapping[str, Interval]], all_steps: Sequence[int]) -> str:
    rows = [
        [dataset, steps, *(of[f"{cell}-{steps}"].percent() for cell in CELLS), minimum]
        for dataset, of in accuracy.items()
        for minimum in [f"{100 * MINIMUM[dataset]:.0f} %" if dataset in MINIMUM else "none"]
        for steps in all_steps
    ]
    return table(["data", "T", *CELLS, "minimum"], rows)


def _cost(results: Results, settings: Settings) -> str:
    runs = [*results.values()]
    epochs = sorted({run.numbers["epochs"] for run in runs})
    return (
        f"{settings.counted()} each, {len(runs)} trainings of {' or '.join(map(str, epochs))} "
        f"epochs, {clock(runs)}. Recipe: "
        "that of [majority samples](majority-mnist.md), one-cycle to a learning rate of 0.002, "
        "batches of 100, dropout 0.3 (Shallow none); the last epoch's weights. The thesis trains "
        "for 200 epochs with dropout 0.5."
    )


def _claims(results: Results, dataset: str, settings: Settings) -> list[Claim]:
    runs = {
        (cell, steps): _of_seeds(results, dataset, cell, steps, settings)
        for cell in CELLS
        for steps in steps_of(settings)
    }
    return claims(dataset, runs)


def _shares(results: Results, dataset: str, settings: Settings) -> dict[str, Any]:
    """Return, by cell, what deep Taylor gives to each step of T = 7, over seeds."""
    steps, found = steps_of(settings)[-1], {}
    for cell in CELLS:
        runs = _of_seeds(results, dataset, cell, steps, settings)
        mass = np.array(runs[0]["pixel mass"]["mean"])
        found[cell] = {"pixel mass": mass.tolist()}
        for method in _METHODS:
            of = profiles(runs, method)
            each = [Interval.of(column) for column in of.T]
            found[cell][method] = {
                "mean": [i.mean for i in each],
                "half": [i.half if len(runs) > 1 else 0.0 for i in each],
                "last three": vars(Interval.of(of[:, -LAST:].sum(axis=1))),
                "distance": vars(Interval.of(distances(of, mass).tolist())),
                "left out": [run["shares"][method]["left out"] for run in runs],
            }
    return found


def _section(dataset: str, shares: Mapping[str, Any], results: Results, settings: Settings) -> str:
    steps, what = steps_of(settings)[-1], _evidence(dataset)
    rows = [
        [f"{cell}-{steps}", _METHODS[method], Interval(**of["last three"]).percent(),
         Interval(**of["distance"]), by_seed(of["left out"])]
        for cell in CELLS
        for method, of in shares[cell].items()
        if method in _METHODS
    ]  # fmt: skip
    mass = sum(shares[CELLS[0]]["pixel mass"][-LAST:])
    even = LAST / steps
    of_cells = [_of_seeds(results, dataset, cell, steps, settings) for cell in CELLS]
    samples = of_cells[0][0]["pixel mass"]["samples"]
    apart = (
        f"{label} {Interval.of(between_cells(of_cells[0], of_cells[1], m))}"
        for m, label in _METHODS.items()
    )
    heads = ["cell", "method", "share of the last three steps", "distance from pixel mass"]
    grid = "4.8" if dataset == "fashion-mnist" else "4.7"
    pictures = (
        f"![{label} on {dataset}, all cells](sequence/{dataset}-{method}.svg)"
        for method, label in _METHODS.items()
    )
    return "\n\n".join(
        [
            f"## {dataset}",
            f"Where the relevance of {what} goes, over {samples:,} test samples "
            f"(T = {steps}; the true class is explained; samples without positive relevance are "
            f"left out, and counted by seed). Pixel mass has {100 * mass:.1f} % in the last three "
            f"steps, an even map {100 * even:.1f} %.",
            table([*heads, "left out"], rows),
            f"Distance of Shallow-{steps} from Deep-{steps}: {', '.join(apart)}.",
            "Figure 4.10 of the thesis, deep Taylor by step:",
            f"![Share by step, {dataset}](sequence/{dataset}-steps.svg)",
            "Figure 4.9:",
            f"![{what}, deep Taylor](sequence/{dataset}-evidence.svg)",
            f"Figure {grid}, a figure for each method:",
            *pictures,
            _TO_THE_RIGHT,
            _to_the_right(dataset, results, settings),
        ]
    )


def _to_the_right(dataset: str, results: Results, settings: Settings) -> str:
    names = Problem(dataset, "sequence", 1).class_names
    columns = {}
    for cell, steps in itertools.product(CELLS, steps_of(settings)[1:]):
        arrays = results[_name(dataset, cell, steps, 0)].arrays
        relevance, pixels = (
            _mean_column(arrays[name][: len(SHOWN)]) for name in ("deep_taylor", "x")
        )
        columns[f"{cell}-{steps}"] = relevance - pixels
    rows = [[names[c], *(f"{of[i]:+.1f}" for of in columns.values())] for i, c in enumerate(SHOWN)]
    return table(["class", *columns], rows)


def _mean_column(maps: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """Return the mean column of maps (n, height, width) without negative values; NaN if empty."""
    mass = maps.sum(axis=1, dtype=np.float64)
    whole = mass.sum(axis=1)
    moment = mass @ np.arange(mass.shape[1])
    found: npt.NDArray[np.float64] = np.full(len(maps), np.nan)
    np.divide(moment, whole, out=found, where=whole > 0)
    return found


def _evidence(dataset: str) -> str:
    return "the class trouser" if dataset == "fashion-mnist" else "class 1"


def _figures(
    results: Results, dataset: str, settings: Settings, shares: Mapping[str, Any]
) -> dict[str, Figure]:
    from pyrel.plots import HeatmapColumn, heatmap_grid, step_bars

    def kept(cell: str, steps: int) -> Kept:
        return results[_name(dataset, cell, steps, 0)]

    pictures = kept(CELLS[0], 1).arrays["x"][:, None] / 255
    names = Problem(dataset, "sequence", 1).class_names
    figures = {}
    for method, label in _METHODS.items():
        columns = [
            HeatmapColumn(
                names[c],
                pictures[i],
                {
                    f"{cell}-{steps}": kept(cell, steps).arrays[method][i, None].astype(np.float32)
                    for steps in steps_of(settings)
                    for cell in CELLS
                },
            )
            for i, c in enumerate(settings.shown(SHOWN))
        ]
        figures[f"{dataset}-{method}"] = heatmap_grid(columns, f"{label}, {dataset}, seed 0")
    of_class = settings.shown([SHOWN.index(EVIDENCE), *range(len(SHOWN), len(pictures))])
    columns = [
        HeatmapColumn(
            names[EVIDENCE],
            pictures[i],
            {
                f"{cell}-7": kept(cell, 7).arrays["deep_taylor"][i, None].astype(np.float32)
                for cell in CELLS
            },
        )
        for i in of_class
    ]
    figures[f"{dataset}-evidence"] = heatmap_grid(
        columns, f"Deep Taylor, {names[EVIDENCE]}, seed 0"
    )
    seeds = {cell: _of_seeds(results, dataset, cell, 7, settings) for cell in CELLS}
    mass = _profile([seeds[CELLS[0]][0]["pixel mass"]], shares[CELLS[0]]["pixel mass"])
    profiles = {
        f"{cell}-7": [
            _profile(
                [run["shares"]["deep_taylor"] for run in runs],
                shares[cell]["deep_taylor"]["mean"],
                shares[cell]["deep_taylor"]["half"],
            )
        ]
        for cell, runs in seeds.items()
    }
    title = f"Deep Taylor relevance by step, {_evidence(dataset)} of {dataset}"
    figures[f"{dataset}-steps"] = step_bars(
        profiles,
        [mass],
        f"{title}, {settings.counted().lower()}",
        errors="95 % interval over seeds",
    )
    return figures


def _profile(
    runs: Sequence[Mapping[str, Any]], mean: Sequence[float], half: Sequence[float] | None = None
) -> StepProfile:
    """Return the mean over the maps of all runs, of which none has marked steps."""
    errors = np.full(len(mean), np.nan) if half is None else np.array(half)
    used, left_out = (sum(run[name] for run in runs) for name in ("samples", "left out"))
    return StepProfile(np.zeros(len(mean), np.bool_), np.array(mean), errors, used, left_out)
