# SPDX-License-Identifier: Apache-2.0
"""Samples and relevance maps as a run keeps them for figures: small, one scale for each map."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

_Floats = npt.NDArray[np.float32]


def in_bytes(x: _Floats) -> npt.NDArray[np.uint8]:
    """Return pixels of [0, 1] as whole numbers up to 255."""
    rounded: npt.NDArray[Any] = np.round(255 * x)
    return rounded.astype(np.uint8)


def scaled(relevance: _Floats) -> npt.NDArray[np.float16]:
    """Scale the map of each sample so that its largest absolute relevance is 1."""
    axes = tuple(range(1, relevance.ndim))
    largest = np.abs(relevance).max(axis=axes, keepdims=True)
    whole = np.divide(relevance, largest, out=np.zeros_like(relevance), where=largest > 0)
    small: npt.NDArray[np.float16] = whole.astype(np.float16)
    return small
