# SPDX-License-Identifier: Apache-2.0
"""Distribution of relevance over the steps of a sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pyrel.metrics.maps import BoolArray, FloatArray, as_maps, positive_part, sum_by_slab


def step_shares(relevance: ArrayLike) -> FloatArray:
    """Return each step's share of its sample's relevance.

    Thesis, figure 4.10. The pixel mass of the same steps is `step_shares(pixel_mass_map(x))`.
    Signed maps are judged by max(0, R).

    Parameters
    ----------
    relevance
        Shape (n, steps, ...).

    Returns
    -------
    Shape (n, steps), rows summing to 1; rows of NaN where the map is empty.

    Raises
    ------
    ValueError
        For fewer than two axes, NaN or infinity.
    TypeError
        If `relevance` is not real.
    """
    sums = sum_by_slab(as_maps(relevance), positive_part)
    # Scaled by the largest step first, so that a map of tiny numbers cannot underflow to 0/0.
    largest = sums.max(axis=1, keepdims=True)
    scaled = np.divide(sums, largest, out=np.full_like(sums, np.nan), where=largest > 0)
    shares: FloatArray = scaled / scaled.sum(axis=1, keepdims=True)
    return shares


@dataclass(frozen=True, eq=False)
class StepProfile:
    """Mean share of relevance per step over samples with the same relevant steps.

    Attributes
    ----------
    relevant
        (steps,) the steps that are relevant in all of these samples; all False where none is known.
    mean, standard_error
        (steps,) over the samples, each sample counting the same. NaN without (with one) sample.
    used, left_out
        Number of samples averaged, and of those left out because their map is empty.
    """

    relevant: BoolArray
    mean: FloatArray
    standard_error: FloatArray
    used: int
    left_out: int


def step_profiles(shares: FloatArray, relevant: ArrayLike | None = None) -> list[StepProfile]:
    """Average step shares over samples, one profile for each arrangement of relevant steps.

    A plain average over a majority data set mixes samples whose odd digit stands left, in the
    middle and right, and looks even for any map; split by arrangement it shows the steps that
    should stand out.

    Parameters
    ----------
    shares
        (n, steps) from `step_shares`.
    relevant
        (n, steps) boolean, or None to average all samples into one profile.

    Returns
    -------
    Profiles ordered by arrangement, the one whose first steps are not relevant first.

    Raises
    ------
    ValueError
        If the shapes differ.
    """
    if relevant is None:
        return [_profile(shares, np.zeros(shares.shape[1], dtype=np.bool_))]
    mask = np.asarray(relevant, dtype=np.bool_)
    if mask.shape != shares.shape:
        raise ValueError(f"relevant: wanted shape {shares.shape}, given {mask.shape}")
    arrangements, member = np.unique(mask, axis=0, return_inverse=True)
    member = member.reshape(-1)
    return [_profile(shares[member == i], row) for i, row in enumerate(arrangements)]


def _profile(shares: FloatArray, relevant: BoolArray) -> StepProfile:
    rows = shares[~np.isnan(shares[:, 0])]
    used, steps = rows.shape
    mean = rows.mean(axis=0) if used else np.full(steps, np.nan)
    error = rows.std(axis=0, ddof=1) / np.sqrt(used) if used > 1 else np.full(steps, np.nan)
    return StepProfile(relevant, mean, error, used, len(shares) - used)
