# SPDX-License-Identifier: Apache-2.0
"""What plans share that run changed copies of each sample, and combine what comes of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.plans.base import EXPLAIN, Plan, Runner
from pyrel.engine.results import Results, Samples

Float64s = npt.NDArray[np.float64]

# Of copies, and of what comes of them, this much is held at once; of a sample that is larger, one.
_BYTES = 1 << 25


class OfCopies(Plan):
    """Explains a sample by changed copies of it, for the class that the sample itself has.

    Copies are made a part at a time, of as many samples as fit. They may lie outside the bounds of
    the input. What a sample gets depends neither on the batch nor on the parts.

    Parameters
    ----------
    copies : int
        How many there are of each sample.
    shape : tuple of int
        Of a copy.
    """

    backward = True  # whether what comes of a copy is its relevance, not its outputs alone

    def __init__(self, copies: int, shape: tuple[int, ...]) -> None:
        self.copies, self.shape = copies, shape
        self.runs = copies + 1
        self._rows = max(1, _BYTES // (4 * max(1, math.prod(shape))))

    @abstractmethod
    def fill(self, copies: Float32s, values: Float32s, first: int) -> None:
        """Write the copies from number ``first`` on, (copies, samples, ...), of some samples."""

    @abstractmethod
    def add(self, total: Float64s, first: int, found: Float32s, values: Float32s) -> None:
        """Add what comes of the copies from number ``first`` on to what came of others.

        ``found`` is the relevance of the copies (copies, samples, ...), or without `backward` their
        output of the class that is explained (copies, samples). It may be overwritten.
        """

    @abstractmethod
    def finish(self, runner: Runner, total: Float64s, here: Samples, values: Float32s) -> None:
        """Make relevance of what was added up, and write it to the results of some samples.

        ``conservation`` is NaN there, to be written if it is known.
        """

    def prepared(self, runner: Runner, here: Samples) -> Float32s:
        """Return what is copied of some samples: themselves, unless a plan says otherwise."""
        return here.values

    def begin(self, runner: Runner) -> None:  # noqa: B027 - most need nothing
        """Prepare what is the same for all samples."""

    def explain(self, runner: Runner, samples: Samples) -> None:
        """Run the samples forward, then their copies."""
        n = len(samples.values)
        self.forward(runner, samples._replace(results=samples.results._replace(relevance=None)))
        runner.advance(n)
        self.begin(runner)
        numbers, results = samples.in_batch(), samples.results.part(samples.first, n)
        at_once = max(1, self._rows // self.copies)
        buffers = _Buffers(self, runner, min(at_once, n))
        for first in range(0, n, at_once):
            some = slice(first, min(first + at_once, n))
            part = results.part(first, some.stop - first)
            here = Samples(samples.values[some], part.target, part, 0, numbers[some])
            self._explain(runner, here, buffers)

    def once(self, runner: Runner, samples: Samples) -> None:
        """Run the program once, forward and if it does that backward."""
        if not self.backward:
            samples = samples._replace(results=samples.results._replace(relevance=None))
        runner.run(EXPLAIN, samples)

    def _explain(self, runner: Runner, here: Samples, buffers: _Buffers) -> None:
        """Explain samples that are few enough for their copies to be made at once, or one."""
        n = len(here.values)
        assert here.targets is not None
        assert here.results.relevance is not None
        values = self.prepared(runner, here)
        total = np.zeros(values.shape)
        for first in range(0, self.copies, buffers.depth):
            count = min(buffers.depth, self.copies - first)
            copies = buffers.copies[: count * n]
            shaped: tuple[int, ...] = (count, n, *self.shape)
            self.fill(copies.reshape(shaped), values, first)
            targets, numbers = np.tile(here.targets, count), np.tile(here.in_batch(), count)
            of_copies = Results.places(buffers.relevance, count * n, runner.classes)
            run = Samples(copies, targets, of_copies, 0, numbers)
            runner.run(EXPLAIN, run, bounded=False)
            if buffers.relevance is not None:
                found = buffers.relevance[: count * n].reshape(shaped)
            else:
                found = np.take_along_axis(of_copies.output, targets[:, None], 1).reshape(count, n)
            self.add(total, first, found, values)
            runner.advance(count * n)
        results = here.results
        results.absorbed[:], results.conservation[:] = 0.0, np.nan
        self.finish(runner, total, here, values)
        sizes = np.abs(here.results.relevance, dtype=np.float64).reshape(n, -1).sum(axis=1)
        results.amplification[:] = np.maximum(sizes, 1.0)


class _Buffers:
    """Memory for copies of some samples and their relevance, used again and again."""

    def __init__(self, plan: OfCopies, runner: Runner, samples: int) -> None:
        self.depth = min(plan.copies, max(1, plan._rows // max(1, samples)))
        rows = self.depth * samples
        self.copies: Float32s = np.empty((rows, *plan.shape), np.float32)
        self.relevance: Float32s | None = None
        if plan.backward:
            self.relevance = np.empty((rows, *plan.shape), np.float32)


def broadcast(name: str, given: npt.NDArray[Any], shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """Give an option of a method the shape of a sample; it may be a batch of one.

    Raises
    ------
    ValueError
        If it does not broadcast to that.
    """
    try:
        whole = given.shape == (1, *shape)
        return np.broadcast_to(given[0] if whole else given, shape)
    except ValueError:
        raise ValueError(
            f"{name}: wanted a shape that broadcasts to one sample, {shape}, got {given.shape}"
        ) from None


def of_targets(output: Float32s, targets: Int64s) -> Float64s:
    """Return the outputs (n,) of some classes, in float64; ``output`` may have one row for all."""
    rows = np.broadcast_to(output, (len(targets), output.shape[1]))
    chosen: Float64s = np.take_along_axis(rows, targets[:, None], axis=1)[:, 0].astype(np.float64)
    return chosen
