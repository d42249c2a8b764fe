# SPDX-License-Identifier: Apache-2.0
"""Comprehensiveness, sufficiency and log-odds: what the most relevant part of an input does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from pyrel.metrics.maps import FloatArray
from pyrel.metrics.outputs import Forward, IntArray, Progress
from pyrel.metrics.perturbation import (
    Perturbation,
    base_scores,
    checked_inputs,
    perturbed_scores,
    region_order,
)

# The parts of ERASER.
FRACTIONS = (0.01, 0.05, 0.1, 0.2, 0.5)


def comprehensiveness(
    forward: Forward,
    x: ArrayLike,
    relevance: ArrayLike,
    target: ArrayLike | None = None,
    *,
    how: Perturbation,
    fractions: Sequence[float] = FRACTIONS,
    progress: Progress | None = None,
) -> FloatArray:
    """Return how far the score falls without the most relevant regions r: m(x) - m(x without r).

    DeYoung et al., ERASER (2020), as a mean over several fractions of the regions. Higher is
    better: what the map names was needed.

    Parameters
    ----------
    forward, x, relevance, target, how, progress
        As `degradation`; ERASER's score m is "probability", its regions are tokens.
    fractions
        Parts of the regions that count as r, each rounded up to whole regions. (ERASER divides the
        sum by their number + 1, for a part of nothing.)

    Returns
    -------
    Shape (n,); NaN where all relevances are 0.

    Raises
    ------
    ValueError
        As `degradation`; and for fractions outside (0, 1].
    TypeError
        As `degradation`.

    Examples
    --------
    >>> x, tokens = np.array([[1.0, 3.0]]), pyrel.metrics.pixel_regions((2,))
    >>> how = pyrel.metrics.Perturbation(tokens, replacement=0.0, score="output")
    >>> model = lambda x: x.sum(axis=1)
    >>> pyrel.metrics.comprehensiveness(model, x, relevance=x, how=how, fractions=[0.5])
    array([3.])
    >>> pyrel.metrics.sufficiency(model, x, relevance=x, how=how, fractions=[0.5])
    array([1.])
    """
    return _fall(forward, x, relevance, target, how, fractions, False, progress)


def sufficiency(
    forward: Forward,
    x: ArrayLike,
    relevance: ArrayLike,
    target: ArrayLike | None = None,
    *,
    how: Perturbation,
    fractions: Sequence[float] = FRACTIONS,
    progress: Progress | None = None,
) -> FloatArray:
    """Return how far the score falls with the most relevant regions alone: m(x) - m(r).

    DeYoung et al., ERASER (2020), as a mean over several fractions. Lower is better:
    what the map names was enough.

    Parameters
    ----------
    forward, x, relevance, target, how, fractions, progress
        As `comprehensiveness`.

    Returns
    -------
    Shape (n,); NaN where all relevances are 0.

    Raises
    ------
    ValueError, TypeError
        As `comprehensiveness`.
    """
    return _fall(forward, x, relevance, target, how, fractions, True, progress)


def log_odds(
    forward: Forward,
    x: ArrayLike,
    relevance: ArrayLike,
    target: ArrayLike | None = None,
    *,
    how: Perturbation,
    fractions: Sequence[float] = (0.2,),
    progress: Progress | None = None,
) -> FloatArray:
    """Return how far the log-odds of the class fall without the most relevant regions.

    Shrikumar et al., DeepLIFT (2017): the change of the log-odds, here of the class
    against all others, ln(p / (1 - p)); against one other class it is the score "output" of a
    model that gives the difference of both. Higher is better. Unlike a probability it does not
    flatten where the model is sure.

    Parameters
    ----------
    forward, x, relevance, target, fractions, progress
        As `comprehensiveness`.
    how
        As `degradation`; its score is taken to be "log_odds".

    Returns
    -------
    Shape (n,); NaN where all relevances are 0.

    Raises
    ------
    ValueError, TypeError
        As `comprehensiveness`.
    """
    odds = replace(how, score="log_odds")
    return _fall(forward, x, relevance, target, odds, fractions, False, progress)


def _fall(
    forward: Forward,
    x: ArrayLike,
    relevance: ArrayLike,
    target: ArrayLike | None,
    how: Perturbation,
    fractions: Sequence[float],
    keep: bool,
    progress: Progress | None,
) -> FloatArray:
    """Return the mean fall of the score over fractions, all but which are replaced for `keep`."""
    inputs = checked_inputs(x, how)
    counts = _counts(fractions, how.regions.count)
    rank, empty = region_order(relevance, how.regions)
    if len(rank) != len(inputs):
        raise ValueError(f"relevance: wanted {len(inputs)} samples as in x, given {len(rank)}")
    classes, before = base_scores(forward, inputs, target, how)
    after = perturbed_scores(
        forward, inputs, classes, how, rank, counts, keep=keep, progress=progress
    )
    fall: FloatArray = before - after.mean(axis=1)
    fall[empty] = np.nan
    return fall


def _counts(fractions: Sequence[float], regions: int) -> IntArray:
    parts = np.asarray(fractions, dtype=np.float64)
    if parts.ndim != 1 or not parts.size or not ((parts > 0) & (parts <= 1)).all():
        raise ValueError(f"fractions: wanted numbers in (0, 1], given {fractions!r}")
    # Rounding of 0.1 * 30 may not make four regions of three.
    return np.ceil(parts * regions - 1e-9).astype(np.int64)
