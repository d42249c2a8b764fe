# SPDX-License-Identifier: Apache-2.0
"""Computes with weights block by block, so that nothing beside them is as large as they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyrel.methods.terms import Floats

BLOCK = 2**19  # numbers of an array that is computed for a block of units: 4 MB in float64


def blocks(units: int, inputs: int) -> Iterator[slice]:
    """Cut units into blocks of at most `BLOCK` weights, but of one unit at least."""
    size = max(BLOCK // max(inputs, 1), 1)
    return (slice(start, min(start + size, units)) for start in range(0, units, size))


def outputs_of(x: Floats, weight: Floats) -> Floats:
    """Return ``x @ weight.T`` in float64, which NumPy would copy weights in float32 to.

    Parameters
    ----------
    x : ndarray of float64, shape (..., inputs)
    weight : ndarray, shape (units, inputs)
    """
    y = np.empty((*x.shape[:-1], len(weight)))
    for units in blocks(*weight.shape):
        y[..., units] = x @ weight[units].T
    return y
