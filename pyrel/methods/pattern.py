# SPDX-License-Identifier: Apache-2.0
"""PatternNet and PatternAttribution (Kindermans et al. 2018): gradients with patterns for weights.

Where a gradient multiplies by the weights w of a linear node, PatternNet multiplies by the signal
directions p, and PatternAttribution by w ⊙ p. With y = wᵀx the signal in the inputs x is
S(x) = p y; estimators of S differ in p.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol
from zlib import crc32

import numpy as np

from pyrel.methods.base import GradientMethod
from pyrel.methods.enums import Start
from pyrel.methods.options import number, word
from pyrel.methods.other_rules import Rule, SignalTimesGate, stabiliser
from pyrel.methods.rules import LinearRule
from pyrel.methods.site import Site
from pyrel.methods.terms import (
    Denominator,
    Factor,
    Floats,
    LinearNode,
    Propagation,
    Term,
    columns,
)

_FITTED = ("two_component", "linear")
_UNFITTED = ("filter", "random")


class Directions(Protocol):
    """Patterns that were fitted, as `pyrel.patterns.Patterns`."""

    def direction(self, module: str, weight: Floats, estimator: str) -> Floats | None:
        """Return those of a linear node, of the shape of its weights; None if there are none."""


def filter_direction(weight: Floats) -> Floats:
    """Return w / wᵀw, of the filter-based estimator S_w; 0 for a unit without weights."""
    values = weight.astype(np.float64)
    return _over(values, np.einsum("ui,ui->u", values, values))


def random_direction(weight: Floats, seed: int) -> Floats:
    """Return u / wᵀu, of an estimator that knows nothing: u is drawn by seed and weights."""
    contents = crc32(np.ascontiguousarray(weight).data)
    drawn = np.random.default_rng([seed, contents]).standard_normal(weight.shape)
    return _over(drawn, np.einsum("ui,ui->u", weight, drawn))


def _over(values: Floats, divisor: Floats) -> Floats:
    """Divide in place; what is divided by 0 becomes 0."""
    values[divisor == 0] = 0.0
    values /= np.where(divisor == 0, 1.0, divisor)[:, None]
    return values


class SignalDirection(LinearRule):
    """R_j = Σ_k p_kj R_k, or Σ_k w_kj p_kj R_k with ``attributes``: p are signal directions.

    Parameters
    ----------
    patterns : Directions or None
        That were fitted; the estimators "filter" and "random" need none.
    modules : sequence of str
        Of the node, and of what was merged into it.
    estimator : {"two_component", "linear", "filter", "random"}
    attributes : bool
    seed : int
        Of the estimator "random".

    Raises
    ------
    ValueError
        While a model is compiled: there are no patterns for a node.
    """

    def __init__(
        self,
        patterns: Directions | None,
        modules: Sequence[str],
        estimator: str,
        attributes: bool,
        seed: int = 0,
    ) -> None:
        self.patterns, self.modules, self.estimator = patterns, modules, estimator
        self.attributes, self.seed = attributes, seed

    def __repr__(self) -> str:
        """Show what it multiplies by, and the estimator."""
        return f"SignalDirection({self.estimator!r}{', times weight' if self.attributes else ''})"

    def propagation(self, node: LinearNode) -> Propagation:
        """Multiply by the directions."""
        features = ~node.constant
        matrix = node.laid_out(self._direction)
        matrix = matrix * (node.weight if self.attributes else node.read)
        return Propagation.of(Term(features, columns(matrix, features)))

    def _direction(self, weight: Floats) -> Floats:
        if self.estimator == "filter":
            return filter_direction(weight)
        if self.estimator == "random":
            return random_direction(weight, self.seed)
        assert self.patterns is not None
        for module in self.modules:
            found = self.patterns.direction(module, weight, self.estimator)
            if found is not None:
                return found
        raise ValueError(
            f"patterns: there are none for the {weight.shape[0]} × {weight.shape[1]} weights "
            f"of module '{self.modules[0]}'; fit them to this model, as it is now: "
            "pyrel.patterns.fit(pyrel.capture(model, x), x)"
        )


class Identity(LinearRule):
    """R_j = Σ_k a_j w_kj R_k / wᵀa: the estimator S_x(x) = x, all of the input is signal.

    Parameters
    ----------
    epsilon : float, default 1e-6
        Added to wᵀa, which is without the bias, with its sign.
    """

    def __init__(self, epsilon: float = 1e-6) -> None:
        self.epsilon = stabiliser(epsilon)

    def propagation(self, node: LinearNode) -> Propagation:
        """Divide by the outputs less the bias."""
        features = ~node.constant
        term = Term(features, columns(node.weight, features), Factor.value)
        denominator = Denominator(-node.bias, output=True, epsilon=self.epsilon)
        return Propagation.of(term, denominator=denominator)


class _PatternMethod(GradientMethod):
    """What both have in common: everything but linear nodes and gates is as for a gradient."""

    start = Start.output
    whole_layers = True

    def __init__(
        self,
        patterns: Directions | None = None,
        estimator: str = "two_component",
        seed: int = 0,
        autograd: str = "exact",
    ) -> None:
        super().__init__(autograd)
        self.patterns = patterns
        self.estimator = self._checked(estimator)
        self.seed = int(number("seed", seed, "a whole number of 0 or more"))
        if self.seed != seed or self.seed < 0:
            raise ValueError(f"seed: wanted a whole number of 0 or more, got {seed!r}")
        if patterns is not None and not hasattr(patterns, "direction"):
            raise TypeError(
                "patterns: wanted those of pyrel.patterns.fit or Patterns.load, got "
                f"{type(patterns).__name__}"
            )

    def _checked(self, estimator: str) -> str:
        return word("estimator", estimator, *_FITTED, *_UNFITTED)

    @property
    def options(self) -> dict[str, Any]:
        """``estimator``, and ``seed`` and ``autograd`` unless they are the default.

        Not the patterns: a saved program has what came of them.
        """
        seed = {"seed": self.seed} if self.seed else {}
        return {"estimator": self.estimator, **seed, **super().options}

    def rule(self, site: Site) -> Rule:
        """Propagate by patterns at linear nodes; gates get nothing; else differentiate.

        Raises
        ------
        ValueError
            The estimator needs patterns, and there are none.
        """
        if site.is_linear:
            if self.estimator in _FITTED and self.patterns is None:
                raise ValueError(
                    f"{self.name} needs patterns=, which pyrel.patterns.fit makes of a captured "
                    "model and samples"
                )
            return self.linear_rule(site)
        return SignalTimesGate() if site.kind == "product" else super().rule(site)

    def linear_rule(self, site: Site) -> LinearRule:
        """Propagate by the directions."""
        return SignalDirection(self.patterns, site.modules, self.estimator, False, self.seed)


class PatternNet(_PatternMethod):
    """Back-projects the output by signal directions in place of weights (Kindermans et al. 2018).

    Starts from f_target. Everything but linear nodes is as for a gradient: a ReLU keeps what
    arrives where it is active. A gate, such as those of an LSTM, is taken for a constant.

    Parameters
    ----------
    patterns : pyrel.patterns.Patterns, optional
        Fitted to this model; needed by the estimators "two_component" and "linear".
    estimator : {"two_component", "linear", "filter", "random"}
        Of the signal: a₊ before a ReLU and a elsewhere; a; w / wᵀw; or a random direction. Each is
        of all weights of a layer, over [x; h] where a step reads both.
    seed : int
        Of the random one.
    autograd : {"exact", "ignore"}
        As for `Gradient`.
    """

    name = "pattern_net"


class PatternAttribution(_PatternMethod):
    """Propagates relevance by w ⊙ S(x) / wᵀx, S the signal in x (Kindermans et al. 2018).

    For S(x) = p wᵀx that is w ⊙ p: of what arrives at a unit, each input gets the part of the
    output that the signal in it makes up. Else as `PatternNet`.

    Parameters
    ----------
    patterns, seed, autograd
        As for `PatternNet`.
    estimator : {"two_component", "linear", "filter", "random", "identity"}
        As for `PatternNet`; with "identity" all of x is signal.
    """

    name = "pattern_attribution"

    def _checked(self, estimator: str) -> str:
        return word("estimator", estimator, *_FITTED, *_UNFITTED, "identity")

    def linear_rule(self, site: Site) -> LinearRule:
        """Propagate by the directions times the weights."""
        if self.estimator == "identity":
            return Identity()
        return SignalDirection(self.patterns, site.modules, self.estimator, True, self.seed)
