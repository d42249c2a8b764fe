# SPDX-License-Identifier: Apache-2.0
"""Relevance against a mask of the elements that hold the evidence."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyrel.metrics.maps import BoolArray, FloatArray, as_maps, as_rows, positive_part, sum_by_slab


def relevance_mass_accuracy(relevance: ArrayLike, mask: ArrayLike) -> FloatArray:
    """Return the share of each sample's relevance that lies inside its mask.

    Arras, Osman, Samek, CLEVR-XAI (2022): Σ of R inside / Σ of R. Signed maps are
    judged by max(0, R). For a mask of whole steps this is `relevance_in_region`.

    Parameters
    ----------
    relevance
        Shape (n, steps, ...).
    mask
        Boolean, of the shape of `relevance` or of its first axes: (n, steps) marks steps.

    Returns
    -------
    Shape (n,), in [0, 1]; NaN where no relevance is above 0.

    Raises
    ------
    ValueError
        For shapes that do not fit, a sample without any marked element, NaN or infinity.
    TypeError
        If `relevance` is not real or `mask` not boolean.

    Examples
    --------
    >>> relevance, mask = np.array([[3.0, 2.0, 1.0]]), np.array([[True, False, True]])
    >>> pyrel.metrics.relevance_mass_accuracy(relevance, mask).round(3)
    array([0.667])
    >>> pyrel.metrics.relevance_rank_accuracy(relevance, mask)
    array([0.5])
    """
    maps, inside = _checked(relevance, mask)
    total = sum_by_slab(maps, positive_part).sum(axis=1)
    marked = np.zeros(len(maps))
    for i, (values, marks) in enumerate(zip(maps, inside, strict=True)):
        marked[i] = positive_part(np.asarray(values, dtype=np.float64))[marks].sum()
    share = np.full(len(maps), np.nan)
    np.divide(marked, total, out=share, where=total > 0)
    # The two sums add in another order, and may differ in rounding.
    bounded: FloatArray = np.minimum(share, 1.0)
    return bounded


def relevance_rank_accuracy(relevance: ArrayLike, mask: ArrayLike) -> FloatArray:
    """Return which part of the K most relevant elements lies inside a mask of K elements.

    Arras, Osman, Samek, CLEVR-XAI (2022): |top K ∩ mask| / K. Of elements that tie at
    the last place each counts in part, so that their order does not matter.

    Parameters
    ----------
    relevance, mask
        As `relevance_mass_accuracy`; relevance counts with its sign.

    Returns
    -------
    Shape (n,), in [0, 1]; NaN where all relevances are 0.

    Raises
    ------
    ValueError, TypeError
        As `relevance_mass_accuracy`.
    """
    maps, inside = _checked(relevance, mask)
    empty = sum_by_slab(maps, np.abs).sum(axis=1) == 0
    accuracy = np.full(len(maps), np.nan)
    for i in np.flatnonzero(~empty):
        accuracy[i] = _rank_accuracy(np.asarray(maps[i]).ravel(), inside[i].ravel())
    return accuracy


def _rank_accuracy(values: NDArray[Any], inside: BoolArray) -> float:
    wanted = int(inside.sum())
    least = np.partition(values, len(values) - wanted)[len(values) - wanted]
    above, tied = values > least, values == least
    places = (wanted - above.sum()) / tied.sum()
    return float(((above & inside).sum() + places * (tied & inside).sum()) / wanted)


def _checked(relevance: ArrayLike, mask: ArrayLike) -> tuple[NDArray[Any], BoolArray]:
    maps, inside = as_maps(relevance), np.asarray(mask)
    if inside.dtype != np.bool_:
        raise TypeError(f"mask: wanted a boolean mask, given dtype {inside.dtype}")
    if inside.ndim < 2 or inside.shape != maps.shape[: inside.ndim]:
        raise ValueError(
            f"mask: wanted shape {maps.shape} or that of its first axes, given {inside.shape}"
        )
    nothing = np.flatnonzero(~as_rows(inside).any(axis=1))
    if nothing.size:
        raise ValueError(f"mask: wanted a marked element in every sample, none in {nothing[0]}")
    more = maps.ndim - inside.ndim
    whole = inside.reshape(*inside.shape, *[1] * more)
    return maps, np.broadcast_to(whole, maps.shape)
