# SPDX-License-Identifier: Apache-2.0
"""Compiled models: programs for one number of steps, or for any."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pyrel.compiler.lowering.rule_table import PlacedRule
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.step_pattern import Pattern
from pyrel.engine.outputs import Outputs
from pyrel.engine.plans.base import EMBED, EXPLAIN, IMAGE


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model compiled for one method and one number of steps.

    Attributes
    ----------
    programs : dict
        By name, those of its plan (`pyrel.engine.plans`).
    patterns : Patterns or None
        Where these are written by patterns: they hold the weights that all numbers of steps share.
    rules : tuple of PlacedRule
        What the program follows, where it was compiled here; none where it was loaded.
    outputs : Outputs
        What its outputs are, where these programs are all of an explainer's.
    """

    programs: Mapping[str, Program]
    patterns: Patterns | None = None
    rules: tuple[PlacedRule, ...] = ()
    outputs: Outputs = Outputs()

    @property
    def program(self) -> Program:
        """The program that explains."""
        return self.programs[EXPLAIN]

    @property
    def first(self) -> Program:
        """The program that takes samples as they are."""
        return self.programs.get(EMBED) or self.programs.get(IMAGE) or self.program


@dataclass(frozen=True, eq=False)
class Patterns:
    """The programs of `Compiled` over the number of steps."""

    patterns: Mapping[str, Pattern]

    @property
    def least(self) -> int:
        """The fewest steps that they write programs for."""
        return self.program.least

    @property
    def program(self) -> Pattern:
        """The pattern of the program that explains."""
        return self.patterns[EXPLAIN]

    @property
    def first(self) -> Pattern:
        """The pattern of the program that takes samples as they are."""
        return self.patterns.get(EMBED, self.program)

    def at(self, steps: int) -> Compiled:
        """Write the programs for a number of steps."""
        return Compiled({name: each.at(steps) for name, each in self.patterns.items()}, self)

    def sharing(self, compiled: Compiled) -> Compiled:
        """Return programs that do the same with the weights of these patterns."""
        programs = compiled.programs
        shared = {name: self.patterns[name].sharing(each) for name, each in programs.items()}
        return Compiled(shared, self)


@dataclass(frozen=True, eq=False)
class AnySteps:
    """A model compiled for one method and any number of steps.

    Attributes
    ----------
    few : mapping from int to Compiled
        By number of steps, where there are fewer than the patterns have at least.
    patterns : Patterns
    most : int or None
        The largest number of steps that the model takes, if there is one.
    outputs : Outputs
    """

    few: Mapping[int, Compiled]
    patterns: Patterns
    most: int | None
    outputs: Outputs = Outputs()

    def at(self, steps: int) -> Compiled:
        """Return the programs for a number of steps.

        Raises
        ------
        ValueError
            If the model does not take so many steps, or so few, or the limits are too small.
        """
        if steps in self.few:
            return self.few[steps]
        self._check(steps)
        try:
            return self.patterns.at(steps)
        except ValueError as error:
            raise ValueError(f"x: the program for {steps} steps: {error}") from error

    def sizes(self, steps: int) -> tuple[int, int]:
        """Return the floats of an input and the classes for a number of steps, or fail as `at`."""
        if steps in self.few:
            return self.few[steps].first.input_size, self.few[steps].program.classes
        self._check(steps)
        return self.patterns.first.sizes(steps)[0], self.patterns.program.sizes(steps)[1]

    def _check(self, steps: int) -> None:
        least = self.patterns.least
        if steps < least or (self.most is not None and steps > self.most):
            fewest = min(self.few, default=least)
            to = " or more" if self.most is None else f" to {self.most}"
            raise ValueError(f"x: the model takes {fewest}{to} steps, got {steps}")
