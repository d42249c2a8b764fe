# SPDX-License-Identifier: Apache-2.0
"""How good estimators of the signal are: ρ(S) on samples that no pattern was fitted to.

    ρ(S) = 1 − max_v corr(vᵀ(x − S(x)), wᵀx)

is 1 where nothing linear of the output is left in what an estimator takes for the distractor. The v
of the largest correlation solves least squares. It is the ridge solution here: ``ridge`` times the
mean variance of the layer's inputs is added to the variance of each input, since a distractor has
no variance in some directions, such as w, and rounding has.

A layer of u units over i inputs takes 8 · i · (i + 2 u) bytes of co-moments, and 8 · i · (4 i + u)
more while its ρ is computed, one layer after the other: the covariance of the inputs with the ridge
and its inverse, each twice, and the random directions. What is computed by blocks of units takes at
most 64 MB beside them; of each batch the values of the graph take 8 bytes each, and of one layer at
a time 16 for each input and 40 for each output of each row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pyrel.compiler.graph.nodes import Addresses, Graph
from pyrel.compiler.graph.unit_blocks import blocks, outputs_of
from pyrel.methods.options import number, word
from pyrel.methods.pattern import PatternNet, filter_direction, random_direction
from pyrel.patterns.fit import BATCH, batches, evaluated
from pyrel.patterns.layers import Layer, layers_of, resolved
from pyrel.patterns.moments import Floats, Mask, largest_sizes, rounding_of_outputs
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
    """Measure ρ(S) of each layer, in one pass over samples (Kindermans et al. 2018).

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
        Samples at a time. A layer of u units over i inputs takes 8 · i · (i + 2 u) bytes, and
        8 · i · (4 i + u) more while its ρ is computed; see the module's text.

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
    layers = layers_of(graph)
    directions = [_Directions(layer, _patterns_of(layer, patterns), seed) for layer in layers]
    pairs = zip(directions, _seen(graph, layers, x, batch), strict=True)
    return tuple(_quality(*both, estimators, ridge) for both in pairs)


def _seen(graph: Graph, layers: Sequence[Layer], x: Any, batch: int) -> list[_Held]:
    """Run over the samples."""
    seen = [_Held.nothing(layer) for layer in layers]
    count = 0
    for some in batches(x, batch):
        values = evaluated(graph, some)
        count += len(values)
        for each, layer in zip(seen, layers, strict=True):
            each.add(layer.inputs(values), layer.weight)
    if not count:
        raise ValueError("x: wanted samples to measure on, and there are none")
    for each in seen:
        each.finish()
    return seen


def _patterns_of(layer: Layer, patterns: Patterns) -> LayerPatterns:
    for each in patterns.layers:
        if each.module == layer.module and np.array_equal(each.columns, layer.columns):
            return each
    raise ValueError(f"patterns: there are none for the weights of module '{layer.module}'")


@dataclass(eq=False)
class _Held:
    """Co-moments of the inputs of a layer, and of p = max(0, y) and q = min(0, y) of its units.

    They are changed in place, block by block; see `pyrel.patterns.moments`.

    Attributes
    ----------
    count : int
    mean_x : ndarray, shape (inputs,)
    mean_y : ndarray, shape (2, units)
        Of p and of q, as all that follows.
    xx : ndarray, shape (inputs, inputs)
        Σ of products of deviations, as all that follows, or their mean after `finish`; until then
        what is below the diagonal lacks.
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

    def add(self, x: Floats, weight: Floats) -> None:
        """Take rows of inputs, (rows, inputs), which are centred in place."""
        y = outputs_of(x, weight)
        parts = np.stack([np.maximum(y, 0.0), np.minimum(y, 0.0)])
        self.largest = np.maximum(self.largest, largest_sizes(x))
        mean_x, mean_y = x.mean(axis=0), parts.mean(axis=1)
        x -= mean_x
        parts -= mean_y[:, None]
        count = self.count + len(x)
        share = len(x) / count
        of_x, of_y = mean_x - self.mean_x, mean_y - self.mean_y
        between = self.count * share
        for some in blocks(len(self.xx), len(self.xx)):
            after = slice(some.start, None)
            self.xx[some, after] += x[:, some].T @ x[:, after]
            self.xx[some, after] += between * np.outer(of_x[some], of_x[after])
        for units in blocks(*weight.shape):
            for part, xy, differ in zip(parts, self.xy, of_y, strict=True):
                xy[units] += part[:, units].T @ x
                xy[units] += np.outer(between * differ[units], of_x)
        self.yy += np.einsum("anu,bnu->abu", parts, parts)
        self.yy += between * of_y[:, None] * of_y
        self.mean_x += share * of_x
        self.mean_y += share * of_y
        self.count = count

    def finish(self) -> None:
        """Fill in what lies below the diagonal, and divide all by the number of rows."""
        for some in blocks(len(self.xx), len(self.xx)):
            self.xx[some.stop :, some] = self.xx[some, some.stop :].T
        for each in (self.xx, self.xy, self.yy):
            each /= self.count


@dataclass(frozen=True, eq=False)
class _Directions:
    """What estimators multiply p and q of the units of a layer by."""

    layer: Layer
    fitted: LayerPatterns
    seed: int

    def known(self, estimator: str) -> Mask:
        """Return which units have a direction, (units,)."""
        if estimator == "identity":
            return np.ones(len(self.layer.units), dtype=bool)
        if estimator in FITTED:
            return self.fitted.a.known[self.layer.units]
        return np.asarray(self.layer.weight.any(axis=1))

    def of(self, estimator: str) -> Callable[[Addresses], Floats]:
        """Return what makes those of some units, (2, units, inputs)."""
        layer = self.layer
        if estimator == "two_component":
            plus, minus = self.fitted.plus, self.fitted.minus
            if plus is None or minus is None:
                raise ValueError("patterns: only the linear estimator was fitted")
            pair = plus.values, minus.values
            return lambda some: np.stack([values[layer.units[some]] for values in pair])
        if estimator == "filter":
            return lambda some: self._both(filter_direction(layer.weight[some]), some)
        # Those of the units that relevance does not reach are drawn, too, as the method does.
        values = self.fitted.a.values
        if estimator == "random":
            values = random_direction(layer.all_weights, self.seed)
        return lambda some: self._both(values[layer.units[some]], some)

    def _both(self, one: Floats, some: Addresses) -> Floats:
        one = np.where(self.layer.connected[some], one, 0.0)
        return np.stack([one, one])


def _quality(
    directions: _Directions, seen: _Held, estimators: Sequence[str], ridge: float
) -> LayerQuality:
    layer = directions.layer
    varies = seen.yy.sum(axis=(0, 1)) > rounding_of_outputs(layer.weight, seen.largest) ** 2
    values = {name: np.ones(len(layer.units)) for name in estimators}
    for read, units in _by_inputs(layer):
        _measure(values, directions, seen, ridge, read, units)
    for name, found in values.items():
        found[~(directions.known(name) & varies)] = np.nan
    rank = int(np.linalg.matrix_rank(seen.xx, hermitian=True))
    return LayerQuality(layer.module, seen.count, rank, values)


def _by_inputs(layer: Layer) -> Iterator[tuple[Mask, Addresses]]:
    """Group units that read the same inputs; yields marks of these, (inputs,), and the units."""
    if layer.connected.all():
        yield np.ones(layer.columns.size, dtype=bool), np.arange(len(layer.units))
        return
    kinds, group = np.unique(layer.connected, axis=0, return_inverse=True)
    for kind, read in enumerate(kinds):
        yield read, np.flatnonzero(np.ravel(group) == kind)


def _measure(
    values: Mapping[str, Floats],
    directions: _Directions,
    seen: _Held,
    ridge: float,
    read: Mask,
    units: Addresses,
) -> None:
    """Measure units that read the same inputs together, on these inputs alone."""
    xx = seen.xx[np.ix_(read, read)]
    added = ridge * np.trace(xx) / len(xx)
    if added == 0:
        return  # inputs that do not vary
    xx[np.diag_indices(len(xx))] += added
    inverse = np.asarray(np.linalg.inv(xx), np.float64)
    for name, found in values.items():
        if name == "identity":
            continue  # it leaves no distractor
        signal = directions.of(name)
        for block in blocks(len(units), len(xx)):
            some = units[block]
            both, xy = (each[:, :, read] for each in (signal(some), seen.xy[:, some]))
            correlation = _largest_correlation(both, inverse, xy, seen.yy[:, :, some], added)
            found[some] = 1.0 - correlation


def _largest_correlation(
    signal: Floats, inverse: Floats, xy: Floats, yy: Floats, added: float
) -> Floats:
    """Return corr(vᵀd, y) of the ridge solution v, with d = x − a₊ p − a₋ q and y = p + q.

    cov(d) = cov(x) + U B Uᵀ with U = [a₊ a₋ cov(x, p) cov(x, q)] and B = [[V, −1], [−1, 0]], V the
    covariance of p and q. And g = cov(d, y) = U β. So v = (M + U B Uᵀ)⁻¹ g = M⁻¹ U γ, M being
    cov(x) + λ, with γ = (B⁻¹ + Uᵀ M⁻¹ U)⁻¹ B⁻¹ β (Woodbury): one ``inverse``, M⁻¹, for all units.
    """
    u = np.concatenate([signal, xy])  # (4, units, inputs)
    units = u.shape[1]
    solved = (u.reshape(4 * units, -1) @ inverse).reshape(u.shape)
    with_y = yy.sum(axis=1).T  # cov(p, y), cov(q, y): (units, 2)
    beta = np.concatenate([-with_y, np.ones((units, 2))], axis=1)
    of_b = np.zeros((units, 4, 4))  # B⁻¹
    of_b[:, :2, 2:] = of_b[:, 2:, :2] = -np.eye(2)
    of_b[:, 2:, 2:] = -yy.transpose(2, 0, 1)
    inner = np.einsum("aui,bui->uab", u, solved)
    gamma = np.linalg.solve(of_b + inner, of_b @ beta[:, :, None])[:, :, 0]
    v = np.einsum("aui,ua->ui", solved, gamma)
    along = (v * np.einsum("aui,ua->ui", u, beta)).sum(axis=1)
    variance = along - added * (v**2).sum(axis=1)
    size = np.sqrt(np.maximum(variance, 0.0) * with_y.sum(axis=1))
    found = np.zeros(units)
    np.divide(np.maximum(along, 0.0), size, out=found, where=size > 0)
    return found
