# SPDX-License-Identifier: Apache-2.0
"""How few elements a map speaks of: entropy and Gini index of the absolute relevance."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike

from pyrel.metrics.maps import FloatArray, as_maps, sum_by_slab


def entropy(relevance: ArrayLike) -> FloatArray:
    """Return the entropy of each map, in nats: -Σ p ln p with p = |R| / Σ|R|.

    Bhatt, Weller, Moura, Evaluating and aggregating feature-based model explanations (2020),
    definition of complexity. Lower is simpler; ln of the number of elements for a uniform map.

    Parameters
    ----------
    relevance
        Shape (n, steps, ...).

    Returns
    -------
    Shape (n,); NaN where all relevances are 0.

    Raises
    ------
    ValueError
        For fewer than two axes, NaN or infinity.
    TypeError
        If `relevance` is not real.

    Examples
    --------
    >>> relevance = np.array([[1.0, 1.0, 1.0, 1.0], [0.0, -3.0, 0.0, 0.0]])
    >>> pyrel.metrics.entropy(relevance).round(3)
    array([1.386, 0.   ])
    >>> pyrel.metrics.gini(relevance)
    array([0.  , 0.75])
    """
    return _of_shares(relevance, _entropy)


def gini(relevance: ArrayLike) -> FloatArray:
    """Return the Gini index of each map, its sparsity: Σ_k (2k - d - 1) a_k / (d Σ a).

    a_1 ≤ ... ≤ a_d are the sorted |R|. Hurley and Rickard, Comparing measures of sparsity (2009);
    for explanations Chalasani et al. (2020).

    Parameters
    ----------
    relevance
        Shape (n, steps, ...), of d elements a sample.

    Returns
    -------
    Shape (n,), from 0 for a uniform map to 1 - 1/d for one that names one element; NaN where all
    relevances are 0.

    Raises
    ------
    ValueError, TypeError
        As `entropy`.
    """
    return _of_shares(relevance, _gini)


def _of_shares(relevance: ArrayLike, measure: Callable[[FloatArray], float]) -> FloatArray:
    """Measure |R| over its largest, so that neither tiny nor huge numbers leave the range."""
    maps = as_maps(relevance)
    sum_by_slab(maps, np.abs)
    result = np.full(len(maps), np.nan)
    for i, values in enumerate(maps):
        sizes = np.abs(np.asarray(values, dtype=np.float64)).ravel()
        if largest := sizes.max():
            result[i] = measure(sizes / largest)
    return result


def _entropy(sizes: FloatArray) -> float:
    shares = sizes[sizes > 0] / sizes.sum()
    present = shares[shares > 0]
    # 0.0 - x: the entropy of a single element is 0 and not -0.
    return float(0.0 - (present * np.log(present)).sum())


def _gini(sizes: FloatArray) -> float:
    count = len(sizes)
    weights = 2.0 * np.arange(1, count + 1) - count - 1
    return float((weights * np.sort(sizes)).sum() / (count * sizes.sum()))
