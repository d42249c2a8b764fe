# SPDX-License-Identifier: Apache-2.0
"""What a captured graph says of a few samples, where there is no model to ask."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import numpy as np

from pyrel.compiler.capture.capture import Capture
from pyrel.compiler.graph.evaluate import Evaluation, Rounding, exactly
from pyrel.compiler.graph.layout import Layout
from pyrel.compiler.graph.nodes import Graph
from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.check_inputs import SAMPLES
from pyrel.engine.given_inputs import Doubles, Finish
from pyrel.engine.model_reference import DRAWS, largest_moves
from pyrel.engine.model_run import Answer
from pyrel.engine.rounding import LEAST, Roundoff


class GraphReference:
    """A graph, evaluated node by node in float64.

    Parameters
    ----------
    source : Graph or Capture
        Graphs are made of a capture for the steps that are asked for.
    """

    samples = SAMPLES
    name = "the captured graph"
    gradient_name = "the gradient of the captured graph"

    def __init__(self, source: Graph | Capture) -> None:
        self._source = source

    def _evaluated(self, x: Float32s, rounding: Rounding = exactly) -> Evaluation:
        graph = self._source
        if isinstance(graph, Capture):
            graph = graph.graph(_steps(graph.layout, x))
        return Evaluation(graph, x, rounding)

    def ask_ahead(
        self, batches: Sequence[tuple[Float32s, Int64s | None]], finish: Finish | None
    ) -> None:
        """Prepare nothing: evaluating a graph copies no weights."""

    def answer(self, x: Float32s, targets: Int64s, finish: Finish | None) -> Answer:
        """Evaluate it."""
        return _answer(self._evaluated(x), targets, finish)

    def exact(self, x: Float32s, targets: Int64s, finish: Finish | None) -> Answer:
        """Evaluate it: that is exact."""
        return self.answer(x, targets, finish)

    def moves(
        self,
        x: Float32s,
        targets: Int64s,
        finish: Finish | None,
        part: Callable[[Answer], Doubles],
        exact: Doubles,
        roundoff: Roundoff,
    ) -> Generator[Doubles]:
        """Find how far rounding at each node moves a part of the answer, as a copy does."""
        random = np.random.default_rng(1)

        def rounded(values: Doubles, sizes: Doubles, terms: int) -> Doubles:
            size = roundoff.of_sum(terms) * sizes + LEAST
            return np.asarray(values + size * random.uniform(-1, 1, values.shape))

        yield from largest_moves(
            exact,
            (part(_answer(self._evaluated(x, rounded), targets, finish)) for _ in range(DRAWS)),
        )


def _steps(layout: Layout | None, x: Float32s) -> int | None:
    if layout is not None:
        return layout.of_size(x.shape[1]).steps
    return x.shape[1] if x.ndim > 1 else None


def _answer(evaluation: Evaluation, targets: Int64s, finish: Finish | None) -> Answer:
    found = None if finish is None else evaluation.map(targets, finish)
    return Answer(evaluation.output, found)
