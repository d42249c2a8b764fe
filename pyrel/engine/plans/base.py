# SPDX-License-Identifier: Apache-2.0
"""What a plan is, and that of a method with one program."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Protocol

from pyrel.engine.results import Samples

# Names of programs.
EXPLAIN, DECIDE, EMBED = "explain", "decide", "embed"
IMAGE, BACK = "image", "back"


class Runner(Protocol):
    """Runs the programs of one explainer, for samples of one number of steps."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample."""

    @property
    def classes(self) -> int:
        """Number of raw outputs."""

    def run(self, name: str, samples: Samples, *, bounded: bool = True, ways_back: int = 1) -> None:
        """Run one program; its results go where the samples say.

        Samples have so many targets, and results but the outputs, as there are ``ways_back``.

        Values beyond the input's bounds are refused if ``bounded``.
        """

    def advance(self, runs: int) -> None:
        """Tell how many of a plan's `Plan.runs` are done since the last time."""


class Plan(ABC):
    """Which programs explain a batch, and how.

    Attributes
    ----------
    forward_only : tuple of str
        Names of programs beside the one that explains, which compute outputs in float32 only: those
        of the model, what it looks up, or what a first or last step makes.
    way_back : bool
        Whether all that it does where targets are given is to run the program that explains, so
        that samples may go back for several targets after one forward pass.
    runs : int
        How often a sample goes through a program, but for what is decided on the way.
    """

    forward_only: ClassVar[tuple[str, ...]] = ()
    way_back: ClassVar[bool] = False
    runs: int = 1

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

    def once(self, runner: Runner, samples: Samples) -> None:
        """Run the program that explains on the samples themselves, as who compares it does."""
        self.explain(runner, samples)


class OneProgram(Plan):
    """One program, which computes outputs, classes and relevance."""

    way_back = True

    def explain(self, runner: Runner, samples: Samples) -> None:
        """Run it."""
        runner.run(EXPLAIN, samples)
        runner.advance(len(samples.values))
