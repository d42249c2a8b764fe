# SPDX-License-Identifier: Apache-2.0
"""What plans of integrated gradients share whose path is that of embeddings."""

from __future__ import annotations

import numpy as np

from pyrel.engine.arrays import Float32s
from pyrel.engine.plans.averaged_gradients import Integrated
from pyrel.engine.plans.base import EMBED, EXPLAIN, Runner
from pyrel.engine.results import Results, Samples


class LookedUp(Integrated):
    """A program looks up token ids; another takes copies of ids and embeddings.

    A class of its own says in `prepared` what a copy is, and in `folded` what of it belongs to an
    element of a sample. Copies may hold what lies beyond the bounds of the input.
    """

    forward_only = (EMBED,)

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
        """Look up the samples, and add up gradients over the dimensions of embeddings."""
        assert samples.results.relevance is not None
        values = self.prepared(runner, samples)
        found = np.empty(values.shape, np.float32)
        results = samples.results._replace(relevance=found)
        runner.run(EXPLAIN, samples._replace(values=values, results=results), bounded=False)
        samples.results.relevance[:] = self.folded(found)

    def _at_baseline(self, runner: Runner, baselines: Float32s, here: Samples) -> Float32s:
        rows = np.ascontiguousarray(baselines)
        results = Results.places(None, len(rows), runner.classes)
        runner.run(EXPLAIN, Samples(rows, None, results, 0, here.in_batch()), bounded=False)
        return results.output
