# SPDX-License-Identifier: Apache-2.0
"""Slow float64 reference of the explanation methods, in NumPy, written from the rules alone.

Sources: Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor
decomposition": equation 13 (w² rule), section 4.2 (z⁺ and z^β rules), section 6.2 (a positive bias
is a neuron that keeps its share). The rule of a linear node's input feature follows its domain:
[0, ∞) z⁺, finite [low, high] z^β, real w²; all share one denominator.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from reference_graph import (
    Affine,
    Array,
    Constant,
    Forward,
    Gather,
    Input,
    MixedDomainError,
    Node,
    Relu,
    Sum,
    Term,
    forward,
    reachable,
)

METHODS = ("gradient", "sensitivity", "guided_backprop", "gradient_x_input", "deep_taylor")


@dataclass
class Reference:
    """What `explain` returns, per sample.

    `uncertainty` (n, classes) is the float32 rounding bound of the outputs, `margin` is that of
    `reference_graph.Forward`, `start` is the relevance put in.
    """

    relevance: Array
    output: Array
    target: npt.NDArray[np.int64]
    start: Array
    absorbed: Array
    uncertainty: Array
    margin: Array


def explain(
    output: Node,
    x: npt.ArrayLike,
    method: str = "deep_taylor",
    target: npt.ArrayLike | None = None,
) -> Reference:
    """Explain `output` (n, classes), or (n,), at the batch `x` for `target` (None: the largest)."""
    batch = np.asarray(x, np.float64)
    n = batch.shape[0]
    run = forward(output, batch)
    scores = run.values[output.serial]
    chosen = scores.argmax(axis=1) if target is None else np.broadcast_to(target, (n,))
    rows = np.arange(n)
    propagates = method == "deep_taylor"
    start = np.maximum(scores[rows, chosen], 0.0) if propagates else np.ones(n)
    seed = np.zeros_like(scores)
    seed[rows, chosen] = start
    if propagates:
        arriving, absorbed = _deep_taylor(output, run, seed)
    else:
        arriving = _gradient(output, run, seed, guided=method == "guided_backprop")
        absorbed = np.zeros(n)
    relevance = _finish(method, _at_inputs(output, arriving, batch.shape), batch)
    return Reference(
        relevance,
        scores,
        chosen.astype(np.int64),
        start,
        absorbed,
        run.bounds[output.serial],
        run.margin,
    )


def _finish(method: str, backward: Array, x: Array) -> Array:
    match method:
        case "gradient" | "deep_taylor":
            return backward
        case "sensitivity" | "guided_backprop":
            return backward**2
        case "gradient_x_input":
            return backward * x
    raise ValueError(method)


def _blank(output: Node, run: Forward, seed: Array) -> tuple[list[Node], dict[int, Array]]:
    nodes = reachable(output)
    arriving = {node.serial: np.zeros_like(run.values[node.serial]) for node in nodes}
    arriving[output.serial] = seed.copy()
    return nodes, arriving


def _at_inputs(output: Node, arriving: dict[int, Array], shape: tuple[int, ...]) -> Array:
    parts = [arriving[n.serial] for n in reachable(output) if isinstance(n, Input)]
    return np.sum(parts, axis=0).reshape(shape) if parts else np.zeros(shape)


def _scatter(node: Gather, relevance: Array, arriving: dict[int, Array]) -> None:
    width = sum(source.size for source in node.sources)
    whole = np.zeros((relevance.shape[0], width))
    np.add.at(whole.T, node.index, relevance.T)
    start = 0
    for source in node.sources:
        arriving[source.serial] += whole[:, start : start + source.size]
        start += source.size


def _gradient(output: Node, run: Forward, seed: Array, *, guided: bool) -> dict[int, Array]:
    nodes, arriving = _blank(output, run, seed)
    for node in reversed(nodes):
        gradient = arriving[node.serial]
        match node:
            case Relu():
                open_gate = run.values[node.parent.serial] > 0
                if guided:
                    open_gate &= gradient > 0
                arriving[node.parent.serial] += np.where(open_gate, gradient, 0.0)
            case Gather():
                _scatter(node, gradient, arriving)
            case Sum():
                for addend in node.addends:
                    arriving[addend.serial] += gradient
            case Affine():
                for term in node.terms:
                    arriving[term.source.serial] += gradient @ term.weight.T
    return arriving


def _deep_taylor(output: Node, run: Forward, seed: Array) -> tuple[dict[int, Array], Array]:
    nodes, arriving = _blank(output, run, seed)
    absorbed = np.zeros(seed.shape[0])
    for node in reversed(nodes):
        relevance = arriving[node.serial]
        match node:
            case Constant():
                absorbed += relevance.sum(axis=1)
            case Relu():
                arriving[node.parent.serial] += relevance
            case Gather():
                _scatter(node, relevance, arriving)
            case Sum():
                absorbed += _split_sum(node, run, relevance, arriving)
            case Affine():
                absorbed += _split_affine(node, run, relevance, arriving)
    return arriving, absorbed


def _divide(relevance: Array, denominator: Array) -> tuple[Array, Array]:
    """Return R/denominator, 0 where that is 0, and per sample the relevance that finds no taker."""
    known = denominator > 0
    ratio = np.divide(relevance, denominator, out=np.zeros_like(relevance), where=known)
    return ratio, np.where(known, 0.0, relevance).sum(axis=1)


def _split_sum(node: Sum, run: Forward, relevance: Array, arriving: dict[int, Array]) -> Array:
    ratio, lost = _divide(relevance, run.values[node.serial])
    for addend in node.addends:
        arriving[addend.serial] += run.values[addend.serial] * ratio
    return lost


def _split_affine(
    node: Affine, run: Forward, relevance: Array, arriving: dict[int, Array]
) -> Array:
    """Equations 13 and 15: R_j = Σ_k q_jk R_k / (Σ_j' q_j'k + max(0, b_k)), q by the domain of j.

    Returns what the biases keep and what meets a zero denominator, per sample.
    """
    kept_by_bias = np.where(_takes_square_rule(node), 0.0, np.maximum(node.bias, 0.0))
    denominator = np.tile(kept_by_bias, (relevance.shape[0], 1))
    for term in node.terms:
        denominator += _contributions(term, run)
    ratio, absorbed = _divide(relevance, denominator)
    for term in node.terms:
        arriving[term.source.serial] += _collected(term, run, ratio)
    return absorbed + ratio @ kept_by_bias


def _takes_square_rule(node: Affine) -> npt.NDArray[np.bool_]:
    """Return for every output whether its inputs are real; constant zeros beside them are none."""
    real, other = np.zeros((2, node.size), bool)
    for term in node.terms:
        connected = term.magnitude > 0
        unbounded = np.isinf(term.source.low)
        zero = (term.source.low == 0) & (term.source.high == 0)
        real |= connected[unbounded].any(axis=0)
        other |= connected[~unbounded & ~zero].any(axis=0)
    if (real & other).any():
        raise MixedDomainError("a linear node mixes real graph inputs with other inputs")
    return real


def _split_weight(term: Term) -> tuple[Array, Array, Array, Array, Array]:
    """Return (w for z^β, w⁺ for z⁺, w² for w², low, high), rows of other domains zeroed."""
    low, high, w = term.source.low, term.source.high, term.weight
    square_rows = np.isinf(low)
    plus_rows = (low == 0) & np.isinf(high)
    box_rows = ~square_rows & ~plus_rows
    box = np.where(box_rows[:, None], w, 0.0)
    plus = np.where(plus_rows[:, None], np.maximum(w, 0.0), 0.0)
    squared = np.where(square_rows[:, None], w**2, 0.0)
    return box, plus, squared, np.where(box_rows, low, 0.0), np.where(box_rows, high, 0.0)


def _contributions(term: Term, run: Forward) -> Array:
    """Σ_j q_jk: (a w − l w⁺ − h w⁻) in a box, a w⁺ at [0, ∞), w² for real features."""
    a = run.values[term.source.serial]
    box, plus, squared, low, high = _split_weight(term)
    box_sum = a @ box - low @ np.maximum(box, 0.0) - high @ np.minimum(box, 0.0)
    return box_sum + a @ plus + squared.sum(axis=0)


def _collected(term: Term, run: Forward, ratio: Array) -> Array:
    """Σ_k q_jk · ratio_k for every feature j of the term's source."""
    a = run.values[term.source.serial]
    box, plus, squared, low, high = _split_weight(term)
    in_box = (
        a * (ratio @ box.T)
        - low * (ratio @ np.maximum(box, 0.0).T)
        - high * (ratio @ np.minimum(box, 0.0).T)
    )
    return in_box + a * (ratio @ plus.T) + ratio @ squared.T
