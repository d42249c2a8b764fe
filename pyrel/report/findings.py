# SPDX-License-Identifier: Apache-2.0
"""What the numbers of a study come to, in sentences."""

from __future__ import annotations

from pyrel.metrics import Study, Summary, paired_difference
from pyrel.report.words import label, listed, plus_minus_text, size

# Beyond it, a float32 propagation has lost or invented relevance, not rounded it.
CONSERVED = 1e-5
# Two standard errors: chance alone goes further in about one of twenty comparisons.
CLEAR = 2.0
LOW_ACCURACY = 0.9


def findings(study: Study) -> list[str]:
    """Return in sentences what the numbers of a study come to, most important first."""
    found = [
        _best(study),
        *_models_apart(study),
        _against_pixels(study),
        *_against_random_order(study),
        *_accuracy(study),
        *_conserved(study),
        _left_out(study),
    ]
    return [sentence for sentence in found if sentence]


def _best(study: Study) -> str | None:
    all_methods = [e for e in study.evaluations() if e[0] and e[2].share.used]
    if not all_methods:
        return None
    cell, method, evaluation = max(all_methods, key=lambda entry: entry[2].share.mean)
    even, mass = (study.baselines[name].share.mean for name in ("uniform", "pixel_mass"))
    return (
        f"{label(method)} on {cell} has the largest share of its relevance where the evidence is, "
        f"in the steps of the majority: {plus_minus_text(evaluation.share)}. Without any model, an "
        f"even map has {even:.3f} there, and the brightness of the pixels (pixel mass) {mass:.3f}."
    )


def _models_apart(study: Study) -> list[str]:
    """Name the models that differ most with each method, methods of the same two together."""
    differ: dict[str, list[str]] = {}
    for method in study.methods():
        shares = {
            cell: result.evaluations[method].share
            for cell, result in study.cells.items()
            if method in result.evaluations and result.evaluations[method].share.used
        }
        if len(shares) < 2:
            continue
        worst, *_, best = sorted(shares, key=lambda cell: shares[cell].mean)
        difference = paired_difference(shares[best], shares[worst])
        verdict = f"{best} has clearly more relevance there than {worst}"
        if not is_clear(difference):
            verdict = f"{best} and {worst} do not differ clearly"
        told = f"{label(method)} (by {plus_minus_text(difference)})"
        differ.setdefault(verdict, []).append(told)
    return [f"{verdict}, with {listed(methods)}." for verdict, methods in differ.items()]


def _against_pixels(study: Study) -> str:
    mass = study.baselines["pixel_mass"]
    shares = {
        (cell, method): paired_difference(e.share, mass.share)
        for cell, method, e in study.evaluations()
        if cell
    }
    return _sides(shares)


def _against_random_order(study: Study) -> list[str]:
    """Say which methods name first what the models use, judged by the degradation curves."""
    below = {
        (cell, method): result.degradation.below_random(method)
        for cell, result in study.cells.items()
        if result.degradation
        for method in result.degradation.curves
        if method in result.evaluations
    }
    below = {pair: summary for pair, summary in below.items() if summary.used}
    if not below:
        return []
    (cell, method), largest = max(below.items(), key=lambda entry: entry[1].mean)
    unclear = [pair for pair, summary in below.items() if not is_clear(summary)]
    sentence = (
        f"Degradation: the area under the curve is furthest below random order with "
        f"{label(method)} on {cell} (by {plus_minus_text(largest)})."
    )
    others = f"Not clearly below random order: {_grouped(unclear)}."
    return [f"{sentence} {others if unclear else 'Every method is clearly below it.'}"]


def _sides(over_mass: dict[tuple[str, str], Summary]) -> str:
    """Name who is above pixel mass, who below, and of whom neither is clear."""
    above = [pair for pair, more in over_mass.items() if is_clear(more)]
    below = [pair for pair, more in over_mass.items() if is_clear(more, below=True)]
    if len(above) == len(over_mass):
        return "Every method on every model has clearly more there than pixel mass."
    unclear = [pair for pair in over_mass if pair not in above and pair not in below]
    sides = {"Clearly more": above, "Clearly less": below, "Not clearly more or less": unclear}
    return " ".join(
        f"{side} there than pixel mass: {_grouped(pairs)}."
        for side, pairs in sides.items()
        if pairs
    )


def _accuracy(study: Study) -> list[str]:
    low = [name for name, r in study.cells.items() if r.accuracy.mean < LOW_ACCURACY]
    return [
        f"{name} classifies only {plus_minus_text(study.cells[name].accuracy)} of the samples "
        f"correctly: its heatmaps are those of a model that is often wrong."
        for name in low
    ]


def _conserved(study: Study) -> list[str]:
    worst = {
        (cell, method): evaluation.conservation.largest
        for cell, method, evaluation in study.evaluations()
        if cell and evaluation.propagates and evaluation.conservation
    }
    kept = {pair: error for pair, error in worst.items() if error <= CONSERVED}
    sentences = [
        f"{_grouped([pair])} does not conserve relevance: up to {size(error)} of it is lost or "
        f"added on the way. Do not trust its numbers."
        for pair, error in worst.items()
        if pair not in kept
    ]
    if kept:
        sentences.append(
            f"Relevance is conserved by {_grouped(list(kept))}: in no sample is more than "
            f"{size(max(kept.values()))} of it lost or added."
        )
    return sentences


def _left_out(study: Study) -> str | None:
    counts = {
        (cell, method): e.share.left_out
        for cell, method, e in study.evaluations()
        if cell and e.share.left_out
    }
    if not counts:
        return None
    return (
        f"Samples left out because their heatmap is empty, at most {max(counts.values())} of "
        f"{len(study.relevant)}: {_grouped(list(counts))}."
    )


def is_clear(difference: Summary, below: bool = False) -> bool:
    """Return whether a difference is above (or below) 0 by more than chance would make it."""
    mean = -difference.mean if below else difference.mean
    return mean > CLEAR * difference.standard_error


def _grouped(pairs: list[tuple[str, str]]) -> str:
    """Name (cell, method) pairs, methods of the same cells together."""
    cells_of: dict[str, list[str]] = {}
    for cell, method in pairs:
        cells_of.setdefault(method, []).append(cell)
    methods_of: dict[tuple[str, ...], list[str]] = {}
    for method, cells in cells_of.items():
        methods_of.setdefault(tuple(cells), []).append(label(method))
    return "; ".join(f"{listed(names)} on {listed(cells)}" for cells, names in methods_of.items())
