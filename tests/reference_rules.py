# SPDX-License-Identifier: Apache-2.0
"""The other rules of linear nodes for the reference: αβ, γ, flat, w², z^β, ε; and shared biases.

Sources: Bach et al. 2015, equation 60 (αβ); Montavon et al. 2019, "Layer-Wise Relevance
Propagation: An Overview" (γ, in the form for inputs and outputs of any sign; flat; z^β); Montavon
et al. 2017, equation 13 (w²); Arras et al. 2017, equation 1 with a bias factor of 1 (shared biases,
but that inputs which are constants count as none).

A rule is one or two `Channel`s, each with a denominator D = Σ_j f_j m_jk + c_k of its own. A gate
multiplies the weights and the bias of its part: m grows with the gate to the channel's power.
What is handed on rounds as `reference_relevance` says; but what arrives here need not be in
proportion to z, so an error of D counts in full.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from reference_backward import counts, varies
from reference_forward import Forward, margin
from reference_graph import EPS32, Affine, Array, Mask, Part, Term
from reference_relevance import factors, takes_square_rule

Triple = tuple[Array, Array, Array]  # f_j and its rounding bound (n, in), m (in, out)


@dataclass(frozen=True)
class ReferenceRule:
    """A rule by its name, with its parameters."""

    name: str = "epsilon"
    epsilon: float = 1e-6
    alpha: float = 2.0
    beta: float = 1.0
    textbook: bool = False
    gamma: float = 0.25


@dataclass(frozen=True)
class Channel:
    """Hands on `weight` · R of outputs of one `sign` (0: any) by the shares f_j m_jk / D."""

    triples: Callable[[Term, Forward], list[Triple]]
    constant: Callable[[Array], Array]
    weight: float = 1.0
    sign: int = 0
    epsilon: float = 0.0
    power: int = 1


@dataclass(frozen=True)
class _Sum:
    """D (n, out), its rounding bound, and what each part adds to it before its gate."""

    total: Array
    bound: Array
    owns: list[Array]


def _plus(values: Array) -> Array:
    return np.maximum(values, 0.0)


def _minus(values: Array) -> Array:
    return np.minimum(values, 0.0)


def _signed(
    term: Term, run: Forward, at_plus: Callable[[Array], Array], at_minus: Callable[[Array], Array]
) -> list[Triple]:
    """max(0, a) · at_plus(w) and min(0, a) · at_minus(w)."""
    a, e = run.of(term.source), run.bound(term.source)
    return [
        (_plus(a), np.where(a > -e, e, 0.0), run.cast(at_plus(term.weight))),
        (_minus(a), np.where(a < e, e, 0.0), run.cast(at_minus(term.weight))),
    ]


def _alpha_beta(rule: ReferenceRule) -> list[Channel]:
    """Contributions > 0, and those < 0 unless they count for nothing."""
    positive = Channel(lambda t, run: _signed(t, run, _plus, _minus), _plus, rule.alpha)
    negative = Channel(lambda t, run: _signed(t, run, _minus, _plus), _minus, -rule.beta)
    return [positive, negative] if rule.beta else [positive]


def _gamma(rule: ReferenceRule) -> list[Channel]:
    def more(favoured: Callable[[Array], Array]) -> Callable[[Array], Array]:
        return lambda w: w + rule.gamma * favoured(w)

    up, down = more(_plus), more(_minus)
    return [
        Channel(lambda t, run: _signed(t, run, up, down), up, sign=1, epsilon=rule.epsilon),
        Channel(lambda t, run: _signed(t, run, down, up), down, sign=-1, epsilon=rule.epsilon),
    ]


def _by_weights(
    power: int, share: Callable[[Array], Array]
) -> Callable[[ReferenceRule], list[Channel]]:
    """Shares that no value changes; only what is always zero gets none."""

    def triples(term: Term, run: Forward) -> list[Triple]:
        there = np.tile(counts(term.source).astype(float), (len(run.relu_margin), 1))
        return [(run.cast(there), np.zeros(there.shape), run.cast(share(term.magnitude)))]

    return lambda rule: [Channel(triples, np.zeros_like, power=power)]


def _epsilon(rule: ReferenceRule) -> list[Channel]:
    def triples(term: Term, run: Forward) -> list[Triple]:
        return [(run.of(term.source), run.bound(term.source), run.cast(term.weight))]

    return [Channel(triples, lambda b: b, epsilon=rule.epsilon)]


def _z_beta(rule: ReferenceRule) -> list[Channel]:
    """Also w² where all inputs are real, as deep Taylor does: there is no bias then."""

    def triples(term: Term, run: Forward) -> list[Triple]:
        e = np.where(np.isinf(term.source.low), 0.0, run.bound(term.source))
        return [(factor, e, weight) for factor, weight in factors(term, run)]

    return [Channel(triples, _plus)]


_CHANNELS: dict[str, Callable[[ReferenceRule], list[Channel]]] = {
    "alpha_beta": _alpha_beta,
    "gamma": _gamma,
    "flat": _by_weights(0, lambda magnitude: (magnitude > 0).astype(float)),
    "w_squared": _by_weights(2, lambda magnitude: magnitude**2),
    "epsilon": _epsilon,
    "z_beta": _z_beta,
}


def propagate(walk: Any, node: Affine, rule: ReferenceRule) -> None:
    """Hand the relevance of a linear node on to its inputs."""
    _Step(walk, node, rule).run_all()


class _Step:
    def __init__(self, walk: Any, node: Affine, rule: ReferenceRule) -> None:
        self.walk, self.node, self.rule = walk, node, rule
        self.run: Forward = walk.run
        self.arrived, self.variance = walk.back.at(node)
        self.shares = walk.rules.shares_bias
        self.handed = np.zeros_like(self.arrived)  # to what is not a constant, by output
        self.loose = np.zeros(self.arrived.shape)  # variance of what is left over
        # Where deep Taylor's node has w², no bias counts.
        domain = rule.name == "z_beta" and takes_square_rule(node)
        self.biased = ~domain if np.ndim(domain) else np.ones(node.size, bool)

    def run_all(self) -> None:
        channels = _CHANNELS[self.rule.name](self.rule)
        sums = [self._sum(channel) for channel in channels]
        weights = [np.full(self.arrived.shape, channel.weight) for channel in channels]
        if len(channels) == 2 and self.rule.name == "alpha_beta" and not self.rule.textbook:
            # Where one part has no contributions, the other takes all.
            for weight, other in zip(weights, sums[::-1], strict=True):
                weight[other.total == 0] = 1.0
        for channel, one, weight in zip(channels, sums, weights, strict=True):
            self._hand_on(channel, one, weight)
        left = self.arrived - self.handed
        if self.shares:
            left = self._spread(left)
        self.walk.back.absorbed += left.sum(axis=1)

    def _gate(self, part: Part, power: int) -> tuple[Array | float, Array | float]:
        """The gate to a power, and its rounding bound."""
        if part.gate is None or power == 0:
            return 1.0, 0.0
        gate, e = self.run.of(part.gate), self.run.bound(part.gate)
        return gate**power, power * np.abs(gate) ** (power - 1) * e

    def _sum(self, channel: Channel) -> _Sum:
        shape = self.arrived.shape
        total, magnitude, moved = self.run.cast(np.zeros(shape)), np.zeros(shape), np.zeros(shape)
        owns = []
        for part in self.node.units:
            constant = np.where(self.biased, channel.constant(part.bias), 0.0)
            own = np.tile(self.run.cast(constant), (len(total), 1))
            size, inherited = np.abs(own), np.zeros(shape)
            for term in part.terms:
                for factor, e, matrix in channel.triples(term, self.run):
                    own = own + factor @ matrix
                    size = size + np.abs(factor) @ np.abs(matrix)
                    inherited = inherited + e**2 @ matrix**2
            gate, e_gate = self._gate(part, channel.power)
            total, magnitude = total + gate * own, magnitude + np.abs(gate) * size
            moved = moved + gate**2 * inherited + (own * e_gate) ** 2
            owns.append(own)
        return _Sum(total, np.sqrt(moved + (4 * EPS32 * magnitude) ** 2), owns)

    def _near_zero(self, size: Array, bound: Array, met: Mask) -> None:
        nearest = margin(np.abs(size), np.where(met, bound, 0.0))
        self.walk.margin = np.minimum(self.walk.margin, nearest)

    def _hand_on(self, channel: Channel, one: _Sum, weight: Array) -> None:
        z = self.run.of(self.node)
        active = z * channel.sign > 0 if channel.sign else np.ones(z.shape, bool)
        if channel.sign:
            self._near_zero(z, self.run.bound(self.node), self.arrived != 0)
        self._near_zero(one.total, one.bound, (self.arrived != 0) & active)
        stabilised = one.total + channel.epsilon * np.where(one.total < 0, -1.0, 1.0)
        known = active & (stabilised != 0)
        scale = np.divide(weight, stabilised, out=np.zeros(weight.shape), where=known)
        ratio = self.arrived * scale
        self.walk.largest = np.maximum(self.walk.largest, np.abs(self.arrived).sum(axis=1))
        size = np.maximum(np.abs(one.total), one.bound) + channel.epsilon
        error = 2 * np.divide(one.bound, size, out=np.zeros(size.shape), where=size > 0)
        doubt = self.variance * scale**2 + (ratio * (error + 4 * EPS32)) ** 2
        self.loose += (ratio * one.bound) ** 2 + (4 * EPS32 * ratio * one.total) ** 2
        for part, own in zip(self.node.units, one.owns, strict=True):
            gate, e_gate = self._gate(part, channel.power)
            share, spread = ratio * gate, doubt * gate**2 + (ratio * e_gate) ** 2
            halves = self.walk.rules.gates == "half" and part.gate is not None
            if halves and not part.carries:
                share, spread = share / 2, spread / 4
                self.walk.back.give(part.gate, share * own, spread * own**2)
                self.handed = self.handed + share * own
            for term in part.terms:
                self._give(channel, term, share, spread)

    def _give(self, channel: Channel, term: Term, share: Array, spread: Array) -> None:
        given = np.zeros_like(self.run.of(term.source))
        variance = np.zeros(given.shape)
        for every, e, matrix in channel.triples(term, self.run):
            factor = np.where(varies(term.source), every, 0.0) if self.shares else every
            given = given + factor * (share @ matrix.T)
            variance = variance + factor**2 * (spread @ (matrix**2).T)
            rounded = (np.abs(factor) * 4 * EPS32 + e) * (np.abs(share) @ np.abs(matrix).T)
            variance = variance + rounded**2
            self.handed = self.handed + share * (factor @ matrix)
        self.walk.back.give(term.source, given, variance)

    def _spread(self, left: Array) -> Array:
        """Give what is left in equal parts to what is neither constant nor padding.

        Returns what is left of outputs that read no such thing.
        """
        terms = [term for part in self.node.units for term in part.terms]
        read = [
            (varies(term.source) & counts(term.source))[:, None] * (term.magnitude > 0)
            for term in terms
        ]
        number = np.sum([mask.sum(axis=0) for mask in read], axis=0)
        each = np.divide(left, number, out=np.zeros_like(left), where=number > 0)
        part = np.divide(left, self.arrived, out=np.ones(left.shape), where=self.arrived != 0)
        doubt = self.variance * part**2 + self.loose + (4 * EPS32 * self.arrived) ** 2
        doubt = doubt / np.maximum(number, 1) ** 2
        for term, mask in zip(terms, read, strict=True):
            weight = mask.astype(float)
            rounded = (4 * EPS32 * np.abs(each) @ weight.T) ** 2
            self.walk.back.give(term.source, each @ weight.T, doubt @ weight.T + rounded)
        return np.where(number > 0, 0.0, left)
