# SPDX-License-Identifier: Apache-2.0
"""The page of `signal`: figures 2 to 7 of the seminar on PatternNet and PatternAttribution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyrel.experiment.degradation import PIXEL_MASS
from pyrel.experiment.linear_figure import linear_model_figure
from pyrel.experiment.problem import Problem
from pyrel.experiment.reproduce.claims import claims_section
from pyrel.experiment.reproduce.experiment import Page, Settings
from pyrel.experiment.reproduce.linear_page import linear_section
from pyrel.experiment.reproduce.numbers import Interval, table
from pyrel.experiment.reproduce.runs import Kept, clock
from pyrel.experiment.reproduce.signal_claims import CRITERIA, claims
from pyrel.experiment.reproduce.signal_runs import (
    ATTRIBUTIONS,
    BY_GRADIENT,
    BY_RELEVANCE,
    DISTRACTORS,
    LABELS,
    OTHERS,
    PATCH,
    RANDOM,
    REMOVED,
    SHOWN,
    SIGNALS,
    STEPS,
    amounts,
    dataset,
    deep_name,
    linear_name,
    net_name,
)
from pyrel.experiment.reproduce.trained import MINIMUM
from pyrel.metrics import Degradation, Summary
from pyrel.patterns import ESTIMATORS
from pyrel.report import words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Results = Mapping[str, Kept]

_PATTERN = {"signal S_a+−": "PatternNet", "attribution S_a+−": "PatternAttribution"}
_BY_GRADIENT = "Gradients and changed copies"
_BY_RELEVANCE = "Relevance and patterns"
_AFTER = 2  # patches, of which the seminar's text has a number

_HEAD = """# Signal and distractor: how good estimators of the signal are

The seminar on PatternNet and PatternAttribution (Kindermans et al. 2018), figures 2 to 7. A layer's
input is signal, which goes with its output, and distractor, which its weights cancel. Estimators:
S_x (all of the input is signal), S_w (along the weights; that of deconvnet and guided backprop),
S_a (linear), S_a+− (two components: PatternNet and PatternAttribution), and a random direction.
Written by `pyrel reproduce signal`."""

_STANDS_IN = """## What stands in for VGG16 on ImageNet

The source takes VGG16 with weights trained on ImageNet. Neither is to be had here, so a net in the
manner of VGG stands in, `pyrel.nn.VGG`: 3×3 convolutions 16, 16, pool, 32, 32, pool, a dense layer
of 128 and the output, on {data}. The estimators leave biases out; deep Taylor assumes biases of at
most 0, and this net has such. An image has 49 patches of 4×4 pixels; the source has some 600
patches of 9×9 in 224×224. What the source's figures show of ImageNet cannot be confirmed by this,
only what holds on a net of the same kind."""

_RHO = """## ρ(S) by layer (figure 4)

1 where nothing linear of the output is left in what an estimator takes for the distractor. Patterns
are fitted to {half:,} training images, ρ is measured on {half:,} others (the source: the two halves
of ImageNet's training set). Mean over a layer's units, then over seeds. S_x leaves no distractor,
so that its ρ is 1 by definition; what it is worth shows in the curves below. Bound of
S_a: 1 − 1.2 √(2d/n), d the rank of the inputs and n the images of a half; "–" where it is below 0.
Without the factor 1.2 it is what sampling leaves for normal inputs; others have a factor of their
own, [√κ](../methods.md#patternnet-and-patternattribution), which may be as large.
The source's text gives no numbers of its figure; what it says of it is at the end."""

_RECURRENT = """### A recurrent cell

The same of Deep on {data} in {steps} steps of columns, fitted to {half:,} training images and
measured on the other {half:,}: {cost}. A layer has one pattern for all steps; its rows are those of
all steps, n counts the images. `cell` reads what the layer below makes of a step, and the state."""

_CURVES = """## Degradation (figure 5)

The patches that a map names first are replaced by their mean, and the probability of the true class
is followed, on {samples} test images that no net has seen. Area: mean height of the curve over all
{patches} patches, a lower one is better. Random order, {orders} orders an image, is what a uniform
map comes to; pixel mass is the map of the image's brightness, without any network. Differences are
paired by seed; "lower", "higher": the 95 % interval does not hold 0. The source: after 20 patches,
3 % of the image, the probability falls from about 0.72 to 0.59 with S_a+− and by less than 0.01 in
random order; the table has the fall after {after} patches, 4 % of the image."""


def page(results: Results, settings: Settings) -> Page:
    """Return the page."""
    nets = [results[net_name(settings, seed)] for seed in range(settings.seeds)]
    lines = [results[linear_name(seed)].numbers for seed in range(settings.seeds)]
    cells = [results[deep_name(settings, seed)] for seed in range(settings.seeds)]
    decided = claims(nets)
    figures = {"linear-model": linear_model_figure(DISTRACTORS), "quality": _quality_figure(nets)}
    figures |= _map_figures(nets[0], settings) | _curve_figures(nets[0], settings)
    text = "\n\n".join(
        [
            _HEAD,
            linear_section(lines, amounts(settings).draws),
            _STANDS_IN.format(data=dataset(settings)),
            _cost(nets, settings),
            _RHO.format(half=amounts(settings).half),
            _quality_table(nets),
            "![ρ(S) by layer](signal/quality.svg)",
            _recurrent_section(cells, settings),
            _maps_section(settings),
            _curves_section(nets, settings),
            claims_section({dataset(settings): decided}, CRITERIA, "seminar"),
        ]
    )
    numbers = {
        "linear model": lines,
        "accuracy": vars(Interval.of([net.numbers["accuracy"] for net in nets])),
        "quality": [net.numbers["quality"] for net in nets],
        "quality of Deep": [cell.numbers["quality"] for cell in cells],
        "degradation": [net.numbers["degradation"] for net in nets],
        "claims": [claim.in_json() for claim in decided],
    }
    return Page(text, figures, numbers)


def _cost(nets: Sequence[Kept], settings: Settings) -> str:
    longest = max(kept.least_seconds for kept in nets) / 60
    epochs = sorted({kept.numbers["epochs"] for kept in nets})
    accuracy = Interval.of([kept.numbers["accuracy"] for kept in nets])
    minimum = MINIMUM.get(dataset(settings))
    wanted = "no minimum" if minimum is None else f"minimum {100 * minimum:.0f} %"
    return (
        f"{settings.counted()}, {nets[0].numbers['parameters']:,} parameters, "
        f"{' or '.join(map(str, epochs))} epochs; {clock(nets)}, at most {longest:.0f} minutes a "
        f"seed. Classified correctly: {accuracy.percent()} of the test images ({wanted}). "
        "± is half of a 95 % interval over the seeds (Student's t)."
    )


def _recurrent_section(cells: Sequence[Kept], settings: Settings) -> str:
    """Return ρ(S) of the layers of Deep."""
    text = _RECURRENT.format(
        data=dataset(settings),
        steps=STEPS,
        half=amounts(settings).half_of_sequences,
        cost=_trained(cells),
    )
    return f"{text}\n\n{_quality_table(cells)}"


def _trained(kept: Sequence[Kept]) -> str:
    """Say what trainings cost and gave."""
    accuracy = Interval.of([each.numbers["accuracy"] for each in kept])
    correct = f"classified correctly: {accuracy.percent()} of the test images"
    return f"{len(kept)} trainings, {clock(kept)}; {correct}"


def _quality_table(nets: Sequence[Kept]) -> str:
    of_seeds = [net.numbers["quality"] for net in nets]
    rows = []
    for i, layer in enumerate(of_seeds[0]):
        each = [layers[i] for layers in of_seeds]
        values = [Interval.of([one["values"][name] for one in each]) for name in ESTIMATORS]
        bound = max(one["bound"] for one in each)
        held = sum(one["values"]["linear"] >= one["bound"] for one in each)
        told = [f"{bound:.3f}", f"{held} of {len(each)}"] if bound > 0 else ["–", "–"]
        without = max(one["without"] for one in each)
        rows.append([layer["module"], layer["rank"], *values, *told, without])
    labels = [LABELS[name] for name in ESTIMATORS]
    headings = ["layer", "rank", *labels, "bound of S_a", "seeds that meet it", "without pattern"]
    return table(headings, rows)


def _quality_figure(nets: Sequence[Kept]) -> Figure:
    from pyrel.plots import summary_dots

    layers = [layer["module"] for layer in nets[0].numbers["quality"]]
    shown = {
        LABELS[name]: {
            module: Summary.of([net.numbers["quality"][i]["values"][name] for net in nets])
            for i, module in enumerate(layers)
        }
        for name in ESTIMATORS
        if name != "identity"
    }
    return summary_dots(shown, {}, "ρ(S) on held-out images: nothing of the output left at 1")


def _labels(methods: Iterable[str]) -> dict[str, str]:
    return {name: words.label(name) for name in methods}


def _map_figures(net: Kept, settings: Settings) -> dict[str, Figure]:
    """Draw the estimated signals, the attributions, and the other methods (figures 3, 6, 7)."""
    from pyrel.plots import method_panels

    names = Problem(dataset(settings), "sequence", 1).class_names
    arrays = net.arrays
    groups = {
        "signals": ("Estimated signal", {f"signal {label}": label for label in SIGNALS}),
        "attributions": (
            "Attribution",
            {f"attribution {label}": label for label in ATTRIBUTIONS},
        ),
        "by-gradient": (_BY_GRADIENT, _labels(BY_GRADIENT)),
        "by-relevance": (_BY_RELEVANCE, _labels(BY_RELEVANCE) | _PATTERN),
    }
    samples = [(names[c], arrays["x"][i] / 255) for i, c in enumerate(settings.shown(SHOWN))]
    maps = {
        name: list(arrays[f"map {name}"][: len(samples)].astype(np.float32))
        for _, shown in groups.values()
        for name in shown
    }
    return {
        file: method_panels(
            samples,
            {label: maps[name] for name, label in shown.items()},
            title=f"{title}, {dataset(settings)}, seed 0",
        )
        for file, (title, shown) in groups.items()
    }


def _maps_section(settings: Settings) -> str:
    names = Problem(dataset(settings), "sequence", 1).class_names
    shown = ", ".join(names[c] for c in settings.shown(SHOWN))
    return (
        "## Signals and attributions (figures 3, 6 and 7)\n\n"
        f"The first test image of each of these classes, chosen by nothing else: {shown}. The true "
        "class is explained; each map has its own scale. Of S_x the estimated signal is the image. "
        "The source judges by eye: S_x and S_w noisy, S_a coarse, S_a+− clear.\n\n"
        "![Estimated signals](signal/signals.svg)\n\n"
        "![Attributions](signal/attributions.svg)\n\n"
        f"![{_BY_GRADIENT}](signal/by-gradient.svg)\n\n"
        f"![{_BY_RELEVANCE}](signal/by-relevance.svg)"
    )


def _curve_labels() -> dict[str, str]:
    """Return curve -> label: the estimators' attributions, the other methods, pixel mass."""
    return {
        **{f"attribution {label}": label for label in ATTRIBUTIONS},
        "signal S_a+−": _PATTERN["signal S_a+−"],
        **_labels((*OTHERS, PIXEL_MASS)),
    }


def _curves_section(nets: Sequence[Kept], settings: Settings) -> str:
    told = [net.numbers["degradation"] for net in nets]
    after = REMOVED.index(_AFTER)
    rows: list[list[object]] = []
    labels = _curve_labels() | {RANDOM: RANDOM}
    means = {name: float(np.mean([one["area"][name] for one in told])) for name in labels}
    for name in sorted(labels, key=lambda name: means[name]):
        area = [one["area"][name] for one in told]
        fall = [one["curves"][name][0] - one["curves"][name][after] for one in told]
        row: list[object] = [labels[name], Interval.of(area), Interval.of(fall)]
        for other in (RANDOM, "attribution S_a+−"):
            change = Interval.of_differences(area, [one["area"][other] for one in told])
            row.append("–" if name == other else change.difference("higher", "lower"))
        rows.append([*row, max(one["empty"][name] for one in told)])
    how_many = amounts(settings)
    start = Interval.of([one["curves"][RANDOM][0] for one in told])
    head = _CURVES.format(
        samples=told[0]["samples"],
        patches=REMOVED[-1],
        orders=how_many.random_orders,
        after=_AFTER,
    )
    headings = ["map", "area", f"fall after {_AFTER} patches", "area − random order",
                "area − S_a+−", "empty maps"]  # fmt: skip
    return "\n\n".join(
        [
            head,
            f"Probability of the true class before: {start}.",
            table(headings, rows),
            f"Curves of seed 0, patches of {PATCH}×{PATCH}; bands are 95 % intervals over the "
            "images.",
            "![Estimators](signal/curves-estimators.svg)",
            f"![{_BY_GRADIENT}](signal/curves-by-gradient.svg)",
            f"![{_BY_RELEVANCE}](signal/curves-by-relevance.svg)",
        ]
    )


def _curve_figures(net: Kept, settings: Settings) -> dict[str, Figure]:
    """Draw figure 5, of the estimators and of the methods."""
    from pyrel.plots import degradation_curves

    def curve(name: str) -> Degradation:
        return Degradation(np.array(REMOVED), net.arrays[f"scores {name}"].astype(np.float64))

    def figure(shown: Mapping[str, str], heading: str) -> Figure:
        curves = {label: curve(name) for name, label in shown.items()}
        title = f"{heading}, {dataset(settings)}, seed 0"
        return degradation_curves(curves, curve(RANDOM), title=title)

    estimators = {f"attribution {label}": label for label in ATTRIBUTIONS}
    pixels, last = _labels([PIXEL_MASS]), {"attribution S_a+−": "PatternAttribution"}
    return {
        "curves-estimators": figure(estimators, "w ⊙ S(x) by estimator"),
        "curves-by-gradient": figure(_labels(BY_GRADIENT) | last | pixels, _BY_GRADIENT),
        "curves-by-relevance": figure(
            _labels(BY_RELEVANCE) | _PATTERN | pixels,
            _BY_RELEVANCE,
        ),
    }
