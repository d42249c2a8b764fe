# SPDX-License-Identifier: Apache-2.0
"""Weights of recurrent layers for the tests of importers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FEATURES, UNITS, STEPS, SAMPLES = 5, 4, 6, 3


def drawn(*shape: int, seed: int = 0) -> npt.NDArray[np.float32]:
    """Return numbers that float32 holds, so that an import loses nothing of them."""
    return np.random.default_rng([seed, *shape]).uniform(-1, 1, shape).astype(np.float32)


def sigmoid(z: Array) -> Array:
    return 1 / (1 + np.exp(-z))


def arras_weights() -> dict[str, npt.NDArray[np.float32]]:
    shapes = {
        "Wxh": (4 * UNITS, FEATURES), "Whh": (4 * UNITS, UNITS), "bxh": (4 * UNITS,),
        "bhh": (4 * UNITS,), "Why": (2, UNITS),
    }  # fmt: skip
    return {
        f"{name}_{side}": drawn(*shape, seed=10 * s + n)
        for n, (name, shape) in enumerate(shapes.items())
        for s, side in enumerate(("Left", "Right"))
    }
