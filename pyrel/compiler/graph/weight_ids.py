# SPDX-License-Identifier: Apache-2.0
"""Names of weights: nodes whose weights have one name have equal weights."""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class WeightId:
    """Names the weights of linear nodes: those of one name are equal.

    Attributes
    ----------
    module : str
        Path of the module that they are from.
    made : tuple
        Number of the array, then how each pass changed it.
    """

    module: str
    made: tuple[Hashable, ...]

    @property
    def originals(self) -> frozenset[Hashable]:
        """Names of the arrays that these weights are made of: several, where nodes were merged."""
        kind, *parts = self.made
        if kind == "merged":
            addends = [part[0] for part in parts if isinstance(part, tuple)]
            names = [addend[0] for addend in addends if isinstance(addend, tuple)]
            return frozenset[Hashable]().union(*(name.originals for name in names))
        return frozenset({kind if isinstance(kind, int) else self})

    def derived(self, *how: Hashable) -> WeightId:
        """Name what is made of the weights in one way, which ``how`` tells apart from others."""
        return WeightId(self.module, (*self.made, how))


class WeightIds:
    """Gives each array of weights a name, for as long as the arrays live here."""

    def __init__(self) -> None:
        self._named: dict[int, tuple[npt.NDArray[np.float64], WeightId]] = {}

    def of(self, weight: npt.NDArray[np.float64], module: str) -> WeightId:
        """Return the name of an array, the same one for the same array."""
        if id(weight) not in self._named:
            self._named[id(weight)] = weight, WeightId(module, (next(_NUMBERS),))
        return self._named[id(weight)][1]


_NUMBERS = itertools.count()
