# SPDX-License-Identifier: Apache-2.0
"""Share of the relevance in a region that is known to hold the evidence."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from pyrel.metrics.maps import BoolArray, FloatArray, as_relevant
from pyrel.metrics.steps import step_shares

Level = Literal["digit", "step"]


def relevance_in_region(relevance: ArrayLike, relevant: ArrayLike) -> FloatArray:
    """Return the share of each sample's relevance that lies in its relevant steps.

    The percentage of relevance in the majority digits of the thesis, section 4.5 (figure 4.13).
    Signed maps are judged by max(0, R).

    Parameters
    ----------
    relevance
        Shape (n, steps, ...).
    relevant
        Shape (n, steps), boolean: the steps that hold the evidence.

    Returns
    -------
    Shape (n,), in [0, 1]; NaN where the map is empty (sum of max(0, R) is 0).

    Raises
    ------
    ValueError
        For mismatched shapes, a sample without a relevant step, NaN or infinity in `relevance`.
    TypeError
        If `relevance` is not real or `relevant` not boolean.

    Examples
    --------
    >>> relevance = np.array([[3.0, 1.0, -2.0]])  # one sample of three steps
    >>> relevant = np.array([[True, False, True]])
    >>> pyrel.metrics.relevance_in_region(relevance, relevant)
    array([0.75])
    """
    return share_in_region(step_shares(relevance), relevant)


def cosine_similarity(
    relevance: ArrayLike, relevant: ArrayLike, level: Level = "digit", digits: int = 3
) -> FloatArray:
    """Return the cosine between the distribution of relevance and the relevant region.

    cos(m, v) = m·v / (|m| |v|) of the talk: m holds the relevance of each digit (or each step), v
    is 1 where the digit (or step) is relevant and 0 elsewhere. Signed maps are judged by
    max(0, R). By digit only the sums count; by step relevance must also be even inside a digit.

    Parameters
    ----------
    relevance
        Shape (n, steps, ...).
    relevant
        Shape (n, steps), boolean.
    level
        "digit" or "step".
    digits
        Number of equally long digits in a sequence, used by level="digit".

    Returns
    -------
    Shape (n,), in [0, 1]; NaN where the map is empty.

    Raises
    ------
    ValueError
        As `relevance_in_region`; for an unknown level; for level="digit" if the steps cannot be
        divided into `digits` digits, or a digit is relevant in part.
    TypeError
        As `relevance_in_region`.

    Examples
    --------
    >>> relevance = np.array([[1.0, 1.0, 0.0], [0.0, 0.0, 5.0]])
    >>> relevant = np.array([[True, True, False], [True, True, False]])
    >>> pyrel.metrics.cosine_similarity(relevance, relevant, level="step").round(3)
    array([1., 0.])
    """
    return cosine_to_region(step_shares(relevance), relevant, level, digits)


def share_in_region(shares: FloatArray, relevant: ArrayLike) -> FloatArray:
    """Return the share in the relevant steps, from step shares (n, steps)."""
    mask = as_relevant(relevant, shares.shape)
    inside: FloatArray = np.where(mask, shares, 0.0).sum(axis=1)
    return np.where(np.isnan(shares[:, 0]), np.nan, inside)


def cosine_to_region(
    shares: FloatArray, relevant: ArrayLike, level: Level = "digit", digits: int = 3
) -> FloatArray:
    """Return the cosine to the relevant region, from step shares (n, steps)."""
    mask = as_relevant(relevant, shares.shape)
    if level == "digit":
        shares, mask = _by_digit(shares, mask, digits)
    elif level != "step":
        raise ValueError(f"level: wanted 'digit' or 'step', given {level!r}")
    inner = np.where(mask, shares, 0.0).sum(axis=1)
    cosine: FloatArray = inner / np.sqrt((shares**2).sum(axis=1) * mask.sum(axis=1))
    # Rounding may push the cosine of a perfect map an ulp above 1.
    return np.minimum(cosine, 1.0)


def _by_digit(shares: FloatArray, mask: BoolArray, digits: int) -> tuple[FloatArray, BoolArray]:
    steps = shares.shape[1]
    if digits < 1 or steps % digits:
        raise ValueError(f"digits: {steps} steps cannot be divided into {digits} equal digits")
    masks = mask.reshape(len(mask), digits, steps // digits)
    relevant_steps = masks.sum(axis=2)
    whole: BoolArray = relevant_steps == masks.shape[2]
    partly = np.flatnonzero(((relevant_steps > 0) & ~whole).any(axis=1))
    if partly.size:
        raise ValueError(
            f"relevant: level='digit' wanted every digit relevant as a whole or not at all; "
            f"sample {partly[0]} marks part of a digit"
        )
    return shares.reshape(masks.shape).sum(axis=2), whole
