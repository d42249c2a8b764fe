# SPDX-License-Identifier: Apache-2.0
"""How alike two maps of the same samples are, and all pairs of methods."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyrel.metrics.maps import FloatArray, as_maps, as_rows, sum_by_slab
from pyrel.metrics.summary import Summary

Similarity = Literal["rank", "cosine"]

# Samples whose float64 copies and ranks are there at a time.
_SLAB = 256


def rank_correlation(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Return Spearman's correlation of two maps, sample by sample.

    Pearson's correlation of the ranks, where equal values share the mean of their ranks.

    Parameters
    ----------
    first, second
        Maps of one shape (n, steps, ...).

    Returns
    -------
    Shape (n,), in [-1, 1]; NaN where a map is the same everywhere.

    Raises
    ------
    ValueError
        For different shapes, fewer than two axes, NaN or infinity.
    TypeError
        If a map is not real.

    Examples
    --------
    >>> pyrel.metrics.rank_correlation([[1.0, 2.0, 9.0]], [[0.1, 0.2, 0.3]])
    array([1.])
    """
    return _similar(first, second, "rank")


def map_cosine(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Return the cosine of two maps as vectors, sample by sample: a·b / (|a| |b|).

    Parameters
    ----------
    first, second
        Maps of one shape (n, steps, ...).

    Returns
    -------
    Shape (n,), in [-1, 1]; NaN where all values of a map are 0.

    Raises
    ------
    ValueError, TypeError
        As `rank_correlation`.

    Examples
    --------
    >>> pyrel.metrics.map_cosine([[1.0, 0.0], [1.0, 1.0]], [[2.0, 0.0], [-1.0, 1.0]])
    array([1., 0.])
    """
    return _similar(first, second, "cosine")


def agreement(
    maps: Mapping[str, ArrayLike], similarity: Similarity = "rank"
) -> dict[tuple[str, str], Summary]:
    """Compare the maps of all pairs of methods.

    Parameters
    ----------
    maps
        Relevance (n, steps, ...) by method, all of one shape.
    similarity
        "rank", `rank_correlation`, or "cosine", `map_cosine`.

    Returns
    -------
    A summary over samples for each pair of names in the order of `maps`.

    Raises
    ------
    ValueError
        For an unknown similarity; and as `rank_correlation`.
    TypeError
        If a map is not real.

    Examples
    --------
    >>> maps = {"a": [[1.0, 2.0]], "b": [[3.0, 4.0]], "c": [[1.0, 0.0]]}
    >>> {pair: round(s.mean, 3) for pair, s in pyrel.metrics.agreement(maps).items()}
    {('a', 'b'): 1.0, ('a', 'c'): -1.0, ('b', 'c'): -1.0}
    """
    checked = {name: _checked(values, name) for name, values in maps.items()}
    for name, values in checked.items():
        _refuse_other_shape(name, values, next(iter(checked.values())))
    found: dict[tuple[str, str], list[FloatArray]] = {
        pair: [] for pair in itertools.combinations(checked, 2)
    }
    count = max((len(values) for values in checked.values()), default=0)
    for start in range(0, max(count, 1), _SLAB):
        slab = slice(start, start + _SLAB)
        units = {name: _unit_rows(values[slab], similarity) for name, values in checked.items()}
        for pair, parts in found.items():
            parts.append(_products(*(units[name] for name in pair)))
    return {pair: Summary(np.concatenate(parts)) for pair, parts in found.items()}


def average_ranks(values: FloatArray) -> FloatArray:
    """Return the rank of each value in its row, from 1; equal values share their mean rank."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    ranks = np.empty_like(ordered)
    for row, place, into in zip(ordered, order, ranks, strict=True):
        starts = np.flatnonzero(np.concatenate([[True], row[1:] != row[:-1]]))
        sizes = np.diff(np.append(starts, len(row)))
        into[place] = np.repeat(starts + (sizes + 1) / 2, sizes)
    return ranks


def _similar(first: ArrayLike, second: ArrayLike, similarity: Similarity) -> FloatArray:
    return agreement({"first": first, "second": second}, similarity)["first", "second"].values


def _checked(values: ArrayLike, name: str) -> NDArray[Any]:
    maps = as_maps(values, name)
    sum_by_slab(maps, np.abs, name)
    return maps


def _refuse_other_shape(name: str, values: NDArray[Any], wanted: NDArray[Any]) -> None:
    if values.shape != wanted.shape:
        raise ValueError(f"{name}: wanted maps of shape {wanted.shape}, given {values.shape}")


def _unit_rows(maps: NDArray[Any], similarity: Similarity) -> FloatArray:
    """Return rows whose products are the similarity; NaN where it is not defined."""
    rows = as_rows(maps).astype(np.float64)
    if similarity == "rank":
        rows = average_ranks(rows)
        rows -= rows.mean(axis=1, keepdims=True)
    elif similarity != "cosine":
        raise ValueError(f"similarity: wanted 'rank' or 'cosine', given {similarity!r}")
    largest = np.abs(rows).max(axis=1, keepdims=True)
    scaled = np.divide(rows, largest, out=np.full_like(rows, np.nan), where=largest > 0)
    unit: FloatArray = scaled / np.sqrt((scaled**2).sum(axis=1, keepdims=True))
    return unit


def _products(first: FloatArray, second: FloatArray) -> FloatArray:
    # Rounding may push the product of two equal rows an ulp above 1.
    cosine: FloatArray = np.clip((first * second).sum(axis=1), -1.0, 1.0)
    return cosine
