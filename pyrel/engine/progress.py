# SPDX-License-Identifier: Apache-2.0
"""How far a call is, for who asked to be told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

Told: TypeAlias = Callable[[int, int], object]


class Progress:
    """Counts the runs of samples through a program, and tells how many of all are done.

    Parameters
    ----------
    told : callable
        Takes the runs that are done and all runs.
    total : int
    """

    def __init__(self, told: Told, total: int) -> None:
        self._told, self._total = told, total
        self._done = 0

    def advance(self, runs: int) -> None:
        """Count some more."""
        self._done += runs
        self._told(self._done, self._total)


def check_progress(given: Any) -> Told | None:
    """Return the option, or refuse it.

    Raises
    ------
    TypeError
        If it can neither be called nor is None.
    """
    if given is not None and not callable(given):
        raise TypeError(
            f"progress: wanted a function of two numbers or None, got {type(given).__name__}"
        )
    return given  # type: ignore[no-any-return]
