# SPDX-License-Identifier: Apache-2.0
"""Runs samples of one number of steps through their program, and says why it refused them."""

from __future__ import annotations

import numpy as np

from pyrel._core import Outcome
from pyrel.engine import config as runtime
from pyrel.engine.arrays import Batch, Float32s, Int64s, Rows
from pyrel.engine.engines import Status
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.base import BACK, EXPLAIN, IMAGE
from pyrel.engine.programs import Loaded
from pyrel.engine.progress import Progress
from pyrel.engine.results import Results, Samples

# What programs compute that are parts of a model.
_WITHIN = {IMAGE: "what the first layer computes", BACK: "the gradient"}


class Run:
    """Samples of a batch with the same number of steps, and their program.

    Parameters
    ----------
    x : array
        The whole batch, as the user gave it.
    loaded : Loaded
    inputs : Inputs
    progress : Progress, optional
    """

    def __init__(
        self, x: Batch, loaded: Loaded, inputs: Inputs, progress: Progress | None = None
    ) -> None:
        self._x, self._loaded, self._inputs = x, loaded, inputs
        self._progress = progress

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample."""
        return self._loaded.shape

    @property
    def classes(self) -> int:
        """Number of raw outputs."""
        return self._loaded.classes

    def explain(
        self,
        values: Float32s,
        targets: Int64s | None,
        results: Results,
        first: int = 0,
        numbers: Int64s | None = None,
    ) -> None:
        """Explain samples, which are as `Samples` says; without relevance, run forward alone.

        Raises
        ------
        ValueError, MemoryError
            If the engine refuses them; a message names the sample by its number in the batch.
        """
        values = self._inputs.inside(values, self._loaded.low, self._loaded.high)
        samples = Samples(values, targets, results, first, numbers)
        if results.relevance is None:
            self._loaded.plan.forward(self, samples)
        else:
            self._loaded.plan.explain(self, samples)

    @property
    def flops(self) -> float:
        """Floating-point operations of the products for one sample, forward and back."""
        return max(1.0, self._loaded.core.flops)

    @property
    def ways_back(self) -> bool:
        """Whether a sample may go back for several targets after one forward pass."""
        return self._loaded.plan.way_back and self._loaded.core.keeps_forward

    def explain_targets(
        self, values: Float32s, targets: Int64s, results: Results, numbers: Int64s
    ) -> None:
        """Explain several outputs of each sample after one forward pass.

        Parameters
        ----------
        values : ndarray of float32, shape (n, ...)
        targets : ndarray of int64, shape (n, targets)
        results : Results
            Of (n · targets) samples, but for the outputs, which are of n.
        numbers : ndarray of int64, shape (n,)
            Those of the samples in the whole batch.

        Raises
        ------
        ValueError, MemoryError
            As of `explain`.
        """
        values = self._inputs.inside(values, self._loaded.low, self._loaded.high)
        samples = Samples(values, targets.reshape(-1), results, 0, numbers)
        self.run(EXPLAIN, samples, ways_back=targets.shape[1])

    def once(self, values: Float32s, targets: Int64s | None, results: Results) -> None:
        """Run the program that explains on the samples alone, whatever the plan makes of it."""
        self._loaded.plan.once(self, Samples(values, targets, results))

    def advance(self, runs: int) -> None:
        """Tell how many runs are done since the last time."""
        if self._progress is not None:
            self._progress.advance(runs)

    def run(self, name: str, samples: Samples, *, bounded: bool = True, ways_back: int = 1) -> None:
        """Run one of the programs; refuse values beyond the input's bounds if ``bounded``."""
        core, (values, targets, results, first, _) = self._loaded.programs[name], samples
        low, high = (self._loaded.low, self._loaded.high) if bounded else (None, None)
        check = self._inputs.check_finite
        threads = runtime.num_threads() if len(values) > 1 else 1  # one sample is never divided
        status = core.run(values, targets, low, high, check, threads, *results, first, ways_back)
        if status.outcome != Outcome.done:
            number = int(samples.in_batch()[status.sample])
            if status.outcome == Outcome.relevance_lost:
                result = (first + status.sample) * ways_back + status.element
                raise lost(number, results.conservation[result], results.absorbed[result])
            raise self.failure(name, status, number, values[status.sample])

    def _of_ids(self) -> str:
        """Say what else it may be that torch refuses as well."""
        if not self._inputs.vocabulary:
            return ""
        return (
            ", or, where the model counts token ids, a length is none of a sequence (0, as of "
            "padding alone, or more than its steps) or a position lies outside"
        )

    def failure(self, program: str, status: Status, number: int, sample: Float32s) -> Exception:
        """Say in words why the engine refused samples: because of x[number], which is ``sample``.

        Not of lost relevance; see `lost`.
        """
        if status.outcome == Outcome.out_of_memory:
            size = self._loaded.programs[program].arena_size * 4
            return MemoryError(f"no memory for {size} bytes per sample")
        if status.outcome == Outcome.relevance_not_finite:
            return ValueError(
                f"the relevance of x[{number}] is NaN or infinite: the computation overflows in "
                "float32"
            )
        if status.outcome == Outcome.output_not_finite:
            what = _WITHIN.get(program, f"the model's output {status.element}")
            return ValueError(
                f"{what} for x[{number}] is NaN or infinite: the computation overflows in "
                f"float32{self._of_ids()}"
            )
        name, within, is_id = self._inputs.place(status.element, self._loaded.shape)
        where = f"{name}[{', '.join(map(str, [number, *within]))}]"
        value = sample.reshape(-1)[status.element]
        if status.outcome == Outcome.input_not_finite:
            return ValueError(
                f"{name}: wanted finite float32 values, got {where} = {value}; "
                "check_finite=False lets it pass"
            )
        assert self._loaded.low is not None
        assert self._loaded.high is not None
        low, high = self._loaded.low[status.element], self._loaded.high[status.element]
        if is_id:
            given = value if isinstance(self._x, Rows) else self._x[(number, *within)]
            return ValueError(
                f"{name}: wanted token ids from {low:.0f} to {high:.0f}, got {where} = {int(given)}"
            )
        return ValueError(
            f"{name}: wanted values in [low, high] = [{low}, {high}], got {where} = {value}"
        )


def lost(number: int, conservation: np.float32, absorbed: np.float32) -> ValueError:
    """Say by how much a relevance of ``x[number]`` misses what was put in."""
    gap = abs(float(conservation + absorbed))
    return ValueError(
        f"the relevance of x[{number}] is not conserved: ΣR + absorbed is {gap:.3g} off what was "
        "put in. The computation comes near the ends of float32's range: a share R / z is 0 where "
        "z is too large, or where R, as the output of a saturated sigmoid, is near 1e-38; then "
        "explain the score below the sigmoid. A rule of your own loses or invents some where its "
        "terms and what it absorbs do not add up to its denominator"
    )
