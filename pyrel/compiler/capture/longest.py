# SPDX-License-Identifier: Apache-2.0
"""Whether what a model makes of a packed sequence depends on the longest one of the batch.

``pad_packed_sequence`` pads to the longest sequence, and not to the steps that there were. The mean
over these steps, or the maximum of values and zeros of padding, is another one where other samples
are longer. So the graph is compared with that of a batch whose longest sequence has a step less.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.export import ExportedProgram

from pyrel.compiler.graph.evaluate import Evaluation
from pyrel.compiler.graph.lookups import told_apart
from pyrel.compiler.graph.nodes import Floats, Graph
from pyrel.errors import UnsupportedModelError

_TOLERANCE = 1e-6  # relative to the outputs: far above rounding, far below what padding changes


def unpacks(program: ExportedProgram) -> bool:
    """Whether a program pads packed sequences."""
    return any("pyrel.padded" in str(node.target) for node in program.graph.nodes)


def refuse_longest(graph: Graph, shorter: Graph) -> None:
    """Refuse a model whose outputs for a sequence depend on the longest one of the batch.

    Parameters
    ----------
    graph : Graph
    shorter : Graph
        That of a batch in which no sequence is as long as the batch; its outputs are infinite
        where one is.

    Raises
    ------
    UnsupportedModelError
    """
    for filler in told_apart(graph.nodes):
        found = [_agree(graph, shorter, x) for x in _padded(graph, filler)]
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


def _agree(graph: Graph, shorter: Graph, x: Floats) -> bool | None:
    """Whether the outputs for a sequence are the same; None where one of them is infinite."""
    output, other = Evaluation(graph, x[None]).output, Evaluation(shorter, x[None]).output
    if not (np.isfinite(output).all() and np.isfinite(other).all()):
        return None
    return bool((np.abs(output - other) <= _TOLERANCE * max(np.abs(output).max(), 1e-6)).all())


def _padded(graph: Graph, filler: int) -> Iterator[Floats]:
    """Yield sequences of several lengths, a token id being the padding."""
    steps = graph.input_shape[0]
    random = np.random.default_rng(0)
    bounds = np.full(graph.input_shape, graph.vocabulary) if graph.bounds is None else graph.bounds
    for length in sorted({1, 2, steps // 2, steps - 1} & set(range(1, steps))):
        row = random.integers(0, np.maximum(bounds, 1))
        other = (row + 1) % np.maximum(bounds, 1)
        row[:length] = np.where(row == filler, other, row)[:length]
        row[length:] = np.minimum(filler, np.maximum(bounds - 1, 0))[length:]
        yield row.astype(np.float64)
