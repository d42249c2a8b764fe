# SPDX-License-Identifier: Apache-2.0
"""How good estimators of the signal are: ρ(S) on samples that no pattern was fitted to.

    ρ(S) = 1 − max_v corr(vᵀ(x − S(x)), wᵀx)

is 1 where nothing linear of the output is left in what an estimator takes for the distractor. The v
of the largest correlation solves least squares. It is the ridge solution here: ``ridge`` times the
mean variance of the layer's inputs is added to the variance of each input, since a distractor has
no variance in some directions, such as w, and rounding has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrel.compiler.graph.nodes import Graph
from pyrel.methods.options import number, word
from pyrel.methods.pattern import PatternNet, filter_direction, random_direction
from pyrel.patterns.fit import BATCH, batches, evaluated
from pyrel.patterns.layers import Layer, layers_of, resolved
from pyrel.patterns.moments import Floats, Mask, rounding_of_outputs
from pyrel.patterns.patterns import FITTED, LayerPatterns, Patterns

ESTIMATORS = ("identity", "filter", "linear", "two_component", "random")


@dataclass(frozen=True, eq=False)
class LayerQuality:
    """ρ(S) of the units of one layer.

    Attributes
    ----------
    module : str
        Path of the module.
    rows : int
        How many rows it was measured on: samples times steps times positions.
    rank : int
        Of the covariance of the inputs.
    values : dict
        By estimator, an array (units,) of the units that relevance reaches; NaN where a unit has no
        pattern, or its output does not vary.
    """

    module: str
    rows: int
    rank: int
    values: Mapping[str, Floats]

    def mean(self, estimator: str) -> float:
        """Return the mean over units; NaN where there is none."""
        known = self.values[estimator][np.isfinite(self.values[estimator])]
        return float(known.mean()) if known.size else float("nan")


def quality(
    graph: Graph,
    patterns: Patterns,
    x: Any,
    *,
    estimators: Sequence[str] = ESTIMATORS,
    ridge: float = 1e-3,
    seed: int = 0,
    batch: int = BATCH,
) -> tuple[LayerQuality, ...]:
    """Measure ρ(S) of each layer, in one pass over samples (Kindermans et al. 2018, section 3).

    "two_component" takes a₊ where wᵀx > 0 and a₋ elsewhere, whatever follows the layer.

    Parameters
    ----------
    graph : Graph
    patterns : Patterns
        Fitted to other samples of the same model, with both components.
    x : ndarray or Tensor, shape (n, ...)
    estimators : sequence of str
        Some of `ESTIMATORS`.
    ridge : float, default 1e-3
        Above 0; see the module's text.
    seed : int
        Of the random estimator.
    batch : int
        Samples at a time. A layer of u units over i inputs takes 8 · i · (i + 2 u) bytes, and four
        times 8 · i · u more while ρ is computed.

    Returns
    -------
    tuple of LayerQuality
        In the order of the model.

    Raises
    ------
    ValueError
        There are no samples, or NaN among them; or the patterns are of another model.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.randn(1000, 3)
    >>> graph = pyrel.capture(model, x)
    >>> patterns = pyrel.patterns.fit(graph, x[:500])
    >>> first, last = pyrel.patterns.quality(graph, patterns, x[500:])
    >>> first.module, bool(first.mean("linear") > first.mean("filter"))
    ('0', True)
    """
    for name in estimators:
        word("estimators", name, *ESTIMATORS)
    if not number("ridge", ridge) > 0:
        raise ValueError(f"ridge: wanted a number above 0, got {ridge!r}")
    graph = resolved(graph, PatternNet())
    fitted = [(layer, _patterns_of(layer, patterns)) for layer in layers_of(graph)]
    seen = _seen(graph, [layer for layer, _ in fitted], x, batch)
    pairs = zip(fitted, seen, strict=True)
    return tuple(_quality(*both, each, estimators, ridge, seed) for both, each in pairs)


def _seen(graph: Graph, layers: Sequence[Layer], x: Any, batch: int) -> list[_Held]:
    """Run over the samples."""
    seen = [_Held.nothing(layer) for layer in layers]
    count = 0
    for some in batches(x, batch):
        values = evaluated(graph, some)
        count += len(values)
        seen = [
            each.merged(_Held.of(layer.inputs(values), layer.weight))
            for each, layer in zip(seen, layers, strict=True)
        ]
    if not count:
        raise ValueError("x: wanted samples to measure on, and there are none")
    return seen


def _patterns_of(layer: Layer, patterns: Patterns) -> LayerPatterns:
    for each in patterns.layers:
        if each.module == layer.module and np.array_equal(each.columns, layer.columns):
            return each
    raise ValueError(f"patterns: there are none for the weights of module '{layer.module}'")


@dataclass(frozen=True, eq=False)
class _Held:
    """Co-moments of the inputs of a layer, and of p = max(0, y) and q = min(0, y) of its units.

    Attributes
    ----------
    count : int
    mean_x : ndarray, shape (inputs,)
    mean_y : ndarray, shape (2, units)
        Of p and of q, as all that follows.
    xx : ndarray, shape (inputs, inputs)
        Σ of products of deviations, as all that follows.
    xy : ndarray, shape (2, units, inputs)
    yy : ndarray, shape (2, 2, units)
    largest : ndarray, shape (inputs,)
        Largest size of each input.
    """

    count: int
    mean_x: Floats
    mean_y: Floats
    xx: Floats
    xy: Floats
    yy: Floats
    largest: Floats

    @classmethod
    def nothing(cls, layer: Layer) -> _Held:
        """Make those of no rows."""
        units, inputs = layer.weight.shape
        shapes = (inputs,), (2, units), (inputs, inputs), (2, units, inputs), (2, 2, units)
        return cls(0, *(np.zeros(shape) for shape in (*shapes, (inputs,))))

    @classmethod
    def of(cls, x: Floats, weight: Floats) -> _Held:
        """Take those of a batch; see `pyrel.patterns.moments`."""
        y = x @ weight.T
        parts = np.stack([np.maximum(y, 0.0), np.minimum(y, 0.0)])
        largest, mean_x, mean_y = np.abs(x).max(axis=0), x.mean(axis=0), parts.mean(axis=1)
        x, parts = x - mean_x, parts - mean_y[:, None]
        xy = parts.transpose(0, 2, 1) @ x
        return cls(
            len(x), mean_x, mean_y, x.T @ x, xy, np.einsum("anu,bnu->abu", parts, parts), largest
        )

    def merged(self, other: _Held) -> _Held:
        """Return those of the rows of both."""
        count = self.count + other.count
        share = other.count / count
        of_x, of_y = other.mean_x - self.mean_x, other.mean_y - self.mean_y
        between = self.count * share
        return _Held(
            count,
            self.mean_x + share * of_x,
            self.mean_y + share * of_y,
            self.xx + other.xx + between * np.outer(of_x, of_x),
            self.xy + other.xy + between * of_y[:, :, None] * of_x,
            self.yy + other.yy + between * of_y[:, None] * of_y,
            np.maximum(self.largest, other.largest),
        )


def _quality(
    layer: Layer,
    fitted: LayerPatterns,
    seen: _Held,
    estimators: Sequence[str],
    ridge: float,
    seed: int,
) -> LayerQuality:
    rounding = rounding_of_outputs(layer.weight, seen.largest)
    varies = seen.yy.sum(axis=(0, 1)) / seen.count > rounding**2
    values = {}
    for name in estimators:
        signal, known = _signal(name, layer, fitted, seed)
        found = np.ones(len(known)) if signal is None else _by_inputs(layer, signal, seen, ridge)
        values[name] = np.where(known & varies, found, np.nan)
    rank = int(np.linalg.matrix_rank(seen.xx, hermitian=True))
    return LayerQuality(layer.module, seen.count, rank, values)


def _signal(
    name: str, layer: Layer, fitted: LayerPatterns, seed: int
) -> tuple[Floats | None, Mask]:
    """Return what an estimator multiplies p and q by, (2, units, inputs), and which units have it.

    None leaves no distractor.
    """
    known = np.ones(len(layer.units), dtype=bool)
    if name == "identity":
        return None, known
    if name not in FITTED:
        one = random_direction(layer.weight, seed)
        if name == "filter":
            one = filter_direction(layer.weight)
        one = np.where(layer.connected, one, 0.0)
        known = np.asarray(layer.weight.any(axis=1))
        return np.stack([one, one]), known
    known = fitted.a.known[layer.units]
    if name == "linear":
        return np.stack([fitted.a.values[layer.units]] * 2), known
    if fitted.plus is None or fitted.minus is None:
        raise ValueError("patterns: only the linear estimator was fitted")
    pair = np.stack([fitted.plus.values[layer.units], fitted.minus.values[layer.units]])
    return pair, known


def _by_inputs(layer: Layer, signal: Floats, seen: _Held, ridge: float) -> Floats:
    """Measure units that read the same inputs together, on these inputs alone."""
    found = np.empty(len(layer.units))
    kinds, group = np.unique(layer.connected, axis=0, return_inverse=True)
    for kind, read in enumerate(kinds):
        units = np.flatnonzero(np.ravel(group) == kind)
        some = np.ix_(np.arange(2), units, np.flatnonzero(read))
        xx = seen.xx[np.ix_(read, read)] / seen.count
        xy, yy = seen.xy[some] / seen.count, seen.yy[:, :, units] / seen.count
        found[units] = 1.0 - _largest_correlation(signal[some], xx, xy, yy, ridge)
    return found


def _largest_correlation(
    signal: Floats, xx: Floats, xy: Floats, yy: Floats, ridge: float
) -> Floats:
    """Return corr(vᵀd, y) of the ridge solution v, with d = x − a₊ p − a₋ q and y = p + q.

    cov(d) = cov(x) + U B Uᵀ with U = [a₊ a₋ cov(x, p) cov(x, q)] and B = [[V, −1], [−1, 0]], V the
    covariance of p and q. And g = cov(d, y) = U β. So v = (M + U B Uᵀ)⁻¹ g = M⁻¹ U γ, M being
    cov(x) + λ, with γ = (B⁻¹ + Uᵀ M⁻¹ U)⁻¹ B⁻¹ β (Woodbury): one system of equations for all units.
    """
    inputs, units = len(xx), signal.shape[1]
    added = ridge * np.trace(xx) / inputs
    if added == 0:
        return np.zeros(units)  # inputs that do not vary
    u = np.concatenate([signal, xy]).transpose(1, 2, 0)  # (units, inputs, 4)
    flat = u.transpose(1, 0, 2).reshape(inputs, -1)
    solved = np.linalg.solve(xx + added * np.eye(inputs), flat)
    solved = solved.reshape(inputs, units, 4).transpose(1, 0, 2)
    with_y = yy.sum(axis=1).T  # cov(p, y), cov(q, y): (units, 2)
    beta = np.concatenate([-with_y, np.ones((units, 2))], axis=1)
    inverse = np.zeros((units, 4, 4))
    inverse[:, :2, 2:] = inverse[:, 2:, :2] = -np.eye(2)
    inverse[:, 2:, 2:] = -yy.transpose(2, 0, 1)
    inner = u.transpose(0, 2, 1) @ solved
    gamma = np.linalg.solve(inverse + inner, (inverse @ beta[:, :, None]))
    v = (solved @ gamma)[:, :, 0]
    g = (u @ beta[:, :, None])[:, :, 0]
    along = (v * g).sum(axis=1)
    variance = along - added * (v**2).sum(axis=1)
    size = np.sqrt(np.maximum(variance, 0.0) * with_y.sum(axis=1))
    found = np.zeros(units)
    np.divide(np.maximum(along, 0.0), size, out=found, where=size > 0)
    return found
