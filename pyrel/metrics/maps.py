# SPDX-License-Identifier: Apache-2.0
"""Checked relevance maps and their sums, which all measures use, and the baseline maps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Bounds the float64 copy that the sums need: 1024 majority samples take 19 MB, whatever n is.
_SLAB = 1024


def as_maps(values: ArrayLike, argument: str = "relevance") -> NDArray[Any]:
    """Return `values` as an array of shape (n, steps, ...) of real numbers, without copying.

    Raises
    ------
    ValueError
        If there are fewer than two axes, or no element per sample.
    TypeError
        If the elements are not real numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"{argument}: wanted real numbers, given dtype {array.dtype}")
    if array.ndim < 2 or 0 in array.shape[1:]:
        raise ValueError(f"{argument}: wanted shape (n, steps, ...), given {array.shape}")
    return array


def as_rows(maps: NDArray[Any]) -> NDArray[Any]:
    """Return one row for each sample: (n, ...) to (n, elements), for no sample too."""
    return maps.reshape(len(maps), math.prod(maps.shape[1:]))


def as_relevant(relevant: ArrayLike, shape: tuple[int, ...]) -> BoolArray:
    """Return the mask of relevant steps, checked against `shape` = (n, steps).

    Raises
    ------
    TypeError
        If the mask is not boolean.
    ValueError
        If it has another shape, or marks no step in some sample.
    """
    mask = np.asarray(relevant)
    if mask.dtype != np.bool_:
        raise TypeError(f"relevant: wanted a boolean mask, given dtype {mask.dtype}")
    if mask.shape != shape:
        raise ValueError(f"relevant: wanted shape (n, steps) = {shape}, given {mask.shape}")
    empty = np.flatnonzero(~mask.any(axis=1))
    if empty.size:
        raise ValueError(f"relevant: wanted a relevant step in every sample, none in {empty[0]}")
    return mask


def as_per_sample(values: ArrayLike, count: int, argument: str) -> FloatArray:
    """Return `values` as `count` finite float64 numbers, one for each sample.

    Raises
    ------
    ValueError
        If the shape is not (count,) or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (count,):
        raise ValueError(f"{argument}: wanted shape ({count},), given {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{argument}: wanted finite numbers, given NaN or infinity")
    return array


def sum_by_slab(
    maps: NDArray[Any], part: Callable[[FloatArray], FloatArray], argument: str = "relevance"
) -> FloatArray:
    """Sum `part(maps)` in float64 over everything but samples and steps.

    Parameters
    ----------
    maps
        Shape (n, steps, ...); a memory map is read slab by slab.
    part
        Elementwise function applied before summing, such as the positive part.

    Returns
    -------
    Shape (n, steps).

    Raises
    ------
    ValueError
        If a value is NaN or infinite.
    """
    sums = np.empty(maps.shape[:2], dtype=np.float64)
    for start in range(0, len(maps), _SLAB):
        slab = np.asarray(maps[start : start + _SLAB], dtype=np.float64)
        slab = slab.reshape(*slab.shape[:2], -1)
        finite = np.isfinite(slab).all(axis=(1, 2))
        if not finite.all():
            bad = start + int(np.argmin(finite))
            raise ValueError(f"{argument}: NaN or infinity in sample {bad}; wanted finite numbers")
        sums[start : start + _SLAB] = part(slab).sum(axis=2)
    return sums


def positive_part(values: FloatArray) -> FloatArray:
    """Return max(0, R): all measures of place judge a signed map by this part."""
    return np.maximum(values, 0.0)


def uniform_map(x: ArrayLike) -> NDArray[np.float32]:
    """Return the map that gives every input element the same relevance.

    It looks at neither the model nor the input; a useful explanation has to do better. On the
    majority problem its share is 2/3 and its cosine sqrt(2/3) = 0.816.

    Parameters
    ----------
    x
        Inputs, shape (n, steps, ...).

    Returns
    -------
    Ones in the shape of `x`: a read-only view that takes no memory.

    Examples
    --------
    >>> pyrel.metrics.uniform_map(np.zeros((2, 3)))[0]
    array([1., 1., 1.], dtype=float32)
    """
    return np.broadcast_to(np.float32(1.0), as_maps(x, "x").shape)


def channel_sum(relevance: ArrayLike, axis: int = 1) -> FloatArray:
    """Return maps of one channel: relevance summed over the colour channels, as signed numbers.

    Deep Taylor paper, section 6.2. The sum of a map stays what it was.

    Parameters
    ----------
    relevance
        Shape (n, ..., channels, ...).
    axis
        Of the channels, not that of the samples; 1 for torch's (n, channels, height, width).

    Raises
    ------
    ValueError
        If there is no such axis, or it is that of the samples; for NaN or infinity.
    TypeError
        If `relevance` is not real.

    Examples
    --------
    >>> pyrel.metrics.channel_sum(np.array([[[[1.0, 2.0]], [[0.5, -2.0]], [[0.0, 1.0]]]]))
    array([[[1.5, 1. ]]])
    """
    maps = as_maps(relevance)
    if not -maps.ndim < axis < maps.ndim or axis == 0:
        raise ValueError(f"axis: wanted one of the {maps.ndim} but the first, given {axis}")
    sum_by_slab(maps, np.abs)
    summed: FloatArray = maps.sum(axis=axis, dtype=np.float64)
    return summed


def pixel_mass_map(x: ArrayLike, low: float = 0.0) -> NDArray[Any]:
    """Return the map in which every pixel's relevance is its brightness above `low`.

    It looks at the input only, so a method that does not beat it shows where ink is, not what the
    model makes of it.

    Parameters
    ----------
    x
        Inputs, shape (n, steps, ...).
    low
        The value of an empty pixel, lower end of the input domain.

    Returns
    -------
    `x - low`, in the shape of `x`; `x` itself for low = 0.

    Raises
    ------
    ValueError
        If an input lies below `low`.

    Examples
    --------
    >>> pyrel.metrics.pixel_mass_map(np.array([[-0.5, 1.5]]), low=-0.5)
    array([[0., 2.]])
    """
    maps = as_maps(x, "x")
    if maps.size and maps.min() < low:
        raise ValueError(f"x: wanted values >= low = {low}, given {maps.min()}")
    return maps if low == 0.0 else maps - low
