# SPDX-License-Identifier: Apache-2.0
"""The arrays of an explanation, and the samples that they are of."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from pyrel.engine.arrays import Float32s, Int64s


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


class Samples(NamedTuple):
    """Samples of one number of steps, and where their results go.

    Attributes
    ----------
    values : ndarray of float32, shape (n, ...)
    targets : ndarray of int64, shape (batch,), or None
        Classes to explain, for all of ``results``; None for the predicted ones.
    results : Results
    first : int
        The samples are those from this one on, of targets and results.
    numbers : ndarray of int64, shape (n,), or None
        Theirs in the whole batch, where they are not those from ``first`` on.
    """

    values: Float32s
    targets: Int64s | None
    results: Results
    first: int = 0
    numbers: Int64s | None = None

    def in_batch(self) -> Int64s:
        """Return the samples' numbers in the whole batch."""
        if self.numbers is None:
            return np.arange(self.first, self.first + len(self.values))
        return self.numbers
