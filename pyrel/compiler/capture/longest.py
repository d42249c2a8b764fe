# SPDX-License-Identifier: Apache-2.0
"""Whether what a model makes of a packed sequence depends on the longest one of the batch.

``pad_packed_sequence`` pads to the longest sequence, and not to the steps that there were. The mean
over these steps, or the maximum of values and zeros of padding, is another one where other samples
are longer. So the graph is compared with that of a batch whose longest sequence has a step less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
from torch.export import ExportedProgram

from pyrel.compiler.graph.elements import are_floats
from pyrel.compiler.graph.evaluate import Evaluation
from pyrel.compiler.graph.lookups import told_apart
from pyrel.compiler.graph.nodes import Embedding, Floats, Graph, Lookup
from pyrel.errors import UnsupportedModelError

_ROWS = 24  # of each length
_SCALES = (1.0, -1.0, 8.0, -8.0)  # of embeddings
_TOLERANCE = 1e-6  # relative to the outputs: far above rounding, far below what padding changes


def unpacks(program: ExportedProgram) -> bool:
    """Whether a program pads packed sequences."""
    return any("pyrel.padded" in str(node.target) for node in program.graph.nodes)


def refuse_longest(pairs: Sequence[tuple[Graph, Graph]]) -> None:
    """Refuse a model whose outputs for a sequence depend on the longest one of the batch.

    A maximum shows the padding only where all other values lie below it. So many sequences are
    compared, for few steps too, and with embeddings of other signs and sizes.

    Parameters
    ----------
    pairs : sequence of (Graph, Graph)
        The graph for a number of steps, and that of a batch in which no sequence is as long as the
        batch; its outputs are infinite where one is.

    Raises
    ------
    UnsupportedModelError
    """
    for filler in told_apart(pairs[0][0].nodes):
        found = [_agree(*pair, filler, scale) for pair in pairs for scale in _SCALES]
        if False in found:
            break
        if True in found:  # that is padding, and others may be anything
            return
    else:
        return
    raise UnsupportedModelError(
        "it pads to the longest sequence of the batch, so that what is computed of a sample "
        "depends on the others, as a mean or a maximum over all steps does. Pad to the steps of "
        "the input, pad_packed_sequence(..., total_length=x.shape[1]), or mask the padding",
        operator="pad_packed_sequence",
    )


def _agree(graph: Graph, shorter: Graph, filler: int, scale: float) -> bool | None:
    """Whether the outputs for sequences are the same; None where all are infinite."""
    x = _padded(graph, filler)
    output, other = (Evaluation(_scaled(each, scale), x).output for each in (graph, shorter))
    known = np.isfinite(output).all(axis=1) & np.isfinite(other).all(axis=1)
    if not known.any():
        return None
    size = np.maximum(np.abs(output[known]).max(axis=1, keepdims=True), 1e-6)
    return bool((np.abs(output - other)[known] <= _TOLERANCE * size).all())


def _scaled(graph: Graph, scale: float) -> Graph:
    """Multiply the tables of embeddings."""
    if scale == 1:
        return graph
    nodes = (
        replace(n, table=n.table * scale)
        if isinstance(n, Embedding) and not isinstance(n, Lookup)
        else n
        for n in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


def _padded(graph: Graph, filler: int) -> Floats:
    """Return sequences of several lengths, a token id being the padding."""
    random = np.random.default_rng(0)
    bounds = np.full(graph.input_shape, graph.vocabulary) if graph.bounds is None else graph.bounds
    bounds = np.maximum(bounds, 1)
    steps = graph.input_shape[0] if graph.layout is None else graph.layout.steps
    rows = []
    for length in sorted({1, 2, steps // 2, steps - 1} & set(range(1, steps))):
        within = _within(graph, length)
        for _ in range(_ROWS):
            row = random.integers(0, bounds)
            filled = np.where(row == filler, (row + 1) % bounds, row)
            row = np.where(within, filled, np.minimum(filler, bounds - 1)).astype(np.float64)
            rows.append(np.where(are_floats(graph), random.normal(size=row.shape), row))
    return np.array(rows, np.float64)


def _within(graph: Graph, length: int) -> npt.NDArray[np.bool_]:
    """Mark the elements of a sample that are no padding behind some steps."""
    if graph.layout is None:
        shape = (-1, *(1 for _ in graph.input_shape[1:]))
        steps = np.arange(graph.input_shape[0]).reshape(shape)
        return np.broadcast_to(steps < length, graph.input_shape)
    within = np.zeros(graph.layout.size, dtype=bool)
    within[graph.layout.columns(length)] = True
    return within
