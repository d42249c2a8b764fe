# SPDX-License-Identifier: Apache-2.0
"""The weights that the matrices of linear nodes are made of, and how."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pyrel.methods.terms import Floats


@dataclass(frozen=True, eq=False)
class Original:
    """The weights of a linear node before passes laid them out for speed, or of its whole layer.

    ``steps`` is what makes the node's own of them: what was done, one after the other, to any
    matrix of the shape of ``weight``.
    """

    weight: Floats
    steps: tuple[Callable[[Floats], Floats], ...] = ()

    def __str__(self) -> str:
        """Show the shape of the weights."""
        return "×".join(map(str, self.weight.shape))

    def then(self, step: Callable[[Floats], Floats]) -> Original:
        """Return the same after one step more."""
        return Original(self.weight, (*self.steps, step))

    def laid_out(self, matrix: Floats) -> Floats:
        """Do to a matrix what was done to the weights."""
        for step in self.steps:
            matrix = step(matrix)
        return matrix
