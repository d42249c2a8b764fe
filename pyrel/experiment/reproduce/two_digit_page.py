# SPDX-License-Identifier: Apache-2.0
"""The page of the two-digit experiment: figures 5 and 6 and table 1 of the deep Taylor paper."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pyrel.experiment.reproduce.claims import Claim, claims_section
from pyrel.experiment.reproduce.experiment import Page, Settings
from pyrel.experiment.reproduce.numbers import Interval, table
from pyrel.experiment.reproduce.runs import Kept, clock
from pyrel.experiment.two_digit import METHODS
from pyrel.metrics import RelevanceHistogram

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELS = {
    "sensitivity": "sensitivity",
    "nearest_root": "Taylor, nearest root",
    "nearest_smooth_root": "Taylor, root of smooth units",
    "deep_taylor_minmax": "deep Taylor, min-max",
    "deep_taylor": "deep Taylor, training-free",
}
_IN_A_FIGURE = 4
# Table 1: conservative, positive, consistent; unique solution, training-free, fast computation.
_CLAIMED = {
    "sensitivity": ("no", "yes", "no", "yes", "yes", "yes"),
    "nearest_root": ("no", "see ᵇ", "no", "no ᶜ", "yes", "no"),
    "nearest_smooth_root": ("no", "yes ᵇ", "no", "no ᶜ", "yes", "no"),
    "deep_taylor_minmax": ("yes ᵃ", "yes", "yes ᵃ", "no ᶜ", "no", "yes"),
    "deep_taylor": ("yes", "yes", "yes", "yes", "yes", "yes"),
}

Results = Mapping[str, Kept]


def page(results: Results, settings: Settings) -> Page:
    """Return the page."""
    kept = [results[f"seed-{seed}"] for seed in range(settings.seeds)]
    runs = [one.numbers for one in kept]
    decided = _claims(runs)
    text = "\n\n".join(
        [
            _head(kept, settings),
            _network(runs),
            "## Conservation (figure 6, top)",
            _conservation(runs),
            _CONSERVATION,
            "![Sum of relevance against output](two-digit/conservation.svg)",
            "## Positivity (figure 6, bottom)",
            "![How often relevance takes which value](two-digit/histograms.svg)",
            "## Properties (table 1)",
            _properties(runs),
            _properties_after(kept[0].settings),
            _by_construction(runs),
            "## Where the relevance goes",
            _shares(runs),
            _shares_after(runs),
            claims_section({"MNIST": decided}, _CRITERIA, "paper"),
            "## Heatmaps (figure 5)",
            _HEATMAPS,
            *(f"![Heatmaps](two-digit/heatmaps-{i + 1}.svg)" for i in range(_rows(kept[0]))),
        ]
    )
    return Page(
        text, _figures(kept[0]), {"runs": runs, "claims": [claim.in_json() for claim in decided]}
    )


def _head(kept: Sequence[Kept], settings: Settings) -> str:
    config = kept[0].settings["training"]
    (units, pools), (above, _) = config["layers"]
    return f"""# Is one of two digits a 0, 1, 2 or 3?

Section 6.1 of Montavon et al. 2017, by `pyrel reproduce two-digit`. A network of {units} detection
units, sum-pooled by {units // pools} to {pools}, and {above} sum-pooled to one output reads two
MNIST digits side by side, drawn at random and moved by up to {config["shift"]} pixels in training;
pixels lie in [−0.5, 1.5], targets are 100 and 0, the error is squared. Weights start from N(0,
0.05), biases from 0 and stay at or below it; stochastic gradient descent, batches of
{config["batch_size"]}. The min-max relevance model of the first layer learns from the same batches,
{units // pools} units for each pool.

The paper trains for 300,000 iterations with "a small learning rate"; this is
{config["iterations"]:,} iterations with {config["learning_rate"]:g} for the network and
{config["model_learning_rate"]:g} for the relevance model, what a core does in some minutes. Neither
the largest translation nor the share of positive pairs is in the paper: here both digits are drawn
independently, so that about 64 % are positive. {settings.counted()}, one thread, beside other work:
{clock(kept)}. All is measured on the same {kept[0].settings["samples"]:,} pairs of test digits,
which are not moved."""


def _network(runs: Sequence[Mapping[str, Any]]) -> str:
    rows: list[list[object]] = [
        ["pairs on the right side of 50", _of(runs, "correct").percent()],
        ["root mean square error of f (targets 0 and 100)", _of(runs, "rmse")],
        ["root mean square error of R̂ₖ", _of(runs, "model rmse")],
        ["root mean square of Rₖ, what R̂ₖ = 0 would be off by", _of(runs, "relevance rms")],
    ]
    return table(["network and relevance model", "mean, and 95 % interval over seeds"], rows)


def _of(runs: Sequence[Mapping[str, Any]], *path: str) -> Interval:
    """Return the interval of a number of the runs that have it."""
    values: list[Any] = []
    for run in runs:
        value: Any = run
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        values.append(value)
    return Interval.of(values)


def _methods_table(
    runs: Sequence[Mapping[str, Any]], columns: Mapping[str, Callable[[str], object]]
) -> str:
    rows = [[LABELS[name], *(make(name) for make in columns.values())] for name in METHODS]
    return table(["method", *columns], rows)


def _conservation(runs: Sequence[Mapping[str, Any]]) -> str:
    def fit(key: str) -> Callable[[str], object]:
        return lambda name: _of(runs, "methods", name, "conservation", key)

    return _methods_table(
        runs,
        {
            "median of abs(ΣR − f) / f": fit("median_error"),
            "slope of ΣR on f": fit("slope"),
            "correlation of ΣR and f": fit("correlation"),
            "largest error": lambda name: f"{_of(runs, 'methods', name, 'largest error').mean:.2g}",
            "maps found": lambda name: _of(runs, "methods", name, "found").percent(),
        },
    )


_CONSERVATION = """The first three over positive pairs with f > 0; the largest error is
abs(ΣR − f) / max(f, Σ abs(R)) over all pairs. The paper shows this as scatter plots without
numbers. Sensitivity has another unit than f: its slope says nothing, its correlation does. The
search for a root aims at f(ξ) < 0.1 f(x), so Taylor decomposition has at most about 90 % to hand
out; at a root of smooth units what it hands out is of the smooth network's output, while f is that
of the network."""


def _properties_after(settings: Mapping[str, Any]) -> str:
    steps = settings["search"]["sharpness"]
    sharpness, off = steps[-1], math.log(2) / steps[-1]
    return f"""Fraction of pairs whose map has the property to 10⁻⁵ (Definitions 1 to 3), and what
table 1 of the paper says. ᵃ Up to the error of the relevance model. ᵇ With the differentiable
log(0.5 + 0.5 exp(tz)) / t for max(0, z), t → ∞: roots of smooth units are searched for {len(steps)}
growing t, each from that of the one before. The rows show the last, t = {sharpness:g}, where no
unit is off by more than {off:.2g}. Of a smooth function nothing would be below zero at the nearest
root, which the search comes near to; for the network as it is that does not hold. "Below zero" is
Σ max(0, −R) / Σ abs(R) over all pairs; one element is enough for a map that is not positive. "Empty
at f = 0" is the fraction of pairs with f = 0 whose map is empty, which consistency forces. The
other half of table 1 follows from how a method works; time is that of one core for each pair. ᶜ The
search, or the training of the relevance model, may end in another solution."""


_HEATMAPS = """The first positive test pairs, seed 0. The colours of each map go to its own largest
relevance."""


def _properties(runs: Sequence[Mapping[str, Any]]) -> str:
    def column(key: str, place: int) -> Callable[[str], object]:
        def cell(name: str) -> str:
            return f"{_of(runs, 'methods', name, key).percent()} ({_CLAIMED[name][place]})"

        return cell

    def empty(name: str) -> str:
        interval = _of(runs, "methods", name, "empty at zero")
        return interval.percent() if interval.runs else "no such pair"

    return _methods_table(
        runs,
        {
            "conservative (paper)": column("conservative", 0),
            "positive (paper)": column("positive", 1),
            "consistent (paper)": column("consistent", 2),
            "below zero": lambda name: _of(runs, "methods", name, "against").percent(),
            "empty at f = 0": empty,
        },
    )


def _by_construction(runs: Sequence[Mapping[str, Any]]) -> str:
    def column(place: int) -> Callable[[str], object]:
        return lambda name: _CLAIMED[name][place]

    def time(name: str) -> str:
        milliseconds = 1e3 * _of(runs, "methods", name, "seconds").mean
        return f"{milliseconds:.0f} ms" if milliseconds >= 1 else f"{milliseconds:.2g} ms"

    return _methods_table(
        runs,
        {
            "unique solution": column(3),
            "training-free": column(4),
            "fast computation": column(5),
            "time": time,
        },
    )


def _shares(runs: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [LABELS[name], _of(runs, "methods", name, "wanted digit", "mean").percent()]
        for name in METHODS
    ]
    mass = _of(runs, "baselines", "pixel mass", "mean")
    rows += [["pixel mass", f"{100 * mass.mean:.2f} %"], ["even map", "50.00 %"]]
    return table(["map", "share of the wanted digit"], rows)


def _shares_after(runs: Sequence[Mapping[str, Any]]) -> str:
    of = runs[0]["baselines"]["pixel mass"]
    return (
        f"Σ max(0, R) in the half of the wanted digit, over the {of['samples']} pairs with one "
        "wanted digit (maps without relevance left out). The paper says that most of it is there "
        "in all cases; it has no number."
    )


_CRITERIA = """Compared are shares of the wanted digit, and 1 − the slope of ΣR on f. This network
is that of the paper; its training is shorter, and the pairs are drawn by us. The training-free
relevance model is said to be fully conservative: see above. That of the min-max model is said to be
near-conservative, without a bound: see its median error."""


def _claims(runs: Sequence[Mapping[str, Any]]) -> list[Claim]:
    """Return what section 6.1 of the paper says in words."""

    def each(name: str, *path: str) -> list[float]:
        values: list[Any] = [run["methods"][name] for run in runs]
        for key in path:
            values = [value[key] for value in values]
        return values

    def wanted(name: str) -> list[float]:
        return each(name, "wanted digit", "mean")

    def ahead(name: str) -> Claim:
        measured = {
            f"share − that of {LABELS[other]}": Interval.of_differences(wanted(name), wanted(other))
            for other in ("sensitivity", "nearest_root")
        }
        return Claim(f"{LABELS[name]}: less affected by the distractor digit", "6.1", measured)

    lost = Interval.of([1 - slope for slope in each("nearest_root", "conservation", "slope")])
    return [
        ahead("deep_taylor"),
        ahead("deep_taylor_minmax"),
        Claim("Taylor, nearest root, dissipates relevance", "6.1", {"1 − slope": lost}),
    ]


def _rows(kept: Kept) -> int:
    return -(-len(kept.arrays["x"]) // _IN_A_FIGURE)


def _figures(kept: Kept) -> dict[str, Figure]:
    from pyrel.plots import HeatmapColumn, conservation_scatter, heatmap_grid, relevance_histograms

    arrays = kept.arrays
    output = arrays["output"].astype(np.float64)
    points, histograms = {}, {}
    for name, label in LABELS.items():
        total = arrays[f"sum {name}"]
        found = ~np.isnan(total)
        points[label] = (output[found], total[found])
        counts, edges = arrays[f"counts {name}"], arrays[f"edges {name}"]
        zeros = int(found.sum()) * arrays["x"][0].size - int(counts.sum())
        histograms[label] = RelevanceHistogram(edges, counts, zeros)
    figures = {
        "conservation": conservation_scatter(points, "Sum of relevance against f, seed 0"),
        "histograms": relevance_histograms(histograms, "Values of relevance, seed 0"),
    }
    for row in range(_rows(kept)):
        chosen = range(row * _IN_A_FIGURE, min((row + 1) * _IN_A_FIGURE, len(arrays["x"])))
        columns = [
            HeatmapColumn(
                f"{arrays['digits'][i][0]} and {arrays['digits'][i][1]}",
                arrays["x"][i, None].astype(np.float32),
                {
                    label: arrays[f"relevance {name}"][i, None].astype(np.float32)
                    for name, label in LABELS.items()
                },
            )
            for i in chosen
        ]
        figures[f"heatmaps-{row + 1}"] = heatmap_grid(columns)
    return figures
