# SPDX-License-Identifier: Apache-2.0
"""Scores of inputs in which regions are replaced, in batches of forward passes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyrel.metrics.maps import BoolArray, FloatArray, as_maps, as_rows, sum_by_slab
from pyrel.metrics.outputs import (
    SCORES,
    Forward,
    IntArray,
    Progress,
    Score,
    all_outputs,
    as_count,
    as_target,
    batch_size,
    class_scores,
    outputs_of,
)
from pyrel.metrics.regions import Regions

Order = Literal["most_relevant", "least_relevant"]

# Of replaced copies at a time: 3,500 majority samples, enough to keep an engine's threads busy.
MAX_BYTES = 2**25


@dataclass(frozen=True, eq=False)
class Perturbation:
    """What is replaced, by what, and what is then read off the model.

    Attributes
    ----------
    regions
        From `patch_regions`, `pixel_regions` or `step_regions`.
    replacement
        "mean", the mean of the region in this sample; or a number, such as that of an empty pixel
        or of a token without meaning; or an array that broadcasts to one sample, such as the mean
        of a data set.
    score
        "probability" of the explained class by softmax, its "log_probability", its "log_odds"
        ln(p / (1 - p)), or its raw "output".
    max_bytes
        Memory for the replaced copies that the model is run on at a time. Beside them are the
        inputs that they are made of, and what the model needs.

    Raises
    ------
    ValueError
        For an unknown replacement or score, one that is not finite or does not broadcast to a
        sample, "mean" where each region is one element, a number of bytes below 1.
    TypeError
        If the replacement is no number.
    """

    regions: Regions
    replacement: ArrayLike = "mean"
    score: Score = "probability"
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.score not in SCORES:
            raise ValueError(f"score: wanted one of {', '.join(SCORES)}, given {self.score!r}")
        as_count(self.max_bytes, "max_bytes")
        if isinstance(self.replacement, str):
            if self.replacement != "mean":
                raise ValueError(
                    f"replacement: wanted 'mean' or a number, given {self.replacement!r}"
                )
            if self.regions.single_elements:
                raise ValueError(
                    "replacement: the mean of one element is that element; wanted a number"
                )
            return
        values = np.asarray(self.replacement)
        if values.dtype.kind not in "fiu":
            raise TypeError(f"replacement: wanted numbers, given dtype {values.dtype}")
        if not np.isfinite(values).all():
            raise ValueError("replacement: wanted finite numbers, given NaN or infinity")
        try:
            np.broadcast_to(values, self.regions.sample_shape)
        except ValueError:
            raise ValueError(
                f"replacement: wanted an array that broadcasts to {self.regions.sample_shape}, "
                f"given {values.shape}"
            ) from None

    def fill(self, x: NDArray[Any]) -> NDArray[Any]:
        """Return what replaces each element of `x` (n, ...), shape (n, elements)."""
        if isinstance(self.replacement, str):
            return self.regions.means(x).astype(x.dtype)
        values = np.broadcast_to(np.asarray(self.replacement), self.regions.sample_shape)
        return np.broadcast_to(values.astype(x.dtype).ravel(), (len(x), values.size))


def checked_inputs(x: ArrayLike, how: Perturbation) -> NDArray[Any]:
    """Return inputs (n, ...) that fit the regions and can be replaced so.

    Raises
    ------
    ValueError
        For another shape than that of the regions, NaN or infinity.
    TypeError
        If they are not real numbers, or token ids are to be replaced by something else.
    """
    inputs = as_maps(x, "x")
    if inputs.shape[1:] != how.regions.sample_shape:
        raise ValueError(
            f"x: wanted samples of shape {how.regions.sample_shape}, as the regions, "
            f"given {inputs.shape[1:]}"
        )
    sum_by_slab(inputs, lambda values: values, "x")
    if inputs.dtype.kind in "iub" and np.asarray(how.replacement).dtype.kind not in "iu":
        raise TypeError("replacement: wanted a whole number for inputs that are token ids")
    return inputs


def region_order(
    relevance: ArrayLike, regions: Regions, order: Order = "most_relevant"
) -> tuple[IntArray, BoolArray]:
    """Order the regions of each sample by the sum of their relevance.

    Parameters
    ----------
    relevance
        (n, ...) with samples of the shape of the regions; signed relevance counts with its sign.
    regions
        What is ordered.
    order
        "most_relevant" or "least_relevant" first; of equal regions that with the lower number.

    Returns
    -------
    rank
        (n, count): the place of each region in the order, from 0.
    empty
        (n,): whether all relevances of a sample are 0, so that it has no order.

    Raises
    ------
    ValueError
        For another shape, an unknown order, NaN or infinity.
    TypeError
        If `relevance` is not real.
    """
    maps = as_maps(relevance)
    if maps.shape[1:] != regions.sample_shape:
        raise ValueError(
            f"relevance: wanted samples of shape {regions.sample_shape}, given {maps.shape[1:]}"
        )
    if order not in ("most_relevant", "least_relevant"):
        raise ValueError(f"order: wanted 'most_relevant' or 'least_relevant', given {order!r}")
    empty = sum_by_slab(maps, np.abs).sum(axis=1) == 0
    sums = regions.sums(maps)
    sorted_regions = np.argsort(-sums if order == "most_relevant" else sums, axis=1, kind="stable")
    return places(sorted_regions), empty


def places(sorted_regions: IntArray) -> IntArray:
    """Invert permutations: from the regions in their order to the place of each region."""
    rank = np.empty_like(sorted_regions)
    steps = np.broadcast_to(np.arange(sorted_regions.shape[1]), sorted_regions.shape)
    np.put_along_axis(rank, sorted_regions, steps, axis=1)
    return rank


def base_scores(
    forward: Forward, x: NDArray[Any], target: ArrayLike | None, how: Perturbation
) -> tuple[IntArray, FloatArray]:
    """Return the explained classes (n,) and their scores (n,) in the inputs as they are."""
    outputs = all_outputs(forward, x, how.max_bytes)
    classes = as_target(target, outputs)
    return classes, class_scores(outputs, classes, how.score)


def perturbed_scores(
    forward: Forward,
    x: NDArray[Any],
    target: IntArray,
    how: Perturbation,
    rank: IntArray,
    counts: IntArray,
    *,
    keep: bool = False,
    progress: Progress | None = None,
) -> FloatArray:
    """Score copies in which the first `counts` regions in order are replaced.

    Parameters
    ----------
    forward, x, target, how
        The model, checked inputs (n, ...), explained classes (n,) and the settings.
    rank
        (n, regions): place of each region in the order of its sample.
    counts
        (points,) how many regions are replaced.
    keep
        Replace all but the first `counts` instead.
    progress
        Called with how many copies of how many are done.

    Returns
    -------
    Shape (n, points). The memory for copies does not grow with n.
    """
    scores = np.empty((len(x), len(counts)))
    flat, total = scores.reshape(-1), scores.size
    for first, last in _batches(total, batch_size(x, how.max_bytes)):
        sample, point = np.divmod(np.arange(first, last), len(counts))
        whole = slice(int(sample[0]), int(sample[-1]) + 1)
        replaced = (rank[sample] < counts[point, None]) != keep
        copies = _copies(x[whole], how, sample - whole.start, replaced)
        outputs = outputs_of(forward, copies)
        flat[first:last] = class_scores(outputs, target[sample], how.score)
        if progress is not None:
            progress(last, total)
    return scores


def _copies(
    x: NDArray[Any], how: Perturbation, sample: IntArray, replaced: BoolArray
) -> NDArray[Any]:
    """Return copies of samples with regions (copies, regions) replaced."""
    elements = np.take(replaced, how.regions.labels.ravel(), axis=1)
    copies = as_rows(x)[sample]
    np.copyto(copies, how.fill(x)[sample], where=elements)
    return copies.reshape(len(sample), *x.shape[1:])


def _batches(total: int, size: int) -> Iterator[tuple[int, int]]:
    for first in range(0, total, size):
        yield first, min(first + size, total)
