# SPDX-License-Identifier: Apache-2.0
"""Relevance propagation on a reference graph: deep Taylor and LRP-ε, with all that is absorbed.

Sources: Montavon et al. 2017, "Explaining nonlinear classification decisions with deep Taylor
decomposition": equation 13 (w² rule), section 4.2 (z⁺ and z^β rules), section 5.2 (pooling),
section 6.2 (a positive bias is a neuron that keeps its share); Bach et al. 2015 (ε rule); Arras et
al. 2017 (a product's signal takes all).

On its way down relevance meets roundings of three kinds, all kept as variances (`Backward`):

- a product sum rounds by 4 eps of Σ|terms|;
- a share a w R / d is off by the relative error of d. With the ε rule, R came from above in
  proportion to the node's own value z (or f(z), f(0) = 0), and R/z is as smooth as f(z)/z; so of
  an error e of z only the stabiliser's part counts: z / (z + ε sign z) changes by the fraction
  e/|z| · ε/(|z| + ε), and f(z)/z by less than e. Elsewhere (deep Taylor, f(0) ≠ 0) it is e/|d|;
- where |z|, or a denominator that is met by relevance, is as near to 0 as the rounding of the
  values it is made of, that is unbounded: such a sample's margin is ≤ 1. A denominator's own
  rounding is relative to it, since its terms are ≥ 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from reference_backward import Backward, counts, varies
from reference_forward import Forward, deviation, margin, preactivation, rows, windowed
from reference_functions import FUNCTIONS
from reference_graph import (
    EPS32,
    Activation,
    Affine,
    Array,
    Constant,
    Gather,
    Mask,
    MaxPool,
    MixedDomainError,
    Node,
    Normalise,
    Part,
    Product,
    Relu,
    Scale,
    Sum,
    Term,
)


@dataclass(frozen=True)
class Rules:
    """What a method does where there is a choice: `taylor` gives linear nodes their domain rule.

    `linear` (walk, node) puts another rule there. With `shares_bias` inputs get in equal parts what
    biases, constants and stabilisers would absorb. `in_proportion` says that relevance arrives in
    proportion to values, so that an error of a sum that it is divided by cancels.
    """

    taylor: bool
    epsilon: float = 1e-6
    gates: str = "signal"
    pooling: str = "winner"
    linear: Callable[[Any, Affine], None] | None = None
    shares_bias: bool = False
    in_proportion: bool = True


def relevance(
    output: Node, run: Forward, seed: Array, rules: Rules, unsure: Array
) -> tuple[Backward, Array, Array]:
    """Propagate the relevance `seed`, known to ± `unsure`, both (n, outputs).

    Also returns the smallest |z| / bound per sample, and the largest Σ|R| at a stabilised division.
    """
    walk = _Walk(Backward(output, run, seed), rules)
    walk.back.variance[output.serial] += unsure**2
    for node in reversed(walk.back.nodes):
        walk.visit(node)
    return walk.back, walk.margin, walk.largest


class _Walk:
    def __init__(self, back: Backward, rules: Rules) -> None:
        self.back, self.run, self.rules = back, back.run, rules
        self.margin = np.full(len(back.absorbed), np.inf)
        self.largest = np.zeros(len(back.absorbed))

    def visit(self, node: Node) -> None:
        arrived, variance = self.back.at(node)
        match node:
            case Constant():
                self.back.absorbed += arrived.sum(axis=1)
            case Relu() | Scale():
                self.back.give(node.parent, arrived, variance)
            case Activation():
                self._activation(node)
            case Gather():
                self.back.scatter(node)
            case Sum():
                self._sum(node)
            case Product():
                self._product(node)
            case MaxPool():
                self._pool(node)
            case Normalise():
                self._normalise(node)
            case Affine() if self.rules.linear is not None:
                self.rules.linear(self, node)
            case Affine() if self.rules.taylor:
                self._taylor(node)
            case Affine():
                self._epsilon(node)

    def _activation(self, node: Activation) -> None:
        """All of it; where f(0) ≠ 0, what comes is not in proportion to z.

        With half gates a sigmoid is ½ + (σ − ½), and the constant ½ absorbs its share of σ; deep
        Taylor does not divide by z.
        """
        arrived, variance = self.back.at(node)
        z, e = self.run.of(node.parent), self.run.bound(node.parent)
        halves = self.rules.gates == "half" and not self.rules.taylor
        if halves and node.function == "sigmoid":
            ratio = arrived / self.run.of(node)
            self.back.absorbed += ratio.sum(axis=1) / 2
            # σ − ½, without what the difference loses where z is near 0.
            share = np.tanh(z / 2) / 2
            slope = share / self.run.of(node)
            doubt = variance * slope**2 + (ratio * share * (e + 4 * EPS32)) ** 2
            self.back.give(node.parent, ratio * share, doubt)
            return
        if not FUNCTIONS[node.function].through_zero and not self.rules.taylor:
            e = e / np.maximum(np.abs(z), e + np.finfo(np.float64).tiny)
        self.back.give(node.parent, arrived, variance + (arrived * (e + 4 * EPS32)) ** 2)

    def _stabilised(self, arrived: Array, z: Array, bound: Array) -> tuple[Array, Array]:
        """R / (z + ε sign z), sign(0) = +1, and its relative error; ε's share is absorbed."""
        self.largest = np.maximum(self.largest, np.abs(arrived).sum(axis=1))
        epsilon = self.run.cast(self.rules.epsilon)
        sign = np.where(z < 0, self.run.cast(-1), self.run.cast(1))
        ratio = arrived / (z + epsilon * sign)
        self.back.absorbed += (ratio * epsilon * sign).sum(axis=1)
        size = np.abs(z).astype(np.float64)
        received = np.where((arrived != 0) | (size > 0), bound, 0.0)
        self.margin = np.minimum(self.margin, margin(size, received))
        error = 2 * bound / np.maximum(size, bound + np.finfo(np.float64).tiny)
        if not self.rules.taylor and self.rules.in_proportion:
            error *= self.rules.epsilon / (size + self.rules.epsilon)
        return ratio, error

    def _undivided(self, arrived: Array, denominator: Array) -> Array:
        """R / d without stabiliser: where d is 0, R is absorbed."""
        known = denominator > 0
        self.back.absorbed += np.where(known, 0, arrived).sum(axis=1)
        return np.divide(arrived, denominator, out=np.zeros_like(arrived), where=known)

    def _sum(self, node: Sum) -> None:
        """R_i = a_i R / Σa, stabilised where an addend may be negative.

        So is a single addend beside zeros: R a / (a + ε sign a). Where biases are shared, addends
        that vary get what constants and the stabiliser would absorb in equal parts. A gated first
        state of zeros is no addend: what it leaves alone, and is ≥ 0, gets all.
        """
        arrived, variance = self.back.at(node)
        z, e = self.run.of(node), self.run.bound(node)
        values = [self.run.of(addend) for addend in node.addends]
        counted = [(varies(a) & counts(a)).astype(float) for a in node.addends]
        number, absorbed = np.sum(counted, axis=0), self.back.absorbed.copy()
        stabilised = any((addend.low < 0).any() for addend in node.addends)
        if stabilised:
            ratio, error = self._stabilised(arrived, z, e)
        else:
            ratio = self._undivided(arrived, z)
            error = np.divide(e, z, out=np.zeros(z.shape), where=z > 0)
        scale = np.divide(ratio, arrived, out=np.zeros_like(ratio), where=arrived != 0)
        doubt = variance * scale**2 + (ratio * (error + 4 * EPS32)) ** 2
        alone = (np.sum([counts(a) | ~varies(a) for a in node.addends], axis=0) == 1) & (
            number == 1
        )
        each = np.where(alone & (z == 0) & (not stabilised), arrived, 0.0)
        self.back.absorbed -= each.sum(axis=1)
        unsure = variance * (each != 0)
        if self.rules.shares_bias:
            values = [some * value for some, value in zip(counted, values, strict=True)]
            left = arrived - np.sum(values, axis=0) * ratio
            each = np.divide(left, number, out=np.zeros_like(left), where=number > 0)
            self.back.absorbed = absorbed + np.where(number > 0, 0.0, left).sum(axis=1)
            unsure = variance + (np.abs(z * ratio) * (error + 4 * EPS32)) ** 2
        own = not self.rules.taylor and self.rules.linear is None  # what a divides stands below
        for addend, some, value in zip(node.addends, counted, values, strict=True):
            moved = 0.0 if own else (ratio * self.run.bound(addend)) ** 2
            spread = value**2 * doubt + moved + some * unsure
            self.back.give(addend, value * ratio + some * each, spread)

    def _product(self, node: Product) -> None:
        """The signal takes all, or gate and signal half each unless the signal is carried on."""
        arrived, variance = self.back.at(node)
        gate, e = self.run.of(node.gate), self.run.bound(node.gate)
        # R is in proportion to the product, what the signal's reader expects to the signal alone.
        error = np.divide(e, np.abs(gate), out=np.zeros(e.shape), where=gate != 0)
        doubt = variance + (arrived * error) ** 2
        if self.rules.gates == "half" and not node.carries:
            half = arrived * self.run.cast(0.5)
            signal, f = self.run.of(node.signal), self.run.bound(node.signal)
            other = np.divide(f, np.abs(signal), out=np.zeros(f.shape), where=signal != 0)
            self.back.give(node.gate, half, (variance + (arrived * other) ** 2) / 4)
            self.back.give(node.signal, half, doubt / 4)
        elif node.two_signals:
            raise MixedDomainError("a product of two signals")
        else:
            self.back.give(node.signal, arrived, doubt)

    def _pool(self, node: MaxPool) -> None:
        """R_j = R where a_j is the first largest of its window, 0 elsewhere; or a_j R / Σ a.

        The former is LRP's (as in zennit, captum and iNNvestigate: the way that the gradient goes),
        the latter deep Taylor's (section 5.2), which needs a layer all of whose values are ≥ 0.
        """
        low = np.where(node.windows < 0, 0.0, node.parent.low[node.windows])
        if self.rules.pooling == "winner" or (low < 0).any():
            self.margin = np.minimum(self.margin, self.run.pool_margin)
            self.back.give_winners(node)
            return
        arrived, variance = self.back.at(node)
        values = windowed(self.run.of(node.parent), node, 0.0)
        e = np.sqrt((windowed(self.run.bound(node.parent), node, 0.0) ** 2).sum(axis=1))
        total = values.sum(axis=1)
        ratio = self._undivided(arrived, total)
        largest = values.max(axis=1)
        error = np.divide(2 * e, largest, out=np.zeros(e.shape), where=largest > 0) + 4 * EPS32
        scale = np.divide(1, total, out=np.zeros(total.shape), where=total > 0)
        doubt = (variance + (arrived * error) ** 2) * scale**2
        self.back.give_windows(node, values * ratio[:, None], values**2 * doubt[:, None])

    def _normalise(self, node: Normalise) -> None:
        """1/σ is a constant: R_j = x_j (s_j − mean s) / σ, s = R / (y + ε sign y)."""
        if self.rules.taylor:
            raise MixedDomainError("deep Taylor has no rule for layer norm")
        arrived, variance = self.back.at(node)
        y = self.run.of(node)
        ratio, error = self._stabilised(arrived, y, self.run.bound(node))
        divided = (np.abs(y) + self.rules.epsilon) ** 2
        doubt = (variance + (arrived * error) ** 2) / divided
        s, v = rows(ratio, node), rows(doubt, node)
        x, sigma = rows(self.run.of(node.parent), node), deviation(self.run.of(node.parent), node)
        given = x * (s - s.mean(axis=2, keepdims=True)) / sigma
        size = np.abs(s) + np.abs(s).mean(axis=2, keepdims=True)
        # y and σ round relative to the largest |x| / σ of the row.
        loose = rows(self.run.bound(node), node).max(axis=2, keepdims=True) + 4 * EPS32
        total = v + v.mean(axis=2, keepdims=True) / node.width + (size * loose) ** 2
        spread = x**2 * total / sigma**2
        self.back.give(node.parent, given.reshape(y.shape), spread.reshape(y.shape))

    # Linear nodes

    def _epsilon(self, node: Affine) -> None:
        """R_j = a_j Σ_k w_jk s_k, s = R / (z + ε sign z); a bias takes b s, a part g times it."""
        arrived, variance = self.back.at(node)
        z = self.run.of(node)
        ratio, error = self._stabilised(arrived, z, self.run.bound(node))
        divided = (np.abs(z) + self.rules.epsilon) ** 2
        doubt = (variance + (arrived * error) ** 2) / divided
        for part in node.units:
            share, spread = ratio, doubt
            if part.gate is not None:
                value, _, _ = preactivation(part, self.run)
                share, spread = self._through_gate(part, ratio, doubt, value)
            self.back.absorbed += share @ self.run.cast(part.bias)
            for term in part.terms:
                a, weight = self.run.of(term.source), self.run.cast(term.weight)
                rounded = (4 * EPS32 * np.abs(share) @ term.magnitude.T) ** 2
                total = spread @ (weight**2).T + rounded
                self.back.give(term.source, a * (share @ weight.T), a**2 * total)

    def _through_gate(
        self, part: Part, ratio: Array, doubt: Array, taken: Array
    ) -> tuple[Array, Array]:
        """s g for the part; with half gates the gate keeps half of s g · (what the part takes)."""
        assert part.gate is not None
        gate, e = self.run.of(part.gate), self.run.bound(part.gate)
        share, spread = ratio * gate, doubt * gate**2 + (ratio * e) ** 2
        if self.rules.gates != "half" or part.carries:
            return share, spread
        share, spread = share * self.run.cast(0.5), spread / 4
        self.back.give(part.gate, share * taken, spread * taken**2)
        return share, spread

    def _taylor(self, node: Affine) -> None:
        """Equations 13 and 15: R_j = Σ_k q_jk R_k / (Σ_j' q_j'k + max(0, b_k)), q by j's domain."""
        arrived, variance = self.back.at(node)
        square = takes_square_rule(node)
        denominator, moved = np.zeros_like(arrived), np.zeros(arrived.shape)
        taken: list[Array] = []
        for part in node.units:
            own = np.tile(self.run.cast(self._kept(part, square)), (len(arrived), 1))
            for term in part.terms:
                own = own + _contributions(term, self.run)
            taken.append(own)
            gate = 1 if part.gate is None else self.run.of(part.gate)
            if part.gate is not None:
                moved += (own * self.run.bound(part.gate)) ** 2
            for term in part.terms:
                e = np.where(np.isinf(term.source.low), 0.0, self.run.bound(term.source))
                moved += gate**2 * (e**2 @ term.weight**2)
            denominator = denominator + gate * own
        ratio = self._undivided(arrived, denominator)
        self.margin = np.minimum(
            self.margin, margin(denominator, np.where(arrived != 0, np.sqrt(moved), 0.0))
        )
        known = denominator > 0
        error = np.divide(np.sqrt(moved), denominator, out=np.zeros(moved.shape), where=known)
        scale = np.divide(1, denominator, out=np.zeros(moved.shape), where=known)
        doubt = (variance + (arrived * (error + 4 * EPS32)) ** 2) * scale**2
        for part, own in zip(node.units, taken, strict=True):
            share, spread = ratio, doubt
            if part.gate is not None:
                share, spread = self._through_gate(part, ratio, doubt, own)
            self.back.absorbed += share @ self.run.cast(self._kept(part, square))
            for term in part.terms:
                self._collect(term, share, spread)

    @staticmethod
    def _kept(part: Part, square: Mask) -> Array:
        return np.where(square, 0.0, np.maximum(part.bias, 0.0))

    def _collect(self, term: Term, share: Array, spread: Array) -> None:
        """Σ_k q_jk · share_k for every feature j of the term's source."""
        a, e = self.run.of(term.source), self.run.bound(term.source)
        given, variance = np.zeros_like(a), np.zeros(a.shape)
        for factor, weight in factors(term, self.run):
            given = given + factor * (share @ weight.T)
            variance = variance + factor**2 * (spread @ (weight**2).T)
            rounded = (np.abs(factor) * 4 * EPS32 + e) * (np.abs(share) @ np.abs(weight).T)
            variance = variance + rounded**2
        self.back.give(term.source, given, variance)


def takes_square_rule(node: Affine) -> Mask:
    """Return for every output whether its inputs are real; constant zeros beside them are none."""
    real, other = np.zeros((2, node.size), bool)
    for part in node.units:
        for term in part.terms:
            connected = term.magnitude > 0
            unbounded = np.isinf(term.source.low) | (
                (term.source.low < 0) & np.isinf(term.source.high)
            )
            if connected[unbounded].any() and not _is_input(term.source):
                raise MixedDomainError("a linear node reads an inner value that may be negative")
            zero = (term.source.low == 0) & (term.source.high == 0)
            real |= connected[unbounded].any(axis=0)
            other |= connected[~unbounded & ~zero].any(axis=0)
    if (real & other).any():
        raise MixedDomainError("a linear node mixes real graph inputs with other inputs")
    return real


def _is_input(node: Node) -> bool:
    if isinstance(node, Gather):
        sources = (s for s in node.sources if not isinstance(s, Constant))
        return all(not isinstance(s, Activation | Sum | Product | Normalise) for s in sources)
    return not isinstance(node, Activation | Sum | Product | Normalise)


def factors(term: Term, run: Forward) -> list[tuple[Array, Array]]:
    """(factor of feature j, weights) whose product is q_jk, by the domain of j.

    a w − l w⁺ − h w⁻ = (a − l) w⁺ + (a − h) w⁻ in a box, a w⁺ at [0, ∞), w² for real features.
    """
    a = run.of(term.source)
    low, high = term.source.low, term.source.high
    square = np.isinf(low) | ((low < 0) & np.isinf(high))
    plus = (low == 0) & np.isinf(high)
    box = ~square & ~plus
    up, down = np.maximum(term.weight, 0.0), np.minimum(term.weight, 0.0)
    pairs = [
        (a - np.where(box, low, 0.0), np.where((box | plus)[:, None], up, 0.0)),
        (a - np.where(box, high, 0.0), np.where(box[:, None], down, 0.0)),
        (np.ones_like(a), np.where(square[:, None], term.weight**2, 0.0)),
    ]
    return [(run.cast(factor), run.cast(weight)) for factor, weight in pairs if weight.any()]


def _contributions(term: Term, run: Forward) -> Array:
    """Σ_j q_jk."""
    n = len(run.relu_margin)
    total = run.cast(np.zeros((n, term.weight.shape[1])))
    for factor, weight in factors(term, run):
        total = total + factor @ weight
    return total
