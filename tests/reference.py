# SPDX-License-Identifier: Apache-2.0
"""Slow float64 reference of the explanation methods, in NumPy, written from the rules alone.

The rules and their sources are in `reference_gradient` and `reference_relevance`, the graphs that
they work on in `reference_graph`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from reference_folding import folded
from reference_forward import forward
from reference_gradient import gradient
from reference_graph import Affine, Array, Node
from reference_relevance import Rules, relevance
from reference_rules import ReferenceRule, propagate

GRADIENTS = ("gradient", "sensitivity", "guided_backprop", "gradient_x_input")
CONSERVING = ("deep_taylor", "lrp_epsilon")
METHODS = GRADIENTS + CONSERVING


@dataclass
class Reference:
    """What `explain` returns, per sample.

    `uncertainty` (n, classes) is the float32 rounding bound of the outputs, `doubt` (n, *shape)
    that of the relevance, where `margin` (in units of bounds: `reference_forward.Forward`) is > 1.
    `start` is the relevance put in, `peak` the largest Σ|R| of any node; `amplification` that of
    what is put in, of what is divided by a stabilised sum and of the result, over |start|.
    """

    relevance: Array
    output: Array
    target: npt.NDArray[np.int64]
    start: Array
    absorbed: Array
    uncertainty: Array
    margin: Array
    doubt: Array
    peak: Array
    amplification: Array


def explain(
    output: Node,
    x: npt.ArrayLike,
    method: str = "deep_taylor",
    target: npt.ArrayLike | None = None,
    *,
    epsilon: float = 1e-6,
    gates: str = "signal",
    pooling: str | None = None,
    rule: ReferenceRule | Callable[[Affine], ReferenceRule] | None = None,
    bias: str = "absorb",
    precision: Any = np.float64,
) -> Reference:
    """Explain `output` (n, classes), or (n,), at the batch `x` for `target` (None: the largest).

    `pooling` is "winner" (LRP-ε where it is None) or "proportional" (deep Taylor where it is None).
    `rule` is for linear nodes, or chooses it for each, in LRP-ε's place. `bias` may be "share".
    """
    batch = np.asarray(x, np.float64)
    n = batch.shape[0]
    if method == "deep_taylor":
        output = folded(output)
    run = forward(output, batch, precision)
    scores = run.of(output)
    chosen = scores.argmax(axis=1) if target is None else np.broadcast_to(target, (n,))
    rows, common = np.arange(n), np.zeros(n)
    score = scores[rows, chosen]
    start = {"deep_taylor": np.maximum(score, 0), "lrp_epsilon": score}.get(method, np.ones(n))
    seed = np.zeros_like(scores)
    seed[rows, chosen] = start
    if method in CONSERVING:
        taylor = method == "deep_taylor"
        pooling = pooling or ("proportional" if taylor else "winner")
        rules = _rules(Rules(taylor, epsilon, gates, pooling), rule, bias)
        unsure = np.zeros(seed.shape)
        # LRP-ε divides f by f again, others by a sum of their own: there f's rounding counts.
        bound = run.bound(output)[rows, chosen]
        if rules.taylor:
            unsure[rows, chosen] = np.where(score > -bound, bound, 0.0)
        elif rules.linear is not None:
            common = np.divide(bound, np.abs(score), out=np.zeros(n), where=score != 0)
        back, margin, divided = relevance(output, run, seed, rules, unsure)
    else:
        back = gradient(output, run, seed, method)
        margin, divided = np.minimum(run.relu_margin, run.pool_margin), np.zeros(n)
    found, variance = back.at_input(method, batch.shape)
    size = np.abs(start)
    largest = np.max([size, divided, np.abs(found).reshape(n, -1).sum(axis=1)], axis=0)
    return Reference(
        found,
        scores,
        chosen.astype(np.int64),
        start,
        back.absorbed,
        run.bound(output),
        margin,
        np.sqrt(variance) + np.abs(found) * common.reshape(n, *(1 for _ in batch.shape[1:])),
        np.max([np.abs(arrived).sum(axis=1) for arrived in back.arriving.values()], axis=0),
        np.divide(largest, size, out=np.zeros(n), where=size > 0),
    )


def _rules(
    rules: Rules, rule: ReferenceRule | Callable[[Affine], ReferenceRule] | None, bias: str
) -> Rules:
    """Put other rules at linear nodes; those of the method where it shares their biases, too."""
    shares = bias == "share"
    if rule is None and not shares:
        return rules
    chosen = rule or ReferenceRule("z_beta" if rules.taylor else "epsilon", rules.epsilon)

    def linear(walk: Any, node: Affine) -> None:
        propagate(walk, node, chosen if isinstance(chosen, ReferenceRule) else chosen(node))

    name = chosen.name if isinstance(chosen, ReferenceRule) else "several"
    by_value = name in ("epsilon", "alpha_beta", "gamma")
    return dataclasses.replace(
        rules, linear=linear, shares_bias=shares, in_proportion=by_value and not shares
    )
