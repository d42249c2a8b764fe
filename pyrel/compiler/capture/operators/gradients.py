# SPDX-License-Identifier: Apache-2.0
"""Operators whose values are those of their operands, but whose gradients are not."""

from __future__ import annotations

from typing import Any

from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer


def detach(tracer: Tracer, value: Traced) -> Traced:
    """``aten.detach``."""
    return tracer.stop(value)


def custom_gradient(tracer: Tracer, value: Traced, what: str) -> Traced:
    """``pyrel.custom_gradient``, for what has a backward pass of the user's own."""
    return tracer.custom_gradient(value, what)


def written(tracer: Tracer, after: Any, before: Any, what: str) -> Traced:
    """``pyrel.written``, for what an in-place operator changed unseen by autograd."""
    if not isinstance(after, Traced):
        after = Traced(tracer.ids(after))
    return tracer.written(after, before, what)
