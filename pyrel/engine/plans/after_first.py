# SPDX-License-Identifier: Apache-2.0
"""What integrated gradients share whose path is that of what a program makes of samples."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from pyrel.engine.arrays import Float32s
from pyrel.engine.plans.averaged_gradients import Floats, Integrated, of_baseline
from pyrel.engine.plans.base import EXPLAIN, Runner
from pyrel.engine.results import Results, Samples


class AfterFirst(Integrated):
    """A program makes something of samples; another takes copies of that.

    A class of its own says in `prepared` what is copied, and in `gradient` what of it belongs to
    the elements of a sample. Copies may hold what lies beyond the bounds of the input.
    """

    @abstractmethod
    def gradient(self, runner: Runner, found: Floats, here: Samples) -> Floats:
        """Return what belongs to elements of samples of gradients of what is copied."""

    def forward(self, runner: Runner, samples: Samples) -> None:
        """Prepare the samples, and run them forward, some at a time."""
        numbers = samples.in_batch()
        for first in range(0, len(samples.values), self._rows):
            some = slice(first, first + self._rows)
            place = samples.first + first
            results = samples.results._replace(relevance=None)
            part = Samples(samples.values[some], samples.targets, results, place, numbers[some])
            prepared = part._replace(values=self.prepared(runner, part))
            runner.run(EXPLAIN, prepared, bounded=False)

    def once(self, runner: Runner, samples: Samples) -> None:
        """Run both programs on the samples themselves."""
        assert samples.results.relevance is not None
        values = self.prepared(runner, samples)
        found = np.empty(values.shape, np.float32)
        results = samples.results._replace(relevance=found)
        runner.run(EXPLAIN, samples._replace(values=values, results=results), bounded=False)
        samples.results.relevance[:] = self.gradient(runner, found, samples)

    def _at_baseline(self, runner: Runner, baselines: Float32s, here: Samples) -> Float32s:
        rows = np.ascontiguousarray(baselines).reshape(-1, *self.shape)
        results = Results.places(None, len(rows), runner.classes)
        numbers = here.in_batch()[: len(rows)]
        with of_baseline():
            runner.run(EXPLAIN, Samples(rows, None, results, 0, numbers), bounded=False)
        return results.output
