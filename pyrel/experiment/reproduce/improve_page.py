# SPDX-License-Identifier: Apache-2.0
"""The page of experiment 3: variants of Deep, LeNet's heatmaps, Adam against gradient descent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrel.experiment.problem import Problem
from pyrel.experiment.reproduce import lenet_runs, majority_runs
from pyrel.experiment.reproduce.experiment import Page, Settings
from pyrel.experiment.reproduce.majority_page import (
    TITLES,
    accuracy,
    cost,
    differences_from,
    heatmaps,
    in_json,
    left_out,
    measures,
    measures_table,
)
from pyrel.experiment.reproduce.majority_places import places_section, shares_by_place
from pyrel.experiment.reproduce.majority_runs import MEASURES, METHODS, PICTURES, Variant
from pyrel.experiment.reproduce.numbers import Interval, table
from pyrel.experiment.reproduce.runs import Kept, clock
from pyrel.report import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Kept]
Variants = Sequence[Variant]

_HEAD = """# What improves the explanations

Experiment 3 of the thesis (section 4.6): stationary dropout (one mask for all steps of a
sequence), gating units (R-LSTM), literal connections (ConvDeep⁺), and their combinations, on the
majority problem of experiment 2; the talk judges its cells by the cosines. Written by
`pyrel reproduce improve`. The thesis's draft has no numbers for it and claims nothing of how it
came out; the talk's text has an accuracy of 98 % on MNIST and 89 % on Fashion-MNIST for all its
cells, and no cosines."""

_LENET = """## LeNet at several dropout rates

Figure 4.15 of the thesis, and its remark (section 4.3) that heatmaps of nets trained by Adam are
less noisy than those of other optimisers. "Outside": share of the positive relevance on empty
pixels. "Variation": Σ|R_i − R_j| over neighbouring pixels, by ΣR. Both: less is less noisy."""
# Figures: the first proposals beside the first variant, then the rest beside it.
_IN_A_FIGURE = 5


def page(results: Results, variants: Variants, settings: Settings) -> Page:
    """Return the page."""
    figures: dict[str, Figure] = {}
    sections, numbers = [], {}
    cells = {name: kept for name, kept in results.items() if "-LeNet-" not in name}
    for dataset in majority_runs.datasets(settings):
        measured = measures(cells, variants, dataset, settings)
        numbers[dataset] = in_json(measured)
        for name, group in _groups(variants):
            drawn = heatmaps(cells, group, dataset, settings)
            figures |= {f"{key}{name}": figure for key, figure in drawn.items()}
        sections.append(_section(cells, variants, dataset, settings, measured))
    lenet = {name: kept for name, kept in results.items() if "-LeNet-" in name}
    lenet_parts = [_LENET, _lenet_cost(lenet, settings.of_short)]
    for dataset in majority_runs.datasets(settings):
        lenet_parts += [f"### {dataset}", _lenet_table(lenet, dataset, settings.of_short)]
        figures |= _lenet_figures(lenet, dataset, settings)
    pictures = [f"![{name}](improve/{name}.svg)" for name in figures]
    text = "\n\n".join([_HEAD, cost(cells, settings), *sections, *lenet_parts, *pictures])
    return Page(text, figures, numbers)


def _groups(variants: Variants) -> Iterator[tuple[str, Variants]]:
    """Yield what each figure shows, and what its name ends with."""
    yield "", variants[:_IN_A_FIGURE]
    if rest := variants[_IN_A_FIGURE:]:
        yield "-combined", [variants[0], *rest]


def _section(
    results: Results,
    variants: Variants,
    dataset: str,
    settings: Settings,
    measured: Mapping[str, Mapping[str, Mapping[str, Interval]]],
) -> str:
    shares = measured["share"]
    rows = []
    for variant in variants:
        first = majority_runs.of_seeds(results, variant, dataset, settings)[0]
        told = accuracy(results, variant, dataset, settings).percent()
        row = [variant.label, f"{first['parameters']:,}", first["epochs"], told]
        rows.append([*row, *(shares[variant.label][m] for m in METHODS)])
    baselines = [label for label in shares if label not in {v.label for v in variants}]
    rows += [[label, "", "", "", *(shares[label][m] for m in METHODS)] for label in baselines]
    labels = [words.label(m) for m in METHODS]
    runs = {v.label: majority_runs.of_seeds(results, v, dataset, settings) for v in variants}
    return "\n\n".join(
        [
            f"## {dataset}",
            f"{TITLES['share']}.",
            table(["cell", "parameters", "epochs", "accuracy", *labels], rows),
            left_out(runs),
            'Difference from Deep, paired by seed: mean and 95 % interval; "open" where the '
            "interval holds 0.",
            differences_from(results, variants[0], variants[1:], dataset, settings),
            places_section(shares_by_place(runs)),
            *(f"{TITLES[m]}.\n\n{measures_table(measured[m])}" for m in MEASURES if m != "share"),
        ]
    )


def _lenet_cost(results: Results, settings: Settings) -> str:
    """Say how often the nets were trained, and for how long."""
    runs = [*results.values()]
    explained = runs[0].numbers["samples"]
    of = [run.settings["training"] for run in runs]
    rates = {config["optimizer"]: f"{config['learning_rate']:g}" for config in of}
    momentum = next(config["momentum"] for config in of if config["optimizer"] == "sgd")
    return (
        f"{settings.counted()} each: {len(runs)} trainings, {clock(runs)}. {of[0]['epochs']} "
        f"epochs of batches of {of[0]['batch_size']}, one-cycle to a learning rate of "
        f"{rates['adam']} with Adam and {rates['sgd']} with gradient descent (SGD, momentum "
        f"{momentum:g}); the two rates are not tuned. The true class of {explained:,} test images "
        'is explained; ± and "open" as above; the last rows are differences, paired by seed.'
    )


def _lenet_table(results: Results, dataset: str, settings: Settings) -> str:
    nets = lenet_runs.settings_of(settings)
    runs = {
        net: [
            results[lenet_runs.name(dataset, *net, seed)].numbers for seed in range(settings.seeds)
        ]
        for net in nets
    }
    columns = [(m, what) for m in PICTURES for what in ("outside", "variation")]
    rows = [
        [optimizer, f"{rate:g}", Interval.of([r["accuracy"] for r in of_net]).percent(),
         *(Interval.of([r["noise"][m][what] for r in of_net]) for m, what in columns)]
        for (optimizer, rate), of_net in runs.items()
    ]  # fmt: skip
    compared: list[tuple[str, str, lenet_runs.Net, lenet_runs.Net]] = [
        ("adam", f"{nets[-2][1]:g} − 0", nets[0], nets[-2]),
        ("adam − sgd", f"{nets[-1][1]:g}", nets[-1], ("adam", nets[-1][1])),
    ]
    for optimizers, rates, before, after in compared:
        differences = [
            Interval.of_differences(
                *([run["noise"][m][what] for run in runs[net]] for net in (after, before))
            ).difference("more", "less")
            for m, what in columns
        ]
        rows.append([optimizers, rates, "", *differences])
    headings = [f"{words.label(m)}: {what}" for m, what in columns]
    return table(["optimiser", "dropout", "accuracy", *headings], rows)


def _lenet_figures(results: Results, dataset: str, settings: Settings) -> dict[str, Figure]:
    from pyrel.plots import HeatmapColumn, heatmap_grid

    names = Problem(dataset, "sequence", 1).class_names
    kept = {
        f"{optimizer}, dropout {rate:g}": results[
            lenet_runs.name(dataset, optimizer, rate, 0)
        ].arrays
        for optimizer, rate in lenet_runs.settings_of(settings)
    }
    pictures = next(iter(kept.values()))["x"] / 255
    found = {}
    for method in PICTURES:
        columns = [
            HeatmapColumn(
                names[c],
                pictures[i],
                {label: arrays[method][i].astype(np.float32) for label, arrays in kept.items()},
            )
            for i, c in enumerate(settings.shown(lenet_runs.SHOWN))
        ]
        title = f"LeNet, {words.label(method)}, {dataset}, seed 0"
        found[f"{dataset}-lenet-{method}"] = heatmap_grid(columns, title)
    return found
