# SPDX-License-Identifier: Apache-2.0
"""Where no gradient goes through the values of a graph, while the graph is built."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.lookups import Lookups
from pyrel.compiler.graph.nodes import Addresses, Node, StopGradient, picked


class Stops:
    """What each value is without its gradient, by address.

    Parameters
    ----------
    lookups : Lookups
        What depends on token ids alone has no gradient anyway.
    """

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        # Empty as long as nothing is stopped: what an address is where no gradient goes through it
        # (itself, if none does anyway), else −1.
        self._stopped: Addresses = np.empty(0, dtype=np.int64)

    def missing(self, addresses: Addresses, size: int) -> Addresses:
        """Return those addresses of a graph of a size, each once, that have gradients."""
        self._grow(size)
        alone = addresses[self._lookups.are_alone(addresses)]
        self._stopped[alone] = alone
        return np.unique(addresses[(addresses >= 0) & (self.of(addresses) < 0)])

    def note(self, addresses: Addresses, stopped: Addresses) -> None:
        """Note what addresses are without gradients."""
        self._stopped[addresses] = stopped

    def follow(self, node: Node, size: int) -> None:
        """Note a new node, through which no gradient goes if it reads nothing that has one."""
        if not self._stopped.size:
            return
        self._grow(size)
        reads = node.inputs[node.inputs >= 0]
        if isinstance(node, StopGradient) or self.are(reads).all():
            self.note(node.addresses, node.addresses)

    def of(self, addresses: Addresses) -> Addresses:
        """Return what addresses are without gradients, −1 where nothing has been noted."""
        if not self._stopped.size:
            return np.full_like(addresses, -1)
        return picked(self._stopped, addresses, -1)

    def are(self, addresses: Addresses) -> npt.NDArray[np.bool_]:
        """Whether no gradient goes through addresses."""
        return np.asarray((self.of(addresses) == addresses) | self._lookups.are_alone(addresses))

    def _grow(self, size: int) -> None:
        """Make room for ``size`` addresses, of which the new ones are not stopped."""
        room = max(0, size - self._stopped.size)
        if room:
            self._stopped = np.append(self._stopped, np.full(room, -1, dtype=np.int64))
