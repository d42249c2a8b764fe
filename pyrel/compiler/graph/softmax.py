# SPDX-License-Identifier: Apache-2.0
"""The weights that a softmax gives, as one node that knows the logits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from pyrel.compiler.graph.nodes import Addresses, Node


@dataclass(frozen=True, eq=False)
class Softmax(Node):
    """Exponentials times the reciprocals of their sums; ``inputs`` is (3, size).

    That is: exponentials, reciprocals, and the logits, which the value does not depend on but
    through the exponentials, and which get all of the relevance; a constant 0 for one that a mask
    leaves out of every sample. The weights of one row lie side by side, and have one reciprocal.
    Methods that conserve have a rule for it.
    """

    @property
    def logits(self) -> Addresses:
        """Addresses of the logits, (size,)."""
        return np.asarray(self.inputs[2])

    @cached_property
    def rows(self) -> tuple[Addresses, Addresses]:
        """Where the rows begin, from the node's start on, and how long they are."""
        starts = np.flatnonzero(np.diff(self.inputs[1], prepend=self.inputs[1, 0] - 1))
        return starts, np.diff(starts, append=self.size)
