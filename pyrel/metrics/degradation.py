# SPDX-License-Identifier: Apache-2.0
"""Degradation curves: how the score falls while regions are replaced, the most relevant first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

from pyrel.metrics.maps import FloatArray
from pyrel.metrics.outputs import Forward, IntArray, Progress, as_count
from pyrel.metrics.perturbation import (
    Order,
    Perturbation,
    base_scores,
    checked_inputs,
    perturbed_scores,
    places,
    region_order,
)
from pyrel.metrics.summary import Summary, paired_difference


@dataclass(frozen=True, eq=False)
class Degradation:
    """Scores of the explained class by how many regions are replaced.

    Attributes
    ----------
    removed
        (points,) how many regions are replaced, ascending.
    scores
        (n, points); a row of NaN for a sample left out, whose map is empty.
    """

    removed: IntArray
    scores: FloatArray

    @property
    def used(self) -> int:
        """Number of samples that count."""
        return int((~np.isnan(self.scores[:, 0])).sum())

    @property
    def mean(self) -> FloatArray:
        """(points,) mean over the samples used; NaN if there is none."""
        kept = self._kept()
        return kept.mean(axis=0) if len(kept) else np.full(len(self.removed), np.nan)

    @property
    def standard_error(self) -> FloatArray:
        """(points,) standard error of the mean; NaN for fewer than two samples."""
        kept = self._kept()
        if len(kept) < 2:
            return np.full(len(self.removed), np.nan)
        error: FloatArray = kept.std(axis=0, ddof=1) / np.sqrt(len(kept))
        return error

    def band(self, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
        """Return the ends of a confidence band of the mean, point by point: mean ± z · error.

        Raises
        ------
        ValueError
            If the level is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise ValueError(f"level: wanted a number between 0 and 1, given {level}")
        half = NormalDist().inv_cdf((1 + level) / 2) * self.standard_error
        return self.mean - half, self.mean + half

    def area_under(self) -> FloatArray:
        """Return `area_under_curve` of each sample, shape (n,)."""
        return area_under_curve(self.scores, self.removed)

    def area_over(self) -> FloatArray:
        """Return `area_over_curve` of each sample, shape (n,)."""
        return area_over_curve(self.scores)

    def _kept(self) -> FloatArray:
        kept: FloatArray = self.scores[~np.isnan(self.scores[:, 0])]
        return kept


@dataclass(frozen=True, eq=False)
class DegradationCurves:
    """What comes of replacing, on one model, the regions that each method names first.

    Attributes
    ----------
    curves
        By method, all of the same samples; "pixel_mass" is the map of the brightness of the pixels.
    random
        Regions in random order, of these samples.
    """

    curves: dict[str, Degradation]
    random: Degradation

    def area(self, method: str) -> Summary:
        """Return the area under the curves of one method, sample by sample."""
        return Summary.of(self.curves[method].area_under())

    def random_area(self) -> Summary:
        """Return the area under the curves of random order, sample by sample."""
        return Summary.of(self.random.area_under())

    def below_random(self, method: str) -> Summary:
        """Return how far the area lies below that of random order, sample by sample."""
        return paired_difference(self.random_area(), self.area(method))

    def standard_errors_below(self, method: str) -> float:
        """Return by how many standard errors the mean area lies below that of random order."""
        difference = self.below_random(method)
        return difference.mean / difference.standard_error

    def in_order(self) -> list[str]:
        """Return the methods, that with the smallest area first."""
        return sorted(self.curves, key=lambda method: self.area(method).mean)


def area_under_curve(scores: ArrayLike, removed: ArrayLike) -> FloatArray:
    """Return the area under each curve by the trapezoidal rule, over its length.

    The mean height of the curve: with the most relevant first lower is better, with the least
    relevant first higher is.

    Parameters
    ----------
    scores
        (n, points).
    removed
        (points,) ascending.

    Returns
    -------
    Shape (n,), in the unit of the scores; NaN where a score is NaN.

    Raises
    ------
    ValueError
        If the shapes do not fit, there are fewer than two points, or they do not ascend.

    Examples
    --------
    >>> pyrel.metrics.area_under_curve([[1.0, 0.5, 0.0]], [0, 1, 2])
    array([0.5])
    """
    heights = _curves(scores)
    at = np.asarray(removed, dtype=np.float64)
    if at.shape != heights.shape[1:]:
        raise ValueError(f"removed: wanted shape {heights.shape[1:]}, given {at.shape}")
    if len(at) < 2 or not (np.diff(at) > 0).all():
        raise ValueError("removed: wanted two ascending numbers at least")
    trapezoids = (heights[:, 1:] + heights[:, :-1]) / 2 * np.diff(at)
    area: FloatArray = trapezoids.sum(axis=1)
    height: FloatArray = area / (at[-1] - at[0])
    return height


def area_over_curve(scores: ArrayLike) -> FloatArray:
    """Return AOPC, how far each curve falls from its first point: mean over k of s_0 - s_k.

    Samek et al., Evaluating the visualization of what a deep neural network has learned (2017):
    the area over the perturbation curve of one sample, a mean over all points, the first included.

    Parameters
    ----------
    scores
        (n, points) at even distances; the first column is the score of the input as it is.

    Returns
    -------
    Shape (n,); NaN where a score is NaN.

    Raises
    ------
    ValueError
        If there are not two axes, or no point.

    Examples
    --------
    >>> pyrel.metrics.area_over_curve([[1.0, 0.75, 0.25, 0.0]])
    array([0.5])
    """
    heights = _curves(scores)
    over: FloatArray = (heights[:, :1] - heights).mean(axis=1)
    return over


def degradation(
    forward: Forward,
    x: ArrayLike,
    relevance: ArrayLike,
    target: ArrayLike | None = None,
    *,
    how: Perturbation,
    removed: Sequence[int] | None = None,
    order: Order = "most_relevant",
    progress: Progress | None = None,
) -> Degradation:
    """Replace regions in the order of their relevance and follow the score.

    Bach et al. (2015) flip pixels, Samek et al. (2017) perturb regions, Kindermans et al. (2018,
    PatternNet) replace patches by their mean.

    Parameters
    ----------
    forward
        A function of a batch (n, ...) that returns raw outputs: `explainer.forward`.
    x
        (n, ...) inputs: numbers, or token ids (n, steps).
    relevance
        Relevance in the shape of `x`.
    target
        The explained class, or (n,) classes; None for the predicted ones.
    how
        Regions, replacement, score.
    removed
        How many regions are replaced at each point, ascending; by default 0 to all of them.
    order
        "most_relevant" or "least_relevant" first.
    progress
        Called with how many copies of how many the model has seen.

    Returns
    -------
    With a row of NaN for each sample whose relevances are all 0.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, NaN or infinity, counts that do not ascend or exceed the
        regions, a class that is none; elements of the wrong type.

    Examples
    --------
    >>> x, pixels = np.array([[1.0, 2.0, 0.5]]), pyrel.metrics.pixel_regions((3,))
    >>> how = pyrel.metrics.Perturbation(pixels, replacement=0.0, score="output")
    >>> pyrel.metrics.degradation(lambda x: x.sum(axis=1), x, relevance=x, how=how).scores
    array([[3.5, 1.5, 0.5, 0. ]])
    """
    inputs = checked_inputs(x, how)
    counts = _counts(removed, how.regions.count)
    rank, empty = region_order(relevance, how.regions, order)
    _refuse_other_length(len(rank), len(inputs))
    classes, _ = base_scores(forward, inputs, target, how)
    scores = perturbed_scores(forward, inputs, classes, how, rank, counts, progress=progress)
    scores[empty] = np.nan
    return Degradation(counts, scores)


def random_degradation(
    forward: Forward,
    x: ArrayLike,
    target: ArrayLike | None = None,
    *,
    how: Perturbation,
    removed: Sequence[int] | None = None,
    draws: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> Degradation:
    """Replace regions in random order, the baseline of a degradation curve.

    Each sample has orders of its own. Its scores are means over the draws, so that the standard
    error over samples, and the confidence band, hold what both samples and draws vary by.

    Parameters
    ----------
    forward, x, target, how, removed, progress
        As `degradation`.
    draws
        Random orders of each sample.
    seed
        Of the orders.

    Raises
    ------
    ValueError, TypeError
        As `degradation`; and for draws below 1.
    """
    inputs = checked_inputs(x, how)
    counts = _counts(removed, how.regions.count)
    draws = as_count(draws, "draws")
    classes, _ = base_scores(forward, inputs, target, how)
    generator = np.random.Generator(np.random.PCG64(seed))
    regions = np.broadcast_to(np.arange(how.regions.count), (len(inputs), how.regions.count))
    scores = np.zeros((len(inputs), len(counts)))
    for draw in range(draws):
        rank = places(generator.permuted(regions, axis=1))
        told = None if progress is None else _shifted(progress, draw, draws)
        scores += perturbed_scores(forward, inputs, classes, how, rank, counts, progress=told)
    return Degradation(counts, scores / draws)


def _shifted(progress: Progress, draw: int, draws: int) -> Progress:
    """Count the copies of one draw among those of all."""
    return lambda done, total: progress(draw * total + done, draws * total)


def _counts(removed: Sequence[int] | None, regions: int) -> IntArray:
    counts = np.arange(regions + 1) if removed is None else np.asarray(removed)
    if counts.ndim != 1 or not counts.size or counts.dtype.kind not in "iu":
        raise ValueError(f"removed: wanted whole numbers, given {removed!r}")
    if not (np.diff(counts) > 0).all() or counts[0] < 0 or counts[-1] > regions:
        raise ValueError(
            f"removed: wanted ascending numbers from 0 to {regions}, the number of regions, "
            f"given {list(counts)}"
        )
    return counts.astype(np.int64)


def _refuse_other_length(given: int, wanted: int) -> None:
    if given != wanted:
        raise ValueError(f"relevance: wanted {wanted} samples as in x, given {given}")


def _curves(scores: ArrayLike) -> FloatArray:
    curves = np.asarray(scores, dtype=np.float64)
    if curves.ndim != 2 or not curves.shape[1]:
        raise ValueError(f"scores: wanted shape (n, points), given {curves.shape}")
    return curves
