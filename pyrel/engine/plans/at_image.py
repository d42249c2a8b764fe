# SPDX-License-Identifier: Apache-2.0
"""The plan of integrated gradients of a model that begins with an affine layer."""

from __future__ import annotations

import numpy as np

from pyrel.engine.arrays import Float32s
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.after_first import AfterFirst
from pyrel.engine.plans.averaged_gradients import Floats, check_inside, of_baseline
from pyrel.engine.plans.base import BACK, IMAGE, Runner
from pyrel.engine.plans.copies import Float64s
from pyrel.engine.plans.of_inputs import option_of
from pyrel.engine.results import Results, Samples
from pyrel.methods import IntegratedGradients


class IntegratedAtImage(AfterFirst):
    """(x − x') ⊙ Wᵀ ∫ ∂f/∂z (z' + α (z − z')) dα, where z = W x + b is all that reads x.

    A straight line of x is one of z. So one program computes z of each sample once, another runs
    forward and back at the points of the path, and a third multiplies the mean gradient by Wᵀ.

    Parameters
    ----------
    method : IntegratedGradients
    inputs : Inputs
    steps : int
    size : int
        Of z.

    Raises
    ------
    ValueError
        If the baseline has another shape, or lies outside the bounds.
    """

    forward_only = (IMAGE, BACK)

    def __init__(self, method: IntegratedGradients, inputs: Inputs, steps: int, size: int) -> None:
        plain = IntegratedGradients(method.n_steps)
        super().__init__(plain, (size,), None, np.zeros(size))
        baseline = option_of("baseline", method.baseline, inputs, steps)
        self._start = np.array(baseline, np.float32, order="C")
        bounds = inputs.bounds(steps)
        if bounds is not None:
            check_inside(self._start, *bounds)

    def prepared(self, runner: Runner, here: Samples) -> Float32s:
        """Return z, (samples, size)."""
        return self._ran(runner, IMAGE, here.values, self.shape[0], here)

    def begin(self, runner: Runner) -> None:
        """Compute z of the baseline."""
        rows = self._start[None]
        results = Results.places(None, 1, self.shape[0])
        with of_baseline():
            runner.run(IMAGE, Samples(rows, None, results))
        self._baseline = results.output[0]

    def gradient(self, runner: Runner, found: Floats, here: Samples) -> Floats:
        """Multiply by Wᵀ."""
        given = np.ascontiguousarray(found, np.float32)
        size = self._start.size
        return self._ran(runner, BACK, given, size, here).reshape(here.values.shape)

    def shared_out(
        self, runner: Runner, total: Float64s, here: Samples, values: Float32s
    ) -> Floats:
        """Multiply the gradient with respect to the input by the way from the baseline."""
        way = here.values.astype(np.float64) - self._start
        return self.gradient(runner, total, here) * way

    def _ran(
        self, runner: Runner, name: str, values: Float32s, size: int, here: Samples
    ) -> Float32s:
        results = Results.places(None, len(values), size)
        given = Samples(values, None, results, 0, here.in_batch())
        runner.run(name, given, bounded=name == IMAGE)  # bounds are those of samples
        return results.output
