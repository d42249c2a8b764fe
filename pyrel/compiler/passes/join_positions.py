# SPDX-License-Identifier: Apache-2.0
"""Joins rows of a convolution that lie side by side, where single ones are too short to be fast.

A kernel of few channels reads short runs and writes few maps: lanes stay empty, and a row costs
more than its products. A line of positions as one row reads all that they read together, and has
weights of zero between them: more multiply-adds, in fewer and longer rows. Padding at both ends of
a line is left out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import Addresses, Copy, Floats, Graph, Linear
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.compiler.limits import LINE, RESULT_COST, ROW_COST
from pyrel.methods.terms import Mask

# Only a clear gain counts, as the count is rough.
_CLEAR = 0.9
_MOST_INPUTS = 512  # of a joined row, so that its weights stay few


class Joiner:
    """Joins rows; steps that have the same weights get the same arrays again.

    Parameters
    ----------
    graph : Graph
        Whose nodes they are.
    """

    def __init__(self, graph: Graph) -> None:
        self._zero = np.zeros(graph.size, dtype=bool)  # by address: copies of the constant 0
        for node in graph.nodes:
            if isinstance(node, Copy):
                zero = graph.constant_values(node.inputs) == 0
                self._zero[node.addresses] = (node.inputs < 0) & zero
        self._made: dict[WeightId, Floats] = {}

    def __call__(self, node: Linear) -> Linear:
        """Return ``node`` with as many rows joined as are fastest by a count of vectors."""
        inputs = node.inputs
        line = _line(inputs)
        best, least = node, _CLEAR * _cost(inputs, node.width)
        for count in range(2, line + 1):
            if line % count:
                continue
            union = np.unique(inputs[:count])
            joined = inputs[::count, :1] + (union - inputs[0, 0])
            kept = ~self._zero[joined].all(axis=0)
            joined = joined[:, kept]
            cost = _cost(joined, count * node.width)
            if joined.shape[1] <= _MOST_INPUTS and cost < least:
                least = cost
                places = np.searchsorted(union, inputs[:count])
                best = self._joined(node, joined, places, kept)
        return best

    def _joined(self, node: Linear, inputs: Addresses, places: Addresses, kept: Mask) -> Linear:
        """Make a node of rows that read ``places`` of what is read together."""
        name = node.named.derived("positions", places.tobytes(), kept.tobytes())
        if name not in self._made:
            self._made[name] = _spread(node.weight, places, kept)
        connected = np.ones(node.weight.shape) if node.connected is None else node.connected
        return replace(
            node,
            inputs=inputs,
            weight=self._made[name],
            bias=np.tile(node.bias, len(places)),
            positions=len(places),
            weight_id=name,
            connected=_spread(connected, places, kept) != 0,
            original=node.after(lambda matrix: _spread(matrix, places, kept)),
        )


def _spread(values: npt.NDArray[Any], places: Addresses, kept: Mask) -> Floats:
    """Put (out, in) values of each position at its ``places``; of all together, those ``kept``."""
    spread = np.zeros((len(places), len(values), kept.size))
    for part, columns in zip(spread, places, strict=True):
        part[:, columns] = values
    return spread.reshape(-1, kept.size)[:, kept]


def _line(inputs: Addresses) -> int:
    """How many rows at a time read the same pattern, each by the same stride further on; or 1."""
    if len(inputs) < 2 or (inputs < 0).any():
        return 1
    pattern = inputs - inputs[:, :1]
    strides = np.diff(inputs[:, 0])
    breaks = np.flatnonzero(strides != strides[0]) + 1
    line = int(breaks[0]) if breaks.size else len(inputs)
    if (pattern != pattern[0]).any() or strides[0] <= 0 or len(inputs) % line:
        return 1
    within = np.ones(len(inputs) - 1, dtype=bool)
    within[line - 1 :: line] = False
    return line if (strides[within] == strides[0]).all() else 1


def _cost(inputs: Addresses, width: int) -> int:
    """Vector multiply-adds of a product; the way back does not depend on which rows are joined."""
    rows, depth = inputs.shape
    vectors = -(-width // LINE)
    return int(rows) * (vectors * (int(depth) + RESULT_COST) + ROW_COST)
