# SPDX-License-Identifier: Apache-2.0
"""Which values are masks: 1 or 0, as comparisons of values of the input give them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyrel.compiler.capture.samples import addresses_of
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.graph.builder import Builder


class Masks:
    """The masks among the values of a graph that is being built.

    Parameters
    ----------
    builder : Builder
    """

    def __init__(self, builder: Builder) -> None:
        self._builder = builder
        self._noted: npt.NDArray[np.bool_] = np.zeros(0, dtype=bool)

    def note(self, value: Traced) -> Traced:
        """Note that all elements are 1 or 0, and return them."""
        addresses = addresses_of(value.ids.numpy())
        found = addresses[addresses >= 0]
        if found.size:
            more = int(found.max()) + 1 - self._noted.size
            self._noted = np.append(self._noted, np.zeros(max(0, more), dtype=bool))
            self._noted[found] = True
        return value

    def are(self, value: Traced) -> bool:
        """Whether all elements are known to be 1 or 0."""
        addresses = np.unique(addresses_of(value.ids.numpy()))
        numbers = self._builder.values(addresses[addresses < 0])
        found = addresses[addresses >= 0]
        known = found.size == 0 or (
            int(found.max()) < self._noted.size and bool(self._noted[found].all())
        )
        return known and bool(np.isin(numbers, (0, 1)).all())
