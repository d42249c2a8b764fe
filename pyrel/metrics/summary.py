# SPDX-License-Identifier: Apache-2.0
"""A measure over many samples: mean, standard error, and who was left out."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pyrel.metrics.maps import FloatArray


@dataclass(frozen=True, eq=False)
class Summary:
    """One measure of a set of samples.

    Attributes
    ----------
    values
        (n,) float64, one per sample; NaN marks a sample left out (its map is empty).

    Examples
    --------
    >>> summary = pyrel.metrics.Summary.of([0.5, 0.7, np.nan])
    >>> round(summary.mean, 3), summary.used, summary.left_out
    (0.6, 2, 1)
    """

    values: FloatArray

    @classmethod
    def of(cls, values: ArrayLike) -> Summary:
        """Summarise one number per sample; booleans count as 0 and 1.

        Raises
        ------
        ValueError
            If `values` is not one-dimensional or holds an infinity.
        """
        array = np.asarray(values, dtype=np.float64)
        if array.ndim != 1:
            raise ValueError(f"values: wanted shape (n,), given {array.shape}")
        if np.isinf(array).any():
            raise ValueError("values: wanted numbers (NaN for a sample left out), given infinity")
        return cls(array)

    @property
    def used(self) -> int:
        """Number of samples that count."""
        return len(self.values) - self.left_out

    @property
    def left_out(self) -> int:
        """Number of samples left out."""
        return int(np.isnan(self.values).sum())

    @property
    def mean(self) -> float:
        """Mean over the samples used; NaN if there is none."""
        return float(np.nanmean(self.values)) if self.used else math.nan

    @property
    def standard_error(self) -> float:
        """Sample standard deviation / sqrt(used); NaN for fewer than two samples."""
        if self.used < 2:
            return math.nan
        return float(np.nanstd(self.values, ddof=1) / math.sqrt(self.used))

    @property
    def largest(self) -> float:
        """Largest value of a sample used; NaN if there is none."""
        return float(np.nanmax(self.values)) if self.used else math.nan

    def __str__(self) -> str:
        """Return mean ± standard error, as tables print it."""
        return f"{self.mean:.3f} ± {self.standard_error:.3f}"

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the four numbers for JSON, None where undefined."""
        return {
            "mean": _number(self.mean),
            "standard_error": _number(self.standard_error),
            "largest": _number(self.largest),
            "used": self.used,
            "left_out": self.left_out,
        }


def paired_difference(first: Summary, second: Summary) -> Summary:
    """Return first - second, sample by sample, over the samples that both use.

    Both have seen the same samples, so the standard error of this difference is the right one to
    compare two methods by: what makes a sample hard for both cancels out.

    Raises
    ------
    ValueError
        If the numbers of samples differ.
    """
    if first.values.shape != second.values.shape:
        raise ValueError(
            f"second: wanted {len(first.values)} samples as in first, given {len(second.values)}"
        )
    return Summary(first.values - second.values)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
