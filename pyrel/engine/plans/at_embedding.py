# SPDX-License-Identifier: Apache-2.0
"""The plan of integrated gradients of token ids, whose path is that of their embeddings."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pyrel.engine.arrays import Float32s
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.averaged_gradients import Floats
from pyrel.engine.plans.base import EMBED, Runner
from pyrel.engine.plans.ids import checked_ids
from pyrel.engine.plans.looked_up import LookedUp
from pyrel.engine.results import Results, Samples
from pyrel.methods import IntegratedGradients


class IntegratedAtEmbedding(LookedUp):
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

    def __init__(self, method: IntegratedGradients, inputs: Inputs, steps: int, width: int) -> None:
        shape = inputs.of_steps(steps)
        rows = (*shape, 1 + width)
        is_id = np.arange(1 + width) == 0
        super().__init__(IntegratedGradients(method.n_steps), rows, None, np.zeros(rows), is_id)
        self._width, self._ids = width, shape
        self._reference: Float32s | None = None
        if method.baseline is not None:
            self._reference = checked_ids(method.baseline, inputs, shape)

    def prepared(self, runner: Runner, here: Samples) -> Float32s:
        """Return ids and embeddings, (samples, ..., 1 + width)."""
        return self._looked_up(runner, here.values, here.in_batch())

    def _looked_up(self, runner: Runner, ids: Float32s, numbers: npt.NDArray[np.int64]) -> Float32s:
        results = Results.places(None, len(ids), math.prod(self._ids) * self._width)
        runner.run(EMBED, Samples(ids, None, results, 0, numbers))
        rows = results.output.reshape(*ids.shape, self._width)
        return np.concatenate([ids[..., None], rows], axis=-1)

    def begin(self, runner: Runner) -> None:
        """Look up the baseline, if it is none of zeros."""
        if self._reference is not None:
            number = np.zeros(1, np.int64)
            self._baseline = self._looked_up(runner, self._reference[None], number)[0]

    def folded(self, total: Floats) -> Floats:
        """Add up over the dimensions."""
        found: Floats = total[..., 1:].sum(axis=-1)
        return found
