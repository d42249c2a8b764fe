# SPDX-License-Identifier: Apache-2.0
"""Regions of an input that are replaced as a whole: pixels, patches, steps, tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pyrel.metrics.maps import FloatArray, as_rows
from pyrel.metrics.outputs import as_count

Labels = NDArray[np.int64]
# Samples whose float64 copy is made at a time.
_SLAB = 1024
Layout = Literal["sequence", "channels"]


@dataclass(frozen=True, eq=False)
class Regions:
    """A division of an input sample into regions.

    Attributes
    ----------
    labels
        The number of each element's region, in the shape of a sample: 0 to count - 1.
    averaged
        As `labels`, for the mean that may replace a region: elements with one number here share
        one mean. It divides regions further where a patch has a mean in each channel.

    Raises
    ------
    ValueError
        If the two differ in shape, there is no element, a number is left out, or elements of
        several regions would share a mean.
    """

    labels: Labels
    averaged: Labels

    def __post_init__(self) -> None:
        """Check that the labels fit together."""
        if self.labels.shape != self.averaged.shape or not self.labels.size:
            raise ValueError(
                f"labels, averaged: wanted one shape, given {self.labels.shape}, "
                f"{self.averaged.shape}"
            )
        for name, labels in (("labels", self.labels), ("averaged", self.averaged)):
            if not np.array_equal(np.unique(labels), np.arange(labels.max() + 1)):
                raise ValueError(f"{name}: wanted all numbers from 0 to {labels.max()}")
        pairs = np.unique(np.stack([self.averaged.ravel(), self.labels.ravel()]), axis=1)
        if pairs.shape[1] != self.averaged.max() + 1:
            raise ValueError("averaged: wanted elements of one region to share a mean")

    @property
    def count(self) -> int:
        """Number of regions."""
        return int(self.labels.max()) + 1

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return self.labels.shape

    @cached_property
    def single_elements(self) -> bool:
        """Whether every mean is that of one element, which would change nothing."""
        return int(self.averaged.max()) + 1 == self.averaged.size

    def sums(self, values: NDArray[Any]) -> FloatArray:
        """Add up each region: (n, ...) to (n, count), in float64."""
        slabs = range(0, max(len(values), 1), _SLAB)
        return np.concatenate([_sums(values[i : i + _SLAB], self.labels) for i in slabs])

    def means(self, values: NDArray[Any]) -> FloatArray:
        """Put at each element the mean that may replace it: (n, elements), in float64."""
        labels = self.averaged.ravel()
        means = _sums(values, self.averaged) / np.bincount(labels)
        return np.take(means, labels, axis=1)


def _sums(values: NDArray[Any], labels: Labels) -> FloatArray:
    flat = labels.ravel()
    order = np.argsort(flat, kind="stable")
    starts = np.searchsorted(flat[order], np.arange(flat.max() + 1))
    columns = as_rows(values)[:, order].astype(np.float64)
    return np.add.reduceat(columns, starts, axis=1)


def pixel_regions(sample_shape: Sequence[int]) -> Regions:
    """Return each element as a region of its own: pixels, or the tokens of a sequence of ids.

    Parameters
    ----------
    sample_shape
        Shape of one sample, `x.shape[1:]`.

    Raises
    ------
    ValueError
        If a sample has no element.
    """
    labels = np.arange(int(np.prod(sample_shape)), dtype=np.int64).reshape(tuple(sample_shape))
    return Regions(labels, labels)


def step_regions(sample_shape: Sequence[int]) -> Regions:
    """Return each step of a sequence, the first axis of a sample, as a region.

    Raises
    ------
    ValueError
        If a sample has no element.
    """
    shape = tuple(sample_shape)
    steps = np.arange(shape[0], dtype=np.int64).reshape(-1, *[1] * (len(shape) - 1))
    labels = np.ascontiguousarray(np.broadcast_to(steps, shape))
    return Regions(labels, labels)


def patch_regions(sample_shape: Sequence[int], size: int, layout: Layout = "sequence") -> Regions:
    """Return square patches of an image that don't overlap; those at its end may be smaller.

    Parameters
    ----------
    sample_shape
        (height, width); or (steps, height, width) with layout="sequence", where the steps stand
        side by side and patches may reach over several; or (channels, height, width) with
        layout="channels", where a patch goes through all channels and has a mean in each.
    size
        Side of a patch in pixels: 7 gives 48 patches of a majority sample of 28×84 pixels.
    layout
        What the first of three axes is.

    Raises
    ------
    ValueError
        For another number of axes, an unknown layout or a size below 1.

    Examples
    --------
    >>> pyrel.metrics.patch_regions((12, 28, 7), 7).count
    48
    >>> pyrel.metrics.patch_regions((2, 2, 3), 2).labels[1]  # columns 3 to 5 of 6
    array([[1, 2, 2],
           [1, 2, 2]])
    """
    shape = tuple(sample_shape)
    size = as_count(size, "size")
    if layout not in ("sequence", "channels"):
        raise ValueError(f"layout: wanted 'sequence' or 'channels', given {layout!r}")
    if len(shape) not in (2, 3):
        raise ValueError(f"sample_shape: wanted two or three axes, given {shape}")
    first, height, width = (1, *shape) if len(shape) == 2 else shape
    side_by_side = layout == "sequence"
    columns = (first if side_by_side else 1) * width
    across = -(-columns // size)
    tiles = np.arange(height)[:, None] // size * across + np.arange(columns) // size
    if side_by_side:
        labels = np.stack(np.split(tiles, first, axis=1)).reshape(shape)
        return Regions(labels, labels)
    labels = np.broadcast_to(tiles, (first, height, width))
    channel = np.arange(first)[:, None, None] * (tiles.max() + 1)
    return Regions(np.ascontiguousarray(labels).reshape(shape), (labels + channel).reshape(shape))
