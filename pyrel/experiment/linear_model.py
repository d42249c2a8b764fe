# SPDX-License-Identifier: Apache-2.0
"""The linear model of signal and distractor of the PatternNet paper (section 2 of its seminar).

x = a_s y + a_d ε, with y uniform in [−1, 1] and ε normal. The weights that read y from x alone,
wᵀa_s = 1 and wᵀa_d = 0, turn with the distractor. A good estimator finds a_s whatever a_d is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel.methods.options import number
from pyrel.methods.pattern import filter_direction, random_direction
from pyrel.patterns.estimators import linear, of_one_sign
from pyrel.patterns.moments import Moments, rounding_of_outputs

Floats: TypeAlias = npt.NDArray[np.float64]

SIGNAL = (1.0, 0.0)
DISTRACTOR = (1.0, 1.0)
DEVIATION_OF_Y = 1 / np.sqrt(3.0)  # of a uniform distribution in [−1, 1]


@dataclass(frozen=True)
class LinearModel:
    """A signal and a distractor in the plane.

    Parameters
    ----------
    signal, distractor : pair of float
        The directions a_s and a_d; not parallel.
    deviation : float, default 1
        σ_ε, the standard deviation of the distractor.

    Raises
    ------
    ValueError
        The directions are parallel or no pairs, or ``deviation`` is below 0.

    Examples
    --------
    >>> model = pyrel.experiment.LinearModel()
    >>> model.weight
    array([ 1., -1.])
    >>> x, y = model.draw(100, np.random.default_rng(0))
    >>> bool(np.allclose(x @ model.weight, y))
    True
    """

    signal: Sequence[float] = SIGNAL
    distractor: Sequence[float] = DISTRACTOR
    deviation: float = 1.0

    def __post_init__(self) -> None:
        """Check that w exists."""
        if len(self.signal) != 2 or len(self.distractor) != 2:
            raise ValueError("signal, distractor: wanted two numbers each")
        if np.linalg.matrix_rank(np.array([self.signal, self.distractor], np.float64)) < 2:
            raise ValueError(
                f"signal, distractor: {self.signal} and {self.distractor} are parallel, and no "
                "weights tell them apart"
            )
        if not number("deviation", self.deviation) >= 0:
            raise ValueError(f"deviation: wanted 0 or more, got {self.deviation!r}")

    @property
    def weight(self) -> Floats:
        """The w with wᵀa_s = 1 and wᵀa_d = 0; shape (2,)."""
        directions = np.array([self.signal, self.distractor], np.float64)
        return np.linalg.solve(directions, np.array([1.0, 0.0]))

    def draw(self, count: int, random: np.random.Generator) -> tuple[Floats, Floats]:
        """Draw samples.

        Parameters
        ----------
        count : int
        random : numpy.random.Generator

        Returns
        -------
        x : ndarray, shape (count, 2)
        y : ndarray, shape (count,)
        """
        y = random.uniform(-1.0, 1.0, count)
        noise = self.deviation * random.standard_normal(count)
        x = y[:, None] * np.asarray(self.signal) + noise[:, None] * np.asarray(self.distractor)
        return x, y

    def directions(self, x: Floats, seed: int = 0) -> dict[str, Floats]:
        """Return what estimators take for the direction of the signal.

        Parameters
        ----------
        x : ndarray, shape (n, 2)
            As `draw` makes them.
        seed : int
            Of the random estimator.

        Returns
        -------
        dict of str to ndarray of shape (2,)
            "gradient" is w, "filter" w / wᵀw of S_w, "linear" a of S_a, "two_component" a₊ of
            S_a+−, and "random".
        """
        w = self.weight[None]
        y = x @ w.T
        rounding = rounding_of_outputs(w, np.abs(x).max(axis=0))
        whole, above = Moments.of(x, y), Moments.of(x, y, y > 0)
        plus = of_one_sign(above, whole.mean_y, w, rounding, "conditional")
        return {
            "gradient": w[0],
            "filter": filter_direction(w)[0],
            "linear": linear(whole, rounding).values[0],
            "two_component": plus.values[0],
            "random": random_direction(w, seed)[0],
        }

    def first_order_angle(self, count: int) -> float:
        """Return the standard deviation of the angle of S_a to the signal to first order, radians.

        a = a_s + a_d cov(ε, y) / var(y), and cov(ε, y) of n samples has the standard deviation
        σ_ε σ_y / √n. To first order the angle is what of it is across a_s, relative to |a_s|: for
        the directions of the seminar σ_ε / (σ_y √n). See `moment_of_angle`.
        """
        signal, distractor = np.asarray(self.signal), np.asarray(self.distractor)
        across = abs(_across(signal, distractor)) / (signal @ signal)
        return float(across * self.deviation / (DEVIATION_OF_Y * np.sqrt(count)))

    def moment_of_angle(self, count: int, order: int = 2) -> float:
        """Return E[φᵏ] of the angle φ of S_a to the signal, in radians to the power k.

        y = wᵀx has no noise, so that a = a_s + δ a_d with δ = Σ (y − ȳ) ε / S, S = Σ (y − ȳ)².
        Given the y, δ is normal with mean 0 and variance σ_ε² / S, whatever n is. And φ(δ) is the
        angle of the line along a_s + δ a_d to that along a_s, so that

            E[φᵏ] = E_S ∫ φ(δ)ᵏ N(δ; 0, σ_ε² / S) dδ,

        the integral by the trapezoid rule. S is near (n − 1) σ_y², and its variance, with the
        fourth moment 9/5 σ_y⁴ of a uniform distribution, is (n − 1)² σ_y⁴ (9/5 − (n − 3) / (n − 1))
        / n, about 4/5 n σ_y⁴. It adds 1.8 / n to E[δ²] n σ_y² / σ_ε² = 1: at n = 100 0.9 % of the
        root. Three points of S with its mean, variance and no skewness have all but terms of n⁻².

        Of the seminar's directions tan φ = δ / (1 + δ), and E[φ²] = s² (1 + 7 s²) to the next
        order, s = σ_ε / (σ_y √n): 10 % more than s in the root at n = 100.

        Parameters
        ----------
        count : int
            Samples of a draw, n; 10 or more.
        order : int, default 2
            k, 1 or more. The root of the second moment is what `root_mean_square_angles` estimates.

        Raises
        ------
        ValueError
            ``count`` is no whole number from 10 on, or ``order`` is below 1.

        Examples
        --------
        >>> model = pyrel.experiment.LinearModel()
        >>> round(model.moment_of_angle(100) ** 0.5 / model.first_order_angle(100), 3)
        1.099
        """
        if not (count >= 10 and count % 1 == 0 and order >= 1):
            raise ValueError(
                f"count, order: wanted a whole number from 10 on and one from 1 on, given {count} "
                f"and {order}"
            )
        mean = (count - 1) * DEVIATION_OF_Y**2
        spread = mean * np.sqrt((9 / 5 - (count - 3) / (count - 1)) / count)
        sizes = mean + spread * np.sqrt(3.0) * np.array([-1.0, 0.0, 1.0])
        normal, step = np.linspace(-10.0, 10.0, 20_001, retstep=True)
        delta = self.deviation * normal / np.sqrt(sizes)[:, None]
        signal, distractor = np.asarray(self.signal), np.asarray(self.distractor)
        across = _across(signal, distractor)
        along = signal @ signal + delta * (signal @ distractor)
        powers = np.arctan2(np.abs(delta * across), np.abs(along)) ** order
        density = np.exp(-(normal**2) / 2) * step / np.sqrt(2 * np.pi)
        # As of a normal S: weights 1/6, 2/3 and 1/6 of the three points.
        return float(np.array([1 / 6, 2 / 3, 1 / 6]) @ (powers @ density))


def angle(direction: npt.ArrayLike, other: npt.ArrayLike) -> float:
    """Return the angle between two directions of the plane, in radians; up to π / 2.

    The sign of a direction does not matter.

    Examples
    --------
    >>> round(np.degrees(pyrel.experiment.angle([1, 0], [-1, -1])))
    45
    """
    one, two = np.asarray(direction, np.float64), np.asarray(other, np.float64)
    return float(np.arctan2(abs(_across(one, two)), abs(one @ two)))


def _across(one: Floats, two: Floats) -> float:
    """Return the length of one direction times that of the other across it, with a sign."""
    return float(one[0] * two[1] - one[1] * two[0])


def root_mean_square_angles(
    model: LinearModel, count: int, draws: int = 200, seed: int = 0
) -> dict[str, float]:
    """Return the root of the mean squared angle of estimators to the signal, in radians.

    Parameters
    ----------
    model : LinearModel
    count : int
        Samples of each draw.
    draws : int
    seed : int

    Returns
    -------
    dict of str to float
        By the names of `LinearModel.directions`.
    """
    random = np.random.default_rng([seed, count])
    squares: dict[str, list[float]] = {}
    for draw in range(draws):
        x, _ = model.draw(count, random)
        of_draw = int(np.random.SeedSequence([seed, draw]).generate_state(1)[0])
        for name, direction in model.directions(x, of_draw).items():
            squares.setdefault(name, []).append(angle(direction, model.signal) ** 2)
    return {name: float(np.sqrt(np.mean(each))) for name, each in squares.items()}
