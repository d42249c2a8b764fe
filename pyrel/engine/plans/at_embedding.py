# SPDX-License-Identifier: Apache-2.0
"""The plan of integrated gradients of token ids, whose path is that of their embeddings."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.engine.arrays import Float32s
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.averaged_gradients import Integrated
from pyrel.engine.plans.base import EMBED, EXPLAIN, Runner
from pyrel.engine.plans.copies import Float64s, of_targets
from pyrel.engine.plans.ids import checked_ids
from pyrel.engine.results import Results, Samples
from pyrel.methods import IntegratedGradients


class IntegratedAtEmbedding(Integrated):
    """Σ over the dimensions of (e − e′) ∫ ∂f/∂e (e′ + α (e − e′)) dα, e the embedding of a token.

    A program looks up the tokens; another takes for each its id, by which the model may mask or
    count, and its embedding. On the path the ids are those of the sample.

    Parameters
    ----------
    method : IntegratedGradients
    inputs : Inputs
    steps : int
    width : int
        Of what is looked up for an id.

    Raises
    ------
    ValueError
        If the baseline has another shape, or is none of token ids.
    """

    forward_only = (EMBED,)

    def __init__(self, method: IntegratedGradients, inputs: Inputs, steps: int, width: int) -> None:
        shape = inputs.of_steps(steps)
        rows = (*shape, 1 + width)
        super().__init__(IntegratedGradients(method.n_steps), rows, None, np.zeros(rows))
        self._width, self._ids = width, shape
        self._reference: Float32s | None = None
        if method.baseline is not None:
            self._reference = checked_ids(method.baseline, inputs, shape)

    def forward(self, runner: Runner, samples: Samples) -> None:
        """Look up the samples, and run them forward, some at a time."""
        numbers = samples.in_batch()
        for first in range(0, len(samples.values), self._rows):
            some = slice(first, first + self._rows)
            place = samples.first + first
            results = samples.results._replace(relevance=None)
            part = Samples(samples.values[some], samples.targets, results, place, numbers[some])
            looked_up = part._replace(values=self.prepared(runner, part))
            runner.run(EXPLAIN, looked_up, bounded=False)

    def once(self, runner: Runner, samples: Samples) -> None:
        """Look up the samples, and add up the gradient over the dimensions."""
        assert samples.results.relevance is not None
        values = self.prepared(runner, samples)
        found = np.empty(values.shape, np.float32)
        results = samples.results._replace(relevance=found)
        runner.run(EXPLAIN, samples._replace(values=values, results=results), bounded=False)
        samples.results.relevance[:] = found[..., 1:].sum(axis=-1)

    def prepared(self, runner: Runner, here: Samples) -> Float32s:
        """Return ids and embeddings, (samples, ..., 1 + width)."""
        return self._looked_up(runner, here.values, here.in_batch())

    def _looked_up(self, runner: Runner, ids: Float32s, numbers: npt.NDArray[np.int64]) -> Float32s:
        results = Results.places(None, len(ids), math.prod(self._ids) * self._width)
        runner.run(EMBED, Samples(ids, None, results, 0, numbers))
        rows = results.output.reshape(*ids.shape, self._width)
        return np.concatenate([ids[..., None], rows], axis=-1)

    def fill(self, copies: Float32s, values: Float32s, first: int) -> None:
        """Write points of the paths, with the ids of the samples."""
        super().fill(copies, values, first)
        copies[..., 0] = values[..., 0]

    def begin(self, runner: Runner) -> None:
        """Look up the baseline, if it is none of zeros."""
        if self._reference is not None:
            number = np.zeros(1, np.int64)
            self._baseline = self._looked_up(runner, self._reference[None], number)[0]

    def finish(self, runner: Runner, total: Float64s, here: Samples, values: Float32s) -> None:
        """Multiply by the way from the baseline, and add up over the dimensions."""
        results, targets = here.results, here.targets
        assert targets is not None
        assert results.relevance is not None
        total *= values.astype(np.float64) - self._baseline
        results.relevance[:] = total[..., 1:].sum(axis=-1)
        start = of_targets(results.output, targets)
        start -= of_targets(self._at_baselines(runner, values, here), targets)
        sums = results.relevance.reshape(len(targets), -1).sum(axis=1, dtype=np.float64)
        results.conservation[:] = sums - start

    def _at_baselines(self, runner: Runner, values: Float32s, here: Samples) -> Float32s:
        """Return the outputs of the baseline, masked and counted by the ids of each sample."""
        rows: npt.NDArray[Any] = np.array(np.broadcast_to(self._baseline, values.shape), order="C")
        rows[..., 0] = values[..., 0]
        results = Results.places(None, len(rows), runner.classes)
        run = Samples(rows, None, results, 0, here.in_batch())
        runner.run(EXPLAIN, run, bounded=False)
        return results.output
