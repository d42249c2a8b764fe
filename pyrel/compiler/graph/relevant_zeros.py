# SPDX-License-Identifier: Apache-2.0
"""Which values may have relevance where they are zero."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Choice,
    Copy,
    Graph,
    MaxPool,
    Product,
    Relu,
    Scale,
)

_HANDING = Choice | Copy | MaxPool | Product | Relu | Scale
_LIFTING = {Function.sigmoid, Function.softplus, Function.exp, Function.cos, Function.log}


def relevant_at_zero(
    graph: Graph, boxed: npt.NDArray[np.bool_] | None = None
) -> npt.NDArray[np.bool_]:
    """Mark the addresses that may have relevance where they are zero.

    Elsewhere relevance comes in proportion to the value. But a sigmoid hands on what it gets for
    its value at zero, 0.5, the z^β rule gives relevance to zeros among ``boxed`` addresses, and
    what takes one value alone hands that on.
    """
    marked = np.zeros(graph.size, dtype=bool) if boxed is None else boxed.copy()
    for node in reversed(graph.nodes):
        lifts = isinstance(node, Activation) and node.function in _LIFTING
        hands_on = isinstance(node, Activation | _HANDING)
        if lifts or hands_on or (isinstance(node, Add) and node.alone):
            read = node.inputs[..., lifts | marked[node.addresses]]
            marked[read[read >= 0]] = True
    return marked
