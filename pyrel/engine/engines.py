# SPDX-License-Identifier: Apache-2.0
"""What an engine is: that of the CPU, `pyrel._core.Engine`, or of a device."""

from __future__ import annotations

from typing import Protocol

from pyrel._core import Outcome
from pyrel.engine.arrays import Float32s, Int64s


class Status(Protocol):
    """How a run ended, and of which sample and element it failed."""

    @property
    def outcome(self) -> Outcome: ...  # noqa: D102
    @property
    def sample(self) -> int: ...  # noqa: D102
    @property
    def element(self) -> int: ...  # noqa: D102


class Engine(Protocol):
    """A program bound to what runs it."""

    @property
    def explains(self) -> bool:
        """Whether it writes relevance."""

    @property
    def flops(self) -> float:
        """Floating-point operations of its products for one sample."""

    @property
    def arena_size(self) -> int:
        """Floats of working memory for one sample."""

    @property
    def keeps_forward(self) -> bool:
        """Whether samples may go back for several targets after one forward pass."""

    def run(
        self,
        x: Float32s,
        target: Int64s | None,
        low: Float32s | None,
        high: Float32s | None,
        check_finite: bool,
        threads: int,
        relevance: Float32s | None,
        output: Float32s,
        explained: Int64s,
        absorbed: Float32s,
        conservation: Float32s,
        amplification: Float32s,
        first: int = 0,
        ways_back: int = 1,
    ) -> Status:
        """Explain samples, which are those from ``first`` on of the arrays behind them."""
