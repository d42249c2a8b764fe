# SPDX-License-Identifier: Apache-2.0
"""The words of the report: names, explanations and numbers as texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pyrel.metrics import Summary

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
        "shares an output above 0 out backwards, layer by layer and step by step, in proportion to "
        "what each unit contributed; what biases contributed stays with them, and the heatmap has "
        "the rest; negative only where a network adds up values of both signs, as LSTM and GRU do",
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


def label(name: str) -> str:
    """Return a method's or baseline's name for readers."""
    known = METHODS.get(name) or BASELINES.get(name)
    return known[0] if known else name.replace("_", " ")


def explained(names: list[str]) -> list[tuple[str, str]]:
    """Return (label, explanation) of the methods that have one, then of the baselines."""
    known = [METHODS[name] for name in names if name in METHODS]
    return [*known, *BASELINES.values()]


def sentences(names: Sequence[str]) -> list[str]:
    """Return "label: explanation." for each method; its label alone where it has no explanation."""
    return [
        f"{METHODS[name][0]}: {METHODS[name][1]}." if name in METHODS else f"{label(name)}."
        for name in names
    ]


def listed(names: Sequence[str]) -> str:
    """Join names with commas and a last "and"."""
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


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
