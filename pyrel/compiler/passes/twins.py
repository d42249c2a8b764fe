# SPDX-License-Identifier: Apache-2.0
"""Sums in which a value meets itself, detached: torch cancels these exactly."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import (
    Add,
    Addresses,
    Copy,
    CustomGradient,
    Graph,
    Linear,
    Scale,
    StopGradient,
    picked,
)


class Twins:
    """Finds sums with two addends of one value or one layer, of which one is detached.

    ``relu(h - h.detach())`` is exactly 0 in torch, and so is its gradient. One linear node over all
    inputs would round the difference, and the ReLU might let the gradient of ``h`` pass.

    Parameters
    ----------
    graph : Graph
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._detached = np.zeros(graph.size, dtype=bool)  # by address: depends on what is detached
        self._origin: Addresses = np.arange(graph.size)  # what it is, but for signs and factors
        for node in graph.nodes:
            out = node.addresses
            if isinstance(node, StopGradient):
                self._detached[out] = True
            else:
                read = picked(self._detached, node.inputs, False).any()
                self._detached[out] = read
            if isinstance(node, Copy | CustomGradient | Scale | StopGradient):
                self._origin[out] = picked(self._origin, node.inputs, out)
        self._any = bool(self._detached.any())
        self._owners = graph.owners() if self._any else np.zeros(0, dtype=np.int64)

    def meet(self, node: Add) -> bool:
        """Whether some addends of a sum are twins."""
        if not self._any or not (node.inputs >= 0).all(axis=1).sum() > 1:
            return False
        addends = [row for row in node.inputs if (row >= 0).all()]
        if not any(self._detached[row].any() for row in addends):
            return False
        found = [self._key(self._origin[row]) for row in addends]
        return len(set(found)) < len(found)

    def _key(self, origin: npt.NDArray[np.int64]) -> object:
        """Return what is equal for addends of one value, or of one layer."""
        source = (
            self._graph.nodes[self._owners[origin[0]]] if self._owners[origin[0]] >= 0 else None
        )
        if isinstance(source, Linear):
            return source.named, (origin - source.start).tobytes()
        return origin.tobytes()
