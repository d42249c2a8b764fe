# SPDX-License-Identifier: Apache-2.0
"""Sensitivity against decomposition, on functions of two variables that are sums (figure 1)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Elementwise = Callable[[Floats], Floats]


def natural_decomposition(terms: Sequence[Elementwise], x: npt.ArrayLike) -> Floats:
    """Return the addends of f(x) = Σ σ_p(x_p) as relevance (Montavon et al. 2017, section 2.1).

    Parameters
    ----------
    terms : sequence of d functions
        σ_p, elementwise and at least 0.
    x : array of shape (n, d)

    Returns
    -------
    ndarray of shape (n, d)
        R_p = σ_p(x_p); the sum of a row is f.

    Raises
    ------
    ValueError
        ``x`` has other than d columns, or a term is below 0.
    """
    points = np.asarray(x, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] != len(terms):
        raise ValueError(f"x: wanted shape (n, {len(terms)}), given {points.shape}")
    relevance = np.stack([term(points[:, p]) for p, term in enumerate(terms)], axis=1)
    if (relevance < 0).any():
        raise ValueError("terms: wanted functions that are at least 0, given one that is not")
    return relevance


@dataclass(frozen=True, eq=False)
class PlaneFunction:
    """A function of two variables of the form f = σ(x₁) + σ(x₂).

    Attributes
    ----------
    label : str
    term, slope : callable
        σ and its derivative, elementwise.
    """

    label: str
    term: Elementwise
    slope: Elementwise

    def value(self, x: Floats) -> Floats:
        """Return f: (n, 2) to (n,)."""
        return np.asarray(self.term(x).sum(axis=1))

    def sensitivity(self, x: Floats) -> Floats:
        """Return the squared partial derivatives, (n, 2)."""
        return np.asarray(self.slope(x) ** 2)

    def decomposition(self, x: Floats) -> Floats:
        """Return the natural decomposition, (n, 2)."""
        return natural_decomposition([self.term, self.term], x)


def _hinge(x: Floats) -> Floats:
    return np.maximum(x, 0.0)


# The paper shows one function without a formula. The hinge is the sum of two detection units; the
# smooth one shows that it is not the kink alone that tells sensitivity from decomposition.
FUNCTIONS = {
    "hinge": PlaneFunction("max(0, x₁) + max(0, x₂)", _hinge, lambda x: np.where(x > 0, 1.0, 0.0)),
    "squared hinge": PlaneFunction(
        "½ max(0, x₁)² + ½ max(0, x₂)²", lambda x: 0.5 * _hinge(x) ** 2, _hinge
    ),
}


def grid(count: int = 11, end: float = 1.0) -> Floats:
    """Return the points of a square grid over [−end, end]², (count², 2)."""
    axis = np.linspace(-end, end, count)
    return np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=2).reshape(-1, 2)


def largest_jump(field: Callable[[Floats], Floats], step: float = 1e-6, count: int = 41) -> float:
    """Return by how much a field changes at most over a step of x₁ from one of many points.

    About ``step`` times a slope for a continuous field; where it jumps at a grid point, the jump.
    """
    points = grid(count)
    moved = points + np.array([step, 0.0])
    return float(np.abs(field(moved) - field(points)).max())
