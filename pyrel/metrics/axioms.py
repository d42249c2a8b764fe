# SPDX-License-Identifier: Apache-2.0
"""Conservation and positivity: Definitions 1 and 2 of the deep Taylor paper (2017)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from pyrel.metrics.maps import FloatArray, as_maps, as_per_sample, positive_part, sum_by_slab


def total_relevance(relevance: ArrayLike) -> FloatArray:
    """Return the signed sum of each sample's relevance, shape (n,)."""
    total: FloatArray = sum_by_slab(as_maps(relevance), lambda values: values).sum(axis=1)
    return total


def conservation(
    relevance: ArrayLike, start: ArrayLike, absorbed: ArrayLike | None = None
) -> FloatArray:
    """Return what relevance was made or lost on the way: sum of R + absorbed - start.

    Deep Taylor paper, Definition 1: a map is conservative where the sum of its relevances is the
    relevance that the output held. Signed values count with their sign.

    Parameters
    ----------
    relevance
        Shape (n, steps, ...).
    start
        (n,) relevance put in at the output.
    absorbed
        (n,) relevance kept by biases, stabilisers and constants; None to count it as lost.

    Returns
    -------
    Shape (n,): 0 is perfect, above 0 relevance was invented, below 0 it was lost.

    Raises
    ------
    ValueError
        For mismatched shapes, NaN or infinity.
    TypeError
        If `relevance` is not real.

    Examples
    --------
    >>> relevance = np.array([[2.0, -0.5]])
    >>> pyrel.metrics.conservation(relevance, start=[2.0], absorbed=[0.5])
    array([0.])
    """
    total = total_relevance(relevance)
    difference = total - as_per_sample(start, len(total), "start")
    if absorbed is None:
        return difference
    return difference + as_per_sample(absorbed, len(total), "absorbed")


def conservation_error(
    relevance: ArrayLike, start: ArrayLike, absorbed: ArrayLike | None = None
) -> FloatArray:
    """Return the size of `conservation` relative to the relevance at hand.

    The scale is max(abs(start), sum of abs(R), abs(absorbed)): signed methods, whose sums
    cancel, are held to the size of what they add up.

    Returns
    -------
    Shape (n,), at least 0: about 1e-7 for a conservative method in float32, about 1 for one whose
    sums have nothing to do with the output. 0 where nothing was put in and nothing came out.

    Raises
    ------
    ValueError
        For mismatched shapes, NaN or infinity.
    TypeError
        If `relevance` is not real.
    """
    off = np.abs(conservation(relevance, start, absorbed))
    scale = np.maximum(np.abs(np.asarray(start, dtype=np.float64)), _absolute(relevance))
    if absorbed is not None:
        scale = np.maximum(scale, np.abs(np.asarray(absorbed, dtype=np.float64)))
    error = np.zeros_like(off)
    np.divide(off, scale, out=error, where=scale > 0)
    return error


def positivity(relevance: ArrayLike) -> FloatArray:
    """Return the positive share of each map: sum of max(0, R) / sum of abs(R).

    Deep Taylor paper, Definition 2: a map is positive where no relevance is below zero.

    Returns
    -------
    Shape (n,), in [0, 1]: 1 is a positive map, 0.5 one that speaks for and against in equal parts;
    NaN where all relevances are 0.

    Raises
    ------
    ValueError
        For fewer than two axes, NaN or infinity.
    TypeError
        If `relevance` is not real.

    Examples
    --------
    >>> pyrel.metrics.positivity(np.array([[2.0, 1.0], [3.0, -1.0]]))
    array([1.  , 0.75])
    """
    positive = sum_by_slab(as_maps(relevance), positive_part).sum(axis=1)
    absolute = _absolute(relevance)
    share = np.full_like(absolute, np.nan)
    np.divide(positive, absolute, out=share, where=absolute > 0)
    return share


def _absolute(relevance: ArrayLike) -> FloatArray:
    total: FloatArray = sum_by_slab(as_maps(relevance), np.abs).sum(axis=1)
    return total
