# SPDX-License-Identifier: Apache-2.0
"""Definitions 1 to 3 of the deep Taylor paper (2017), sample by sample, and figure 6's numbers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyrel.metrics.axioms import conservation_error
from pyrel.metrics.maps import BoolArray, FloatArray, as_maps, as_per_sample, as_rows, sum_by_slab

# What a propagation in float32 may lose or invent, see the engine's contract.
TOLERANCE = 1e-5


@dataclass(frozen=True, eq=False)
class Consistency:
    """Whether each map satisfies the definitions.

    Attributes
    ----------
    conservative
        (n,) Definition 1: ΣR = f, to the tolerance times max(f, Σ|R|).
    positive
        (n,) Definition 2: no R below 0, to the tolerance times the largest |R|.
    empty_at_zero
        (n,) float: of the samples with f = 0, 1 where R = 0 everywhere and 0 where it is not; NaN
        where f > 0. What a consistent heatmapping is forced to: f = 0 ⇒ R = 0.
    """

    conservative: BoolArray
    positive: BoolArray
    empty_at_zero: FloatArray

    @property
    def consistent(self) -> BoolArray:
        """(n,) Definition 3: conservative and positive."""
        both: BoolArray = self.conservative & self.positive
        return both


def consistency(
    relevance: ArrayLike,
    output: ArrayLike,
    absorbed: ArrayLike | None = None,
    tolerance: float = TOLERANCE,
) -> Consistency:
    """Test maps against Definitions 1 to 3 of the deep Taylor paper.

    Parameters
    ----------
    relevance
        (n, steps, ...).
    output
        (n,) output explained. The paper's f is positive-valued: f = max(0, output).
    absorbed
        (n,) relevance that biases kept, which the paper treats as neurons with relevance of their
        own; None to count it as lost.
    tolerance
        Relative.

    Raises
    ------
    ValueError
        For mismatched shapes, NaN or infinity, a tolerance below 0.
    TypeError
        If `relevance` is not real.

    Examples
    --------
    >>> relevance = np.array([[2.0, 1.0], [4.0, -1.0], [1.0, 1.0], [0.0, 0.0]])
    >>> found = pyrel.metrics.consistency(relevance, output=[3.0, 3.0, 3.0, -1.0])
    >>> found.conservative, found.positive
    (array([ True,  True, False,  True]), array([ True, False,  True,  True]))
    >>> found.consistent, found.empty_at_zero
    (array([ True, False, False,  True]), array([nan, nan, nan,  1.]))
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance: wanted a number of at least 0, given {tolerance}")
    maps = as_maps(relevance)
    explained = np.maximum(as_per_sample(output, len(maps), "output"), 0.0)
    conservative: BoolArray = conservation_error(maps, explained, absorbed) <= tolerance
    lowest, largest = _extremes(maps)
    positive: BoolArray = lowest >= -tolerance * largest
    empty = np.where(explained > 0, np.nan, (largest == 0).astype(np.float64))
    return Consistency(conservative, positive, empty)


@dataclass(frozen=True)
class ConservationFit:
    """How sums of relevance follow the output: what figure 6's scatter plots show, as numbers.

    Attributes
    ----------
    slope, intercept
        Of the least-squares line ΣR = intercept + slope · f. 1 and 0 for a conservative method.
    correlation
        Pearson's, of ΣR and f.
    median_error
        Median of |ΣR - f| / f over the samples with f > 0.
    used
        Number of samples with f > 0; line and correlation are of these.
    """

    slope: float
    intercept: float
    correlation: float
    median_error: float
    used: int


def conservation_fit(total: ArrayLike, output: ArrayLike) -> ConservationFit:
    """Fit the sums of relevance to the outputs, over samples with an output above 0.

    Deep Taylor paper, figure 6 (top).

    Parameters
    ----------
    total
        (n,) sums of relevance, see `total_relevance`.
    output
        (n,) outputs explained.

    Returns
    -------
    ConservationFit
        NaN for what is not defined: no sample, or one output for all.

    Raises
    ------
    ValueError
        For mismatched shapes, NaN or infinity.

    Examples
    --------
    >>> fit = pyrel.metrics.conservation_fit([0.5, 1.0, 1.5, 7.0], [1.0, 2.0, 3.0, -1.0])
    >>> round(fit.slope, 3), round(fit.median_error, 3), fit.used
    (0.5, 0.5, 3)
    """
    sums = np.asarray(total, dtype=np.float64)
    sums = as_per_sample(sums, sums.size, "total")
    outputs = as_per_sample(output, len(sums), "output")
    found = outputs > 0
    sums, outputs = sums[found], outputs[found]
    if not len(sums):
        return ConservationFit(math.nan, math.nan, math.nan, math.nan, 0)
    error = float(np.median(np.abs(sums - outputs) / outputs))
    x, y = outputs - outputs.mean(), sums - sums.mean()
    spread, covariance, other = float(x @ x), float(x @ y), float(y @ y)
    if spread == 0:
        return ConservationFit(math.nan, math.nan, math.nan, error, len(sums))
    slope = covariance / spread
    correlation = covariance / math.sqrt(spread * other) if other > 0 else math.nan
    intercept = float(sums.mean() - slope * outputs.mean())
    return ConservationFit(slope, intercept, correlation, error, len(sums))


@dataclass(frozen=True, eq=False)
class RelevanceHistogram:
    """How often relevance takes which value, over all elements of all samples.

    Attributes
    ----------
    edges
        (bins + 1,) ends of the bins; one of them is 0, so that no bin holds both signs.
    counts
        (bins,) elements in each, those that are exactly 0 left out.
    zeros
        Elements that are exactly 0.
    """

    edges: FloatArray
    counts: NDArray[np.int64]
    zeros: int


def relevance_histogram(relevance: ArrayLike, bins: int = 40) -> RelevanceHistogram:
    """Count the values of relevance; deep Taylor paper, figure 6 (bottom).

    Parameters
    ----------
    relevance
        (n, steps, ...); a memory map is read slab by slab.
    bins
        About how many, of one width, from the least relevance to the largest.

    Raises
    ------
    ValueError
        For bins below 2, fewer than two axes, NaN or infinity.
    TypeError
        If `relevance` is not real.

    Examples
    --------
    >>> histogram = pyrel.metrics.relevance_histogram([[-1.0, 0.0, 0.5, 1.0]], bins=4)
    >>> histogram.edges, histogram.counts, histogram.zeros
    (array([-1. , -0.5,  0. ,  0.5,  1. ]), array([1, 0, 0, 2]), 1)
    """
    if bins < 2:
        raise ValueError(f"bins: wanted at least 2, given {bins}")
    maps = as_maps(relevance)
    lowest, largest = _ends(maps)
    width = (largest - lowest) / bins or 1.0 / bins
    below, above = _bins(-lowest, width), _bins(largest, width)
    edges: FloatArray = width * np.arange(-below, max(above, 1 - below) + 1, dtype=np.float64)
    # Rounding must not leave the ends outside.
    edges[0], edges[-1] = min(edges[0], lowest), max(edges[-1], largest)
    counts, zeros = np.zeros(len(edges) - 1, dtype=np.int64), 0
    for values in maps:
        flat = np.asarray(values, dtype=np.float64).ravel()
        present = flat[flat != 0]
        zeros += flat.size - present.size
        counts += np.histogram(present, edges)[0]
    return RelevanceHistogram(edges, counts, zeros)


def _bins(length: float, width: float) -> int:
    """Return how many bins a length takes; rounding shall not add one."""
    return max(math.ceil(length / width - 1e-9), int(length > 0))


def _ends(maps: NDArray[Any]) -> tuple[float, float]:
    """Return the least and the largest relevance of all, 0 included."""
    sum_by_slab(maps, np.abs)
    if not maps.size:
        return 0.0, 0.0
    return min(0.0, float(maps.min())), max(0.0, float(maps.max()))


def _extremes(maps: NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Return the least relevance and the largest |relevance| of each sample."""
    flat = as_rows(maps)
    least = flat.min(axis=1).astype(np.float64)
    return least, np.maximum(flat.max(axis=1).astype(np.float64), -least)
