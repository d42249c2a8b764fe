# SPDX-License-Identifier: Apache-2.0
"""Token ids as the baseline of a method."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.engine.arrays import Float32s
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.copies import broadcast


def checked_ids(given: npt.NDArray[Any], inputs: Inputs, shape: tuple[int, ...]) -> Float32s:
    """Return a baseline of token ids as the engine takes them, in the shape of a sample.

    Raises
    ------
    ValueError
        If they are floats, of another shape, or out of the tables.
    """
    if given.dtype.kind != "i":
        raise ValueError("baseline: wanted token ids, as the model takes them, got floats")
    whole = broadcast("baseline", given, shape)
    bounds = inputs.bounds(shape[0] if shape else 0)
    assert bounds is not None
    flat = whole.reshape(-1)
    outside = np.flatnonzero((flat < bounds[0]) | (flat > bounds[1]))
    if outside.size:
        raise ValueError(
            f"baseline: wanted token ids from 0 to {bounds[1][outside[0]]:.0f}, got "
            f"{flat[outside[0]]}"
        )
    return np.array(whole, np.float32, order="C")
