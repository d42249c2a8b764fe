# SPDX-License-Identifier: Apache-2.0
"""The words of the report: names, explanations and what the numbers of a study come to."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyrel.metrics import Study, Summary, paired_difference

# Name for readers, and what the method does, in a sentence without formulas.
METHODS = {
    "gradient": (
        "Gradient",
        "how the output changes with each pixel; signed: brighter pixels raise or lower the output",
    ),
    "sensitivity": (
        "Sensitivity",
        "squared gradient: where a small change of a pixel would change the output most, which "
        "need not be where the evidence is",
    ),
    "guided_backprop": (
        "Guided backprop",
        "squared gradient that follows only the paths which raise the output",
    ),
    "deconvnet": (
        "Deconvnet",
        "squared signal that is sent back from the output, of which each unit hands on what is "
        "positive, whether it was active or not",
    ),
    "gradient_x_input": (
        "Gradient × input",
        "gradient times pixel value: what each pixel adds to or takes from the output if the "
        "network is taken as linear around this sample; signed",
    ),
    "integrated_gradients": (
        "Integrated gradients",
        "what each pixel adds to or takes from the output on the straight way from a blank sample "
        "to this one; signed, and adds up to the difference of the two outputs",
    ),
    "smoothgrad": (
        "SmoothGrad",
        "the gradient averaged over noisy copies of the sample, which blurs what holds by chance",
    ),
    "occlusion": (
        "Occlusion",
        "what the output loses when a part of the sample, such as a step, is blanked out; signed",
    ),
    "deep_taylor": (
        "Deep Taylor",
        "shares the output out backwards, layer by layer and step by step, in proportion to what "
        "each unit contributed; never negative, and nothing gets lost",
    ),
    "lrp_epsilon": (
        "LRP-ε",
        "shares the output out backwards in proportion to contributions with their signs; ε, a "
        "small number, steadies it where they cancel; signed: relevance for and against",
    ),
    "lrp_alpha_beta": (
        "LRP-αβ",
        "shares the output out backwards, what speaks for it and what speaks against it apart, "
        "weighted by α and β (2 and 1 if nothing else is said); signed",
    ),
    "lrp_gamma": (
        "LRP-γ",
        "like LRP-ε, but contributions of the output's own sign count more, by the factor 1 + γ; "
        "signed, with less noise than LRP-ε",
    ),
    "epsilon_plus": (
        "LRP ε and z⁺",
        "LRP-ε in dense and recurrent layers; in convolutions only positive contributions count",
    ),
    "epsilon_alpha2_beta1": (
        "LRP ε and α2β1",
        "LRP-ε in dense and recurrent layers, LRP-αβ with α = 2 and β = 1 in convolutions",
    ),
    "epsilon_gamma_box": (
        "LRP ε, γ and box",
        "LRP-ε in dense and recurrent layers, LRP-γ in convolutions; the first convolution uses "
        "the range that pixels can have",
    ),
    "pattern_net": (
        "PatternNet",
        "sends the output back by what goes with each unit in the training samples instead of by "
        "its weights: an estimate of the signal that the network looks for; signed",
    ),
    "pattern_attribution": (
        "PatternAttribution",
        "how much each pixel adds to the output by the signal in it, without what the network has "
        "learnt to cancel; signed",
    ),
}
BASELINES = {
    "uniform": ("Uniform map", "the same relevance everywhere: knows nothing"),
    "pixel_mass": ("Pixel mass", "relevance is brightness: knows the picture, not the network"),
}

# Beyond it, a float32 propagation has lost or invented relevance, not rounded it.
CONSERVED = 1e-5
# Two standard errors: chance alone goes further in about one of twenty comparisons.
CLEAR = 2.0
LOW_ACCURACY = 0.9


def label(name: str) -> str:
    """Return a method's or baseline's name for readers."""
    known = METHODS.get(name) or BASELINES.get(name)
    return known[0] if known else name.replace("_", " ")


def explained(names: list[str]) -> list[tuple[str, str]]:
    """Return (label, explanation) of the methods that have one, then of the baselines."""
    known = [METHODS[name] for name in names if name in METHODS]
    return [*known, *BASELINES.values()]


def plus_minus(summary: Summary, sign: bool = False) -> tuple[str, str]:
    """Return mean and "± standard error" as texts; a dash and nothing where undefined."""
    if math.isnan(summary.mean):
        return "–", ""
    rounded = round(summary.mean, 3) + 0.0  # + 0.0 makes -0.0 a plain 0.0
    mean = f"{rounded:+.3f}" if sign and rounded else f"{rounded:.3f}"
    error = summary.standard_error
    return mean.replace("-", "−"), "" if math.isnan(error) else f"±\u00a0{error:.3f}"


def plus_minus_text(summary: Summary) -> str:
    """Return mean and standard error as one text that no line break divides."""
    return "\u00a0".join(plus_minus(summary)).strip()


def size(value: float) -> str:
    """Return a number of any size as a short text, small ones as 3.1 × 10⁻⁷."""
    if math.isnan(value):
        return "–"
    if value == 0 or value >= 0.01:
        return f"{value:.2f}" if value else "0"
    mantissa, exponent = f"{value:.1e}".split("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{raised}"


def findings(study: Study) -> list[str]:
    """Return in sentences what the numbers of a study come to, most important first."""
    found = [_best(study), *_cells_apart(study), *_against_pixels(study), *_accuracy(study)]
    return [sentence for sentence in (*found, *_conserved(study), _left_out(study)) if sentence]


def _best(study: Study) -> str | None:
    all_methods = [e for e in study.evaluations() if e[0] and e[2].share.used]
    if not all_methods:
        return None
    cell, method, evaluation = max(all_methods, key=lambda entry: entry[2].share.mean)
    others = ", ".join(
        f"{label(name).lower()} {baseline.share.mean:.3f}"
        for name, baseline in study.baselines.items()
    )
    return (
        f"The highest share of relevance in the majority steps: {label(method)} on {cell}, "
        f"{plus_minus_text(evaluation.share)}. Without any model: {others}."
    )


def _cells_apart(study: Study) -> list[str]:
    sentences = []
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
        more = plus_minus_text(difference)
        verdict = f"{best} has clearly more than {worst}, by {more}"
        if not is_clear(difference):
            verdict = f"{best} and {worst} do not differ clearly ({more})"
        sentences.append(f"Share with {label(method)}: {verdict}.")
    return sentences


def _against_pixels(study: Study) -> list[str]:
    mass, uniform = study.baselines["pixel_mass"], study.baselines["uniform"]
    share = f"The share of pixel mass is {mass.share.mean:.3f}"
    digit = (
        f"The cosine by digit of pixel mass is {mass.cosine_digit.mean:.3f}, that of the uniform "
        f"map {uniform.cosine_digit.mean:.3f}"
    )
    methods = [(cell, method, e) for cell, method, e in study.evaluations() if cell]
    shares = {(c, m): paired_difference(e.share, mass.share) for c, m, e in methods}
    digits = {(c, m): paired_difference(e.cosine_digit, mass.cosine_digit) for c, m, e in methods}
    return [f"{share}. {_sides(shares)}", f"{digit}. {_sides(digits)}"]


def _sides(over_mass: dict[tuple[str, str], Summary]) -> str:
    """Name who is above pixel mass, who below, and of whom neither is clear."""
    above = [pair for pair, more in over_mass.items() if is_clear(more)]
    below = [pair for pair, more in over_mass.items() if is_clear(more, below=True)]
    if len(above) == len(over_mass):
        return "Every method on every cell is clearly above pixel mass."
    unclear = [pair for pair in over_mass if pair not in above and pair not in below]
    sides = {"above pixel mass": above, "below pixel mass": below, "above or below it": unclear}
    return " ".join(
        f"{'Not clearly' if pairs is unclear else 'Clearly'} {side}: {_grouped(pairs)}."
        for side, pairs in sides.items()
        if pairs
    )


def _accuracy(study: Study) -> list[str]:
    low = [name for name, r in study.cells.items() if r.accuracy.mean < LOW_ACCURACY]
    return [
        f"{name} is right on {plus_minus_text(study.cells[name].accuracy)} of the samples only: "
        f"its explanations are those of a cell that often errs."
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
        f"{_grouped([pair])} does not conserve: up to {size(error)} of the relevance is lost or "
        f"invented. Its numbers are not to be trusted."
        for pair, error in worst.items()
        if pair not in kept
    ]
    if kept:
        sentences.append(
            f"Relevance is conserved by {_grouped(list(kept))}: in no sample is more than "
            f"{size(max(kept.values()))} of it lost or invented."
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
        f"Samples left out because their map is empty, at most {max(counts.values())} of "
        f"{len(study.relevant)}: {_grouped(list(counts))}."
    )


def is_clear(difference: Summary, below: bool = False) -> bool:
    """Return whether a difference is above (or below) 0 by more than chance would make it."""
    mean = -difference.mean if below else difference.mean
    return mean > CLEAR * difference.standard_error


def _grouped(pairs: list[tuple[str, str]]) -> str:
    """Name (cell, method) pairs, methods that share their cells together."""
    cells_of: dict[str, list[str]] = {}
    for cell, method in pairs:
        cells_of.setdefault(method, []).append(cell)
    methods_of: dict[tuple[str, ...], list[str]] = {}
    for method, cells in cells_of.items():
        methods_of.setdefault(tuple(cells), []).append(label(method))
    return "; ".join(f"{_and(names)} on {_and(cells)}" for cells, names in methods_of.items())


def _and(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
