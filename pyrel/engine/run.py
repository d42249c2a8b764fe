# SPDX-License-Identifier: Apache-2.0
"""Runs samples of one number of steps through their program, and says why it refused them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyrel import _core
from pyrel._core import Outcome, Status
from pyrel.engine import config as runtime
from pyrel.engine.arrays import Array, Float32s, Int64s
from pyrel.engine.inputs import Inputs
from pyrel.engine.precision import classes_of_float32
from pyrel.engine.programs import Loaded

_AGAIN_AT_ONCE = 1024  # samples that are copied to be explained again


class Results(NamedTuple):
    """Arrays that the engine writes an explanation to; no relevance for a forward pass."""

    relevance: Float32s | None
    output: Float32s
    target: Int64s
    absorbed: Float32s
    conservation: Float32s
    amplification: Float32s

    @classmethod
    def places(cls, relevance: Float32s | None, n: int, classes: int) -> Results:
        """Make those beside the relevance."""
        return cls(
            relevance,
            np.empty((n, classes), np.float32),
            np.empty(n, np.int64),
            np.empty(n, np.float32),
            np.empty(n, np.float32),
            np.empty(n, np.float32),
        )

    def part(self, first: int, n: int) -> Results:
        """Return views of ``n`` samples from ``first`` on."""
        some = slice(first, first + n)
        relevance = None if self.relevance is None else self.relevance[some]
        return Results(
            relevance,
            self.output[some],
            self.target[some],
            self.absorbed[some],
            self.conservation[some],
            self.amplification[some],
        )

    def put(self, samples: Int64s, part: Results) -> None:
        """Write results of some samples where theirs belong, relevance apart."""
        self.output[samples] = part.output
        self.target[samples] = part.target
        self.absorbed[samples] = part.absorbed
        self.conservation[samples] = part.conservation
        self.amplification[samples] = part.amplification


class Run:
    """Samples of a batch with the same number of steps, and their program.

    Parameters
    ----------
    x : array
        The whole batch, as the user gave it.
    loaded : Loaded
    inputs : Inputs
    """

    def __init__(self, x: Array, loaded: Loaded, inputs: Inputs) -> None:
        self._x, self._loaded, self._inputs = x, loaded, inputs

    def explain(
        self,
        values: Float32s,
        targets: Int64s | None,
        results: Results,
        first: int = 0,
        numbers: Int64s | None = None,
    ) -> None:
        """Explain ``values``, which are the samples from ``first`` on of targets and results.

        ``numbers`` are theirs in the whole batch, where they are not those from ``first`` on.

        Raises
        ------
        ValueError, MemoryError
            If the engine refuses them; a message names the sample by its number in the batch.
        """
        self._run(self._loaded.core, values, targets, results, first, numbers)
        if self._loaded.decider is not None and targets is None:
            self._decide(self._loaded.decider, values, results, first, numbers)

    def _run(
        self,
        core: _core.Program,
        values: Float32s,
        targets: Int64s | None,
        results: Results,
        first: int,
        numbers: Int64s | None,
    ) -> None:
        low, high = self._loaded.low, self._loaded.high
        check = self._inputs.check_finite
        threads = runtime.num_threads() if len(values) > 1 else 1  # one sample is never divided
        status = core.run(values, targets, low, high, check, threads, *results, first)
        if status.outcome != Outcome.done:
            number = first + status.sample if numbers is None else int(numbers[status.sample])
            if status.outcome == Outcome.relevance_lost:
                raise _lost(number, results.part(first + status.sample, 1))
            raise self._failure(status, number, values)

    def _decide(
        self,
        decider: _core.Program,
        values: Float32s,
        results: Results,
        first: int,
        numbers: Int64s | None,
    ) -> None:
        """Explain those samples again whose class is another one in float32."""
        if numbers is None:
            numbers = np.arange(first, first + len(values))

        def forward(some: Int64s) -> tuple[Float32s, Int64s]:
            exact = Results.places(None, some.size, self._loaded.classes)
            self._run(decider, values[some], None, exact, 0, numbers[some])
            return exact.output, exact.target

        here = results.part(first, len(values))
        assert here.relevance is not None
        classes = classes_of_float32(here.output, here.target, forward)
        other = np.flatnonzero(classes != here.target)
        for start in range(0, other.size, _AGAIN_AT_ONCE):
            some = other[start : start + _AGAIN_AT_ONCE]
            relevance = np.empty((some.size, *self._loaded.shape), np.float32)
            again = Results.places(relevance, some.size, self._loaded.classes)
            self._run(self._loaded.core, values[some], classes[some], again, 0, numbers[some])
            here.relevance[some] = relevance
            here.put(some, again)

    def _of_ids(self) -> str:
        """Say what else it may be that torch refuses as well."""
        if not self._inputs.vocabulary:
            return ""
        return (
            ", or, where the model counts token ids, a length is none of a sequence (0, as of "
            "padding alone, or more than its steps) or a position lies outside"
        )

    def _failure(self, status: Status, number: int, values: Float32s) -> Exception:
        """Say in words why the engine refused ``values``: because of ``x[number]``."""
        if status.outcome == Outcome.out_of_memory:
            size = self._loaded.core.arena_size * 4
            return MemoryError(f"no memory for {size} bytes per sample")
        if status.outcome == Outcome.relevance_not_finite:
            return ValueError(
                f"the relevance of x[{number}] is NaN or infinite: the computation overflows in "
                "float32"
            )
        if status.outcome == Outcome.output_not_finite:
            return ValueError(
                f"the model's output {status.element} for x[{number}] is NaN or infinite: the "
                f"computation overflows in float32{self._of_ids()}"
            )
        within = [int(i) for i in np.unravel_index(status.element, self._loaded.shape)]
        where = f"x[{', '.join(map(str, [number, *within]))}]"
        value = values[(status.sample, *within)]
        if status.outcome == Outcome.input_not_finite:
            return ValueError(
                f"x: wanted finite float32 values, got {where} = {value}; "
                "check_finite=False lets it pass"
            )
        assert self._loaded.low is not None
        assert self._loaded.high is not None
        low, high = self._loaded.low[status.element], self._loaded.high[status.element]
        if self._inputs.vocabulary:
            return ValueError(
                f"x: wanted token ids from {low:.0f} to {high:.0f}, got {where} = "
                f"{int(self._x[(number, *within)])}"
            )
        return ValueError(
            f"x: wanted values in [low, high] = [{low}, {high}], got {where} = {value}"
        )


def _lost(number: int, results: Results) -> ValueError:
    """Say by how much the relevance of ``x[number]`` misses what was put in."""
    gap = abs(float(results.conservation[0] + results.absorbed[0]))
    return ValueError(
        f"the relevance of x[{number}] is not conserved: ΣR + absorbed is {gap:.3g} off what was "
        "put in. The computation comes near the ends of float32's range: a share R / z is 0 where "
        "z is too large, or where R, as the output of a saturated sigmoid, is near 1e-38; then "
        "explain the score below the sigmoid"
    )
