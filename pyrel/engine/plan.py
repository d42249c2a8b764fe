# SPDX-License-Identifier: Apache-2.0
"""How a method runs: by one or more programs, whose results a plan combines."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Protocol, TypeVar

import numpy as np

from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.precision import classes_of_float32
from pyrel.engine.results import Results, Samples

EXPLAIN, DECIDE = "explain", "decide"  # names of programs

_AGAIN_AT_ONCE = 1024  # samples that are copied to be explained again

T = TypeVar("T")


class Runner(Protocol):
    """Runs the programs of one explainer, for samples of one number of steps."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample."""

    @property
    def classes(self) -> int:
        """Number of raw outputs."""

    def run(self, name: str, samples: Samples) -> None:
        """Run one program; its results go where the samples say."""


class Plan(ABC):
    """Which programs explain a batch, and how.

    Attributes
    ----------
    forward_only : tuple of str
        Names of programs beside the one that explains, which compute outputs in float32 only.
    """

    forward_only: ClassVar[tuple[str, ...]] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all its programs, the one that explains first."""
        return EXPLAIN, *self.forward_only

    @abstractmethod
    def explain(self, runner: Runner, samples: Samples) -> None:
        """Explain samples.

        Raises
        ------
        ValueError, MemoryError
            If the engine refuses one; a message names it by its number in the batch.
        """

    def forward(self, runner: Runner, samples: Samples) -> None:
        """Compute the outputs that `explain` computes, and no relevance."""
        runner.run(EXPLAIN, samples)


class OneProgram(Plan):
    """One program, which computes outputs, classes and relevance."""

    def explain(self, runner: Runner, samples: Samples) -> None:
        """Run it."""
        runner.run(EXPLAIN, samples)


class DecidedInFloat32(Plan):
    """A program of rounded products, and a forward pass in float32 that decides the class.

    Where no target is given, samples whose class is another one in float32 are explained again.
    """

    forward_only = (DECIDE,)

    def explain(self, runner: Runner, samples: Samples) -> None:
        """Explain, then look which classes the rounding may have changed."""
        runner.run(EXPLAIN, samples)
        if samples.targets is None:
            self._decide(runner, samples)

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


_PLANS: tuple[Plan, ...] = (OneProgram(), DecidedInFloat32())


def plan_of_precision(precision: str) -> Plan:
    """Return the plan of a precision of `pyrel.engine.precision.PRECISIONS`."""
    return DecidedInFloat32() if precision == "bf16_all" else OneProgram()


def plan_of(programs: Mapping[str, T]) -> Plan:
    """Return the plan that runs some programs, by name.

    Raises
    ------
    ValueError
        If there is none.
    """
    for plan in _PLANS:
        if set(plan.names) == set(programs):
            return plan
    raise ValueError(f"there is no plan for the programs {', '.join(sorted(programs))}")
