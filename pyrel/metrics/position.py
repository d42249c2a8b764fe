# SPDX-License-Identifier: Apache-2.0
"""Where in the sequence relevance goes, against the evidence there: the bias for late steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from pyrel.metrics.maps import BoolArray, FloatArray, as_relevant
from pyrel.metrics.outputs import as_count
from pyrel.metrics.summary import Summary, paired_difference


@dataclass(frozen=True, eq=False)
class PositionShare:
    """What one part of the sequence gets where it holds evidence.

    Attributes
    ----------
    position
        Number of the part, from 0: a step, or a digit of several steps.
    relevance
        Its share of the relevance in all evidence of its sample.
    evidence
        Its share of the evidence, as the pixel mass there.
    excess
        The difference of both, sample by sample: above 0 it gets more than its evidence.
    """

    position: int
    relevance: Summary
    evidence: Summary

    @property
    def excess(self) -> Summary:
        """Relevance minus evidence."""
        return paired_difference(self.relevance, self.evidence)


def position_shares(
    shares: ArrayLike, mass: ArrayLike, relevant: ArrayLike | None = None, parts: int | None = None
) -> list[PositionShare]:
    """Compare, by position in the sequence, the share of relevance with that of pixel mass.

    Thesis, figure 4.10, for evidence at any place: only the relevant steps of a sample count, and
    of these only what each gets of their sum, so that relevance outside, which is another fault,
    does not mix in. A model that looks at its last steps more than at its first shows an excess
    that grows along the sequence.

    Parameters
    ----------
    shares
        (n, steps) of relevance, from `step_shares`; rows of NaN are left out.
    mass
        (n, steps) of evidence, `step_shares(pixel_mass_map(x))`.
    relevant
        (n, steps) boolean, the steps with evidence; None for all.
    parts
        Into how many equally long parts the sequence is cut, such as its digits; None for steps.

    Returns
    -------
    One entry for each part; its summaries leave out (NaN) the samples without evidence there.

    Raises
    ------
    ValueError
        For mismatched shapes, parts that do not divide the steps.
    TypeError
        If `relevant` is not boolean.

    Examples
    --------
    >>> shares, mass = np.array([[0.2, 0.6, 0.2]]), np.array([[0.3, 0.3, 0.4]])
    >>> relevant = np.array([[True, True, False]])
    >>> found = pyrel.metrics.position_shares(shares, mass, relevant)
    >>> [round(part.excess.mean, 3) for part in found]
    [-0.25, 0.25, nan]
    """
    relevance, evidence, mask = _checked(shares, mass, relevant)
    steps = relevance.shape[1]
    count = steps if parts is None else as_count(parts, "parts")
    if steps % count:
        raise ValueError(f"parts: {steps} steps cannot be divided into {count} equal parts")
    cut = (len(mask), count, steps // count)
    present = mask.reshape(cut).any(axis=2)
    columns = []
    for values in (relevance, evidence):
        inside = np.where(mask, values, 0.0)
        total = inside.sum(axis=1, keepdims=True)
        part = inside.reshape(cut).sum(axis=2)
        found = np.full_like(part, np.nan)
        np.divide(part, total, out=found, where=present & (total > 0))
        found[np.isnan(values[:, 0])] = np.nan
        columns.append(found)
    return [
        PositionShare(i, *(Summary.of(column[:, i]) for column in columns)) for i in range(count)
    ]


def centre_of_relevance(shares: ArrayLike) -> FloatArray:
    """Return the mean position of relevance in the sequence: 0 for the first step, 1 for the last.

    Its difference to that of the pixel mass tells in one number how late relevance lies.

    Parameters
    ----------
    shares
        (n, steps) from `step_shares`.

    Returns
    -------
    Shape (n,), in [0, 1]; NaN where a row is NaN. 0 with one step only.

    Raises
    ------
    ValueError
        If there are not two axes, or no step.

    Examples
    --------
    >>> pyrel.metrics.centre_of_relevance([[0.0, 0.5, 0.5], [1.0, 0.0, 0.0]])
    array([0.75, 0.  ])
    """
    rows = _rows(shares, "shares")
    centre: FloatArray = rows @ np.linspace(0.0, 1.0, rows.shape[1])
    return centre


def last_steps_share(shares: ArrayLike, count: int) -> FloatArray:
    """Return the share of relevance in the last `count` steps, which the thesis gives for three.

    Parameters
    ----------
    shares
        (n, steps) from `step_shares`.
    count
        From 1 to the number of steps.

    Returns
    -------
    Shape (n,), in [0, 1]; NaN where a row is NaN.

    Raises
    ------
    ValueError, TypeError
        If there are not two axes, or not so many steps.

    Examples
    --------
    >>> pyrel.metrics.last_steps_share([[0.25, 0.25, 0.5]], 2)
    array([0.75])
    """
    rows = _rows(shares, "shares")
    if as_count(count, "count") > rows.shape[1]:
        raise ValueError(f"count: wanted at most {rows.shape[1]}, the steps, given {count}")
    share: FloatArray = rows[:, -count:].sum(axis=1)
    return np.minimum(share, 1.0)


def _rows(values: ArrayLike, argument: str) -> FloatArray:
    rows = np.asarray(values, dtype=np.float64)
    if rows.ndim != 2 or not rows.shape[1]:
        raise ValueError(f"{argument}: wanted shape (n, steps), given {rows.shape}")
    return rows


def _checked(
    shares: ArrayLike, mass: ArrayLike, relevant: ArrayLike | None
) -> tuple[FloatArray, FloatArray, BoolArray]:
    relevance, evidence = _rows(shares, "shares"), _rows(mass, "mass")
    if evidence.shape != relevance.shape:
        raise ValueError(f"mass: wanted shape {relevance.shape}, given {evidence.shape}")
    if relevant is None:
        return relevance, evidence, np.ones(relevance.shape, dtype=np.bool_)
    return relevance, evidence, as_relevant(relevant, relevance.shape)
