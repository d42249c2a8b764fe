# SPDX-License-Identifier: Apache-2.0
"""The plan of occlusion: forward passes of samples without one patch after another."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.engine.arrays import Float32s
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.base import Runner
from pyrel.engine.plans.copies import Float64s, OfCopies, broadcast, of_targets
from pyrel.engine.plans.ids import checked_ids
from pyrel.engine.results import Samples
from pyrel.methods import Occlusion


class Occluded(OfCopies):
    """What the output loses with each patch.

    Parameters
    ----------
    method : Occlusion
    inputs : Inputs
    steps : int

    Raises
    ------
    ValueError
        If an option does not fit the input.
    """

    backward = False

    def __init__(self, method: Occlusion, inputs: Inputs, steps: int) -> None:
        shape = inputs.of_steps(steps)
        patch, stride = method.windows(shape)
        starts = [
            range(0, max(1, size - width + by), by)
            for size, width, by in zip(shape, patch, stride, strict=True)
        ]
        self._patches = [
            tuple(slice(start, start + width) for start, width in zip(corner, patch, strict=True))
            for corner in itertools.product(*starts)
        ]
        super().__init__(len(self._patches), shape)
        self._baseline = _baseline_of(method, inputs, shape)
        self._covered = np.zeros(shape)
        for each in self._patches:
            self._covered[each] += 1

    def fill(self, copies: Float32s, values: Float32s, first: int) -> None:
        """Write samples, each without a patch."""
        copies[:] = values
        for copy, patch in zip(copies, self._patches[first:], strict=False):
            copy[:, *patch] = self._baseline[patch]

    def add(self, total: Float64s, first: int, found: Float32s, values: Float32s) -> None:
        """Add up the outputs without the patches that an element is in."""
        for output, patch in zip(found, self._patches[first:], strict=False):
            part = total[:, *patch]
            part += output.reshape(-1, *(1 for _ in patch))

    def finish(self, runner: Runner, total: Float64s, here: Samples, values: Float32s) -> None:
        """Take their mean from the output of the sample."""
        assert here.targets is not None
        assert here.results.relevance is not None
        score = of_targets(here.results.output, here.targets)
        mean = total / self._covered
        here.results.relevance[:] = score.reshape(-1, *(1 for _ in self.shape)) - mean


def _baseline_of(method: Occlusion, inputs: Inputs, shape: tuple[int, ...]) -> Float32s:
    given: npt.NDArray[Any] = np.zeros(()) if method.baseline is None else method.baseline
    if not inputs.vocabulary:
        return np.array(broadcast("baseline", given, shape), np.float32, order="C")
    if method.baseline is None:
        raise ValueError(
            "baseline: wanted the token id that stands for an occluded one, such as that of an "
            "unknown token"
        )
    return checked_ids(method.baseline, inputs, shape)
