# SPDX-License-Identifier: Apache-2.0
"""From moments to patterns: the estimators S_a and S_a+− of Kindermans et al. (2018).

With y = wᵀx, without the bias, an estimator of the signal in x is S(x) = a y.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyrel.patterns.moments import Floats, Mask, Moments

EXPECTATIONS = ("conditional", "overall")


class Pattern(NamedTuple):
    """Patterns of the units of a layer, (units, inputs), and which units have one.

    The pattern of a unit that has none is zero.
    """

    values: Floats
    known: Mask


def linear(moments: Moments, rounding: Floats) -> Pattern:
    """Return a = cov(x, y) / var(y) .

    A unit whose output varies by no more than rounding has no pattern.

    Parameters
    ----------
    moments : Moments
        Of all rows.
    rounding : ndarray, shape (units,)
        How far rounding may move outputs.
    """
    variance = moments.square / np.maximum(moments.count, 1.0)
    return _divided(moments.co / np.maximum(moments.count, 1.0)[:, None], variance, rounding)


def of_one_sign(
    moments: Moments, mean_y: Floats, weight: Floats, rounding: Floats, expectation: str
) -> Pattern:
    """Return a₊ (or a₋) = (E₊[xy] − E₊[x] E[y]) / (wᵀ of the same).

    Parameters
    ----------
    moments : Moments
        Of the rows with y > 0 (or the others).
    mean_y : ndarray, shape (units,)
        E[y] over all rows.
    weight : ndarray, shape (units, inputs)
    rounding : ndarray, shape (units,)
    expectation : {"conditional", "overall"}
        Whether E[y] is that of the rows of the sign, E₊[y], so that the numerator is a covariance;
        or of all rows, as the paper's formula has it.
    """
    values = moments.co / np.maximum(moments.count, 1.0)[:, None]
    if expectation == "overall":
        values = values + moments.mean_x * (moments.mean_y - mean_y)[:, None]
    divisor = np.where(moments.count > 0, (weight * values).sum(axis=1), 0.0)
    return _divided(values, divisor, rounding)


def _divided(values: Floats, divisor: Floats, rounding: Floats) -> Pattern:
    """Divide, but where the divisor is no more than the square of what rounding makes."""
    known = np.abs(divisor) > rounding**2
    out = np.zeros_like(values)
    np.divide(values, divisor[:, None], out=out, where=known[:, None])
    return Pattern(out, known)
