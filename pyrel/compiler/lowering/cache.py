# SPDX-License-Identifier: Apache-2.0
"""What programs of one model have in common: made once, for all numbers of steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import Floats
from pyrel.compiler.lowering.transposed_convolution import WayBack
from pyrel.compiler.program.instructions import Float32s
from pyrel.compiler.program.single import single
from pyrel.methods.terms import Propagation, Term


@dataclass(frozen=True, eq=False)
class Matrix:
    """Weights of a product, (depth, columns), that are formed when no equal ones are there yet.

    Matrices of one ``key`` are equal.
    """

    key: Hashable
    columns: int
    make: Callable[[], Floats]

    def rows(self, first: int, stop: int) -> Matrix:
        """Return some rows as a matrix."""
        return Matrix((self.key, first, stop), self.columns, lambda: self.make()[first:stop])


@dataclass(eq=False)
class LoweringCache:
    """Results by keys whose equality means equal results.

    Attributes
    ----------
    propagations : dict
        What rules made of weights.
    even_terms : dict
        Terms that give every input the same.
    ways_back : dict
        How the rows of a node give relevance back.
    """

    propagations: dict[Hashable, Propagation] = field(default_factory=dict)
    even_terms: dict[Hashable, tuple[Term, ...]] = field(default_factory=dict)
    ways_back: dict[Hashable, WayBack | None] = field(default_factory=dict)
    _matrices: dict[Hashable, Float32s] = field(default_factory=dict)

    def matrix(self, matrix: Matrix) -> Float32s:
        """Return a matrix in float32, without a copy of weights that are: both ways share them."""
        if matrix.key not in self._matrices:
            made: npt.NDArray[Any] = matrix.make()
            self._matrices[matrix.key] = made if made.dtype == np.float32 else single(made)
        return self._matrices[matrix.key]
