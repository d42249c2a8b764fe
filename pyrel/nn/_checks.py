# SPDX-License-Identifier: Apache-2.0
"""Arguments of cells, checked by name."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import SupportsIndex


def positive(name: str, value: SupportsIndex) -> int:
    """Return a whole number from 1."""
    if isinstance(value, bool) or not isinstance(value, SupportsIndex):
        raise TypeError(f"{name} must be a whole number, not {value!r}")
    number = operator.index(value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number}")
    return number


def positive_tuple(name: str, values: Iterable[int]) -> tuple[int, ...]:
    """Return one or more whole numbers from 1."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of whole numbers, not {values!r}")
    checked = tuple(positive(f"{name}[{i}]", value) for i, value in enumerate(values))
    if not checked:
        raise ValueError(f"{name} must name at least one whole number")
    return checked


def probability(name: str, value: float) -> float:
    """Return a number in [0, 1)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number in [0, 1), not {value!r}")
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), not {value}")
    return float(value)


def flag(name: str, value: bool) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, not {value!r}")
    return value
