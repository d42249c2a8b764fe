# SPDX-License-Identifier: Apache-2.0
"""The plan of integrated gradients of several inputs, of which some are token ids."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.layout import Kind
from pyrel.engine.arrays import Float32s
from pyrel.engine.plans.averaged_gradients import Floats
from pyrel.engine.plans.base import EMBED, Runner
from pyrel.engine.plans.looked_up import LookedUp
from pyrel.engine.plans.of_inputs import held_of, option_of
from pyrel.engine.results import Results, Samples
from pyrel.engine.several import SeveralInputs
from pyrel.methods import IntegratedGradients


class IntegratedBesideEmbedding(LookedUp):
    """The path of floats is their own, that of token ids is the path of their embeddings.

    A copy is a row of all inputs, and behind it the embeddings of all token ids. On the path ids,
    truth values and constant inputs are those of the sample.

    Parameters
    ----------
    method : IntegratedGradients
    inputs : SeveralInputs
    steps : int
    looked_up : int
        How many numbers the embeddings of a sample are.

    Raises
    ------
    ValueError
        If the baseline does not fit an input.
    """

    def __init__(
        self, method: IntegratedGradients, inputs: SeveralInputs, steps: int, looked_up: int
    ) -> None:
        layout = inputs.layout_at(steps)
        size = layout.size
        kinds = [leaf.elements == Kind.ids for leaf in layout.leaves]
        self._ids = np.flatnonzero(layout.marked(kinds))
        self._size, width = size, looked_up // self._ids.size
        held = held_of(inputs, steps, Kind.ids, Kind.masks)
        assert held is not None
        of_rows = np.repeat(inputs.is_held(steps)[self._ids], width)
        own = option_of("baseline", method.baseline, inputs, steps)
        start = np.append(own, np.zeros(looked_up)).astype(np.float32)
        super().__init__(
            IntegratedGradients(method.n_steps),
            (size + looked_up,),
            None,
            start,
            np.append(held, of_rows),
        )
        given = method.baseline if isinstance(method.baseline, dict) else {}
        self._is_given = layout.marked([name in given for name in layout.names])[self._ids]

    def prepared(self, runner: Runner, here: Samples) -> Float32s:
        """Return rows and embeddings, (samples, size + looked up)."""
        return self._with_rows(runner, here.values, here.in_batch())

    def _with_rows(
        self, runner: Runner, values: Float32s, numbers: npt.NDArray[np.int64]
    ) -> Float32s:
        results = Results.places(None, len(values), self.shape[0] - self._size)
        runner.run(EMBED, Samples(values, None, results, 0, numbers))
        return np.concatenate([values, results.output], axis=1)

    def begin(self, runner: Runner) -> None:
        """Look up the token ids of the baseline, if there are any."""
        if not self._is_given.any():
            return
        rows = self._with_rows(runner, self._baseline[None, : self._size], np.zeros(1, np.int64))
        width = (self.shape[0] - self._size) // self._ids.size
        given = np.repeat(self._is_given, width)
        found = np.where(given, rows[0, self._size :], np.float32(0))
        self._baseline = np.append(self._baseline[: self._size], found)

    def folded(self, total: Floats) -> Floats:
        """Add up over the dimensions of embeddings what belongs to a token id."""
        total = total.astype(np.float64, copy=False)
        found = total[:, : self._size].copy()
        found[:, self._ids] = total[:, self._size :].reshape(len(total), self._ids.size, -1).sum(-1)
        return found
