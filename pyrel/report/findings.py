# SPDX-License-Identifier: Apache-2.0
"""What the numbers of a study come to, in sentences."""

from __future__ import annotations

from typing import TypeAlias

from pyrel.metrics import DegradationCurves, Study, Summary, paired_difference
from pyrel.report.words import label, listed, plus_minus_text, size

# Beyond it, a float32 propagation has lost or invented relevance, not rounded it.
CONSERVED = 1e-5
# Two standard errors: chance alone goes further in about one of twenty comparisons.
CLEAR = 2.0
LOW_ACCURACY = 0.9
_MASS = "pixel_mass"
# A model and a method.
_Pair: TypeAlias = tuple[str, str]


def findings(study: Study) -> list[str]:
    """Return in sentences what the numbers of a study come to, most important first."""
    found = [
        _best(study),
        *_models_apart(study),
        _against_pixels(study),
        *_degradation(study),
        *_accuracy(study),
        *_conserved(study),
        _left_out(study),
    ]
    return [sentence for sentence in found if sentence]


def _best(study: Study) -> str | None:
    shares = {(c, m): e.share for c, m, e in study.evaluations() if c and e.share.used}
    if not shares:
        return None
    best, tied = _ahead(shares)
    even, mass = (study.baselines[name].share.mean for name in ("uniform", _MASS))
    who = f"{_grouped([best])}, {plus_minus_text(shares[best])}"
    rivals = f" Not clearly less: {_grouped(tied)}." if tied else ""
    if not tied and len(shares) > 1:
        rivals = " All others have clearly less."
    return (
        f"The largest share of relevance in the steps of the majority: {who}.{rivals} Without any "
        f"model, an even map has {even:.3f} there, and the brightness of the pixels (pixel mass) "
        f"{mass:.3f}."
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
    mass = study.baselines[_MASS]
    over = {(c, m): paired_difference(e.share, mass.share) for c, m, e in study.evaluations() if c}
    return _sides(over, "more", "less", " relevance there than pixel mass")


def _degradation(study: Study) -> list[str]:
    """Say which methods name first what the models use, judged by the degradation curves."""
    fastest = []
    over_random: dict[_Pair, Summary] = {}
    over_mass: dict[_Pair, Summary] = {}
    for cell, result in study.cells.items():
        curves = result.degradation
        if curves is None:
            continue
        judged = [m for m in curves.curves if m in result.evaluations and curves.area(m).used]
        if not judged:
            continue
        below = {(cell, m): curves.below_random(m) for m in judged}
        fastest.append(_fastest(cell, below, curves))
        over_random |= below
        if _MASS in curves.curves:
            mass = curves.area(_MASS)
            over_mass |= {(c, m): paired_difference(mass, curves.area(m)) for c, m in below}
    if not fastest:
        return []
    sentences = [
        "Degradation: small patches of the picture are replaced by their mean, first those that a "
        "method calls most relevant. The faster the probability of the true class falls, the "
        f"better. {' '.join(fastest)}",
        f"Degradation against random order. {_sides(over_random, 'faster', 'slower')}",
    ]
    if over_mass:
        sides = _sides(over_mass, "faster", "slower")
        sentences.append(f"Degradation against the brightest patches first (pixel mass). {sides}")
        if any(is_clear(difference, below=True) for difference in over_mass.values()):
            sentences[-1] += " Slower: bright patches matter more to the model than those named."
    return sentences


def _fastest(cell: str, below: dict[_Pair, Summary], curves: DegradationCurves) -> str:
    """Say with which method the probability of one model falls fastest."""
    best, tied = _ahead(below)
    area = plus_minus_text(curves.area(best[1]))
    rivals = ""
    if tied:
        rivals = f"; not clearly slower with {listed([label(method) for _, method in tied])}"
    elif len(below) > 1:
        rivals = "; clearly slower with all others"
    return (
        f"On {cell} it falls fastest with {label(best[1])} (area under the curve {area}){rivals}."
    )


def _sides(differences: dict[_Pair, Summary], more: str, less: str, than: str = "") -> str:
    """Name who is above 0, who below, and of whom neither is clear."""
    above = [pair for pair, difference in differences.items() if is_clear(difference)]
    below = [pair for pair, d in differences.items() if is_clear(d, below=True)]
    if len(above) == len(differences):
        return f"Clearly {more}{than}: every method on every model."
    unclear = [pair for pair in differences if pair not in above and pair not in below]
    sides = {
        f"Clearly {more}": above,
        f"Clearly {less}": below,
        f"Not clearly {more} or {less}": unclear,
    }
    return " ".join(f"{side}{than}: {_grouped(pairs)}." for side, pairs in sides.items() if pairs)


def _ahead(measured: dict[_Pair, Summary]) -> tuple[_Pair, list[_Pair]]:
    """Return whose mean is largest, and who is not clearly below, by the same samples."""
    best = max(measured, key=lambda pair: measured[pair].mean)
    tied = [
        pair
        for pair, summary in measured.items()
        if pair != best and not is_clear(paired_difference(measured[best], summary))
    ]
    return best, tied


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
            f"Relevance is conserved by {_grouped(list(kept))}: with what biases keep, it adds up "
            f"to the score that it explains, in each sample to {size(max(kept.values()))} of it."
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


def _grouped(pairs: list[_Pair]) -> str:
    """Name (cell, method) pairs, methods of the same cells together."""
    cells_of: dict[str, list[str]] = {}
    for cell, method in pairs:
        cells_of.setdefault(method, []).append(cell)
    methods_of: dict[tuple[str, ...], list[str]] = {}
    for method, cells in cells_of.items():
        methods_of.setdefault(tuple(cells), []).append(label(method))
    return "; ".join(f"{listed(names)} on {listed(cells)}" for cells, names in methods_of.items())
