# SPDX-License-Identifier: Apache-2.0
"""The weights of linear nodes before passes laid them out, and what the passes did."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyrel.methods.terms import Floats


@dataclass(frozen=True, eq=False)
class Original:
    """The weights of a linear node before passes laid them out for speed.

    ``steps`` is what they did, one after the other, to any matrix of the shape of ``weight``.
    """

    weight: Floats
    steps: tuple[Callable[[Floats], Floats], ...] = ()

    def then(self, step: Callable[[Floats], Floats]) -> Original:
        """Return the same after one step more."""
        return Original(self.weight, (*self.steps, step))

    def laid_out(self, matrix: Floats) -> Floats:
        """Do to a matrix what was done to the weights."""
        for step in self.steps:
            matrix = step(matrix)
        return matrix
