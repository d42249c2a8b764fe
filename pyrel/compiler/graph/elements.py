# SPDX-License-Identifier: Apache-2.0
"""Which elements of a graph's input are floats, and which lie together."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyrel.compiler.graph.layout import Kind
from pyrel.compiler.graph.nodes import Graph
from pyrel.methods.terms import Mask


def are_floats(graph: Graph) -> Mask:
    """Mark the elements of the input that are no token ids, (input size,)."""
    if graph.layout is None:
        return np.full(graph.input_size, not graph.vocabulary)
    return graph.layout.is_float


def pieces(graph: Graph) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, size, whether floats) of parts of the input, one step at a time of several.

    So instructions are the same for any number of steps, of which others may have none.
    """
    if graph.layout is None:
        yield 0, graph.input_size, not graph.vocabulary
        return
    for leaf, where in zip(graph.layout.leaves, graph.layout.slices, strict=True):
        steps = leaf.shape[0] if leaf.steps else 1
        size = (where.stop - where.start) // steps
        for step in range(steps):
            yield where.start + step * size, size, leaf.elements == Kind.floats
