# SPDX-License-Identifier: Apache-2.0
"""The plan of a program whose outputs are rounded, so that another decides the class."""

from __future__ import annotations

import numpy as np

from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.plans.base import DECIDE, EXPLAIN, Plan, Runner
from pyrel.engine.precision import classes_of_float32
from pyrel.engine.results import Results, Samples

_AGAIN_AT_ONCE = 1024  # samples that are copied to be explained again


class DecidedInFloat32(Plan):
    """A program of rounded products, and a forward pass in float32 that decides the class.

    Where no target is given, samples whose class is another one in float32 are explained again.
    """

    forward_only = (DECIDE,)
    way_back = True

    def explain(self, runner: Runner, samples: Samples) -> None:
        """Explain, then look which classes the rounding may have changed."""
        runner.run(EXPLAIN, samples)
        if samples.targets is None:
            self._decide(runner, samples)
        runner.advance(len(samples.values))

    def _decide(self, runner: Runner, samples: Samples) -> None:
        values, numbers = samples.values, samples.in_batch()

        def forward(some: Int64s) -> tuple[Float32s, Int64s]:
            exact = Results.places(None, some.size, runner.classes)
            runner.run(DECIDE, Samples(values[some], None, exact, 0, numbers[some]))
            return exact.output, exact.target

        here = samples.results.part(samples.first, len(values))
        assert here.relevance is not None
        classes = classes_of_float32(here.output, here.target, forward)
        other = np.flatnonzero(classes != here.target)
        for start in range(0, other.size, _AGAIN_AT_ONCE):
            some = other[start : start + _AGAIN_AT_ONCE]
            relevance = np.empty((some.size, *runner.shape), np.float32)
            again = Results.places(relevance, some.size, runner.classes)
            chosen = Samples(values[some], classes[some], again, 0, numbers[some])
            runner.run(EXPLAIN, chosen)
            here.relevance[some] = relevance
            here.put(some, again)
