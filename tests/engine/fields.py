# SPDX-License-Identifier: Apache-2.0
"""Fields of explanations, bit by bit."""

from __future__ import annotations

from typing import Any

import numpy as np

FIELDS = ("relevance", "output", "target", "absorbed", "conservation", "amplification")


def bits(e: Any) -> tuple[bytes, ...]:
    """Return every field of an explanation as bytes."""
    return tuple(np.ascontiguousarray(getattr(e, field)).tobytes() for field in FIELDS)
