# SPDX-License-Identifier: Apache-2.0
"""What a model is compiled to, for one number of steps or for all, and what is loaded of it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from pyrel import _core
from pyrel.compiler.capture.capture import Capture
from pyrel.compiler.capture.forks import RenewedLock
from pyrel.compiler.graph.nodes import Floats, Graph
from pyrel.compiler.lowering.lower import lower, lower_apart, lower_forward, lower_forward_apart
from pyrel.compiler.program.generalise import TRIED, NoPatternError, generalise
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.step_pattern import Pattern
from pyrel.engine.arrays import Float32s
from pyrel.engine.inputs import Inputs
from pyrel.engine.loaded import bind, bind_weights
from pyrel.errors import UnsupportedModelError
from pyrel.methods import Method

_FEW = (2, 3, 4, 5)  # steps: quickly lowered, and for most models enough

_LOGGER = logging.getLogger("pyrel")


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model compiled for one method and one number of steps.

    Attributes
    ----------
    program : Program
    decider : Program or None
        A forward pass in float32, where the program's own outputs are too coarse for the class.
    patterns : Patterns or None
        Where these are written by patterns: they hold the weights that all numbers of steps share.
    """

    program: Program
    decider: Program | None = None
    patterns: Patterns | None = None


@dataclass(frozen=True, eq=False)
class Patterns:
    """The programs of `Compiled` over the number of steps."""

    program: Pattern
    decider: Pattern | None = None

    def at(self, steps: int) -> Compiled:
        """Write the programs for a number of steps."""
        decider = None if self.decider is None else self.decider.at(steps)
        return Compiled(self.program.at(steps), decider, self)

    def sharing(self, compiled: Compiled) -> Compiled:
        """Return programs that do the same with the weights of these patterns."""
        decider = None
        if compiled.decider is not None and self.decider is not None:
            decider = self.decider.sharing(compiled.decider)
        return Compiled(self.program.sharing(compiled.program), decider, self)


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
    """

    few: Mapping[int, Compiled]
    patterns: Patterns
    most: int | None

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
            return self.few[steps].program.input_size, self.few[steps].program.classes
        self._check(steps)
        return self.patterns.program.sizes(steps)

    def _check(self, steps: int) -> None:
        least = self.patterns.program.least
        if steps < least or (self.most is not None and steps > self.most):
            fewest = min(self.few, default=least)
            to = " or more" if self.most is None else f" to {self.most}"
            raise ValueError(f"x: the model takes {fewest}{to} steps, got {steps}")


class Compiler:
    """Compiles a captured model for the numbers of steps that are asked for.

    For few steps, up to the last of `TRIED`, the model is lowered as it is; for more, by a pattern
    if there is one (see `pyrel.compiler.program.generalise`), which is found when it is first
    needed. Where there is none the logger ``pyrel`` warns and says why, and names each number of
    steps that is lowered anew (level info).

    Parameters
    ----------
    capture : Capture
        That takes any number of steps.
    method : Method
    inputs : Inputs
    precision : str
    """

    def __init__(self, capture: Capture, method: Method, inputs: Inputs, precision: str) -> None:
        self._capture, self._method = capture, method
        self._inputs, self._precision = inputs, precision
        self._lock = RenewedLock()
        self._sought = False
        self._patterns: Patterns | None = None
        self._reason = ""  # why there are none

    def at(self, steps: int) -> Compiled:
        """Compile for a number of steps.

        Raises
        ------
        ValueError
            If the model, or the bounds of its input, do not hold for that number.
        UnsupportedModelError
            If there is no rule for the model with that number.
        """
        if not self._capture.holds(steps):
            because = self._capture.refused_because(steps)
            why = f" ({because})" if because else ""
            raise ValueError(
                f"x: the model was captured with {self._inputs.steps} steps, and does not take "
                f"{steps}, or computes something else with so many{why}; an Explainer with an "
                f"example of {steps} steps may do"
            )
        if steps <= TRIED[-1]:
            return self._lowered(steps)
        patterns = self.patterns()
        if patterns is not None:
            return patterns.at(steps)
        _LOGGER.info("%s: lowering the model anew for %d steps", self._method, steps)
        return self._lowered(steps)

    def patterns(self) -> Patterns | None:
        """Find how the programs depend on the number of steps; None if that follows no pattern."""
        with self._lock:
            if not self._sought:
                try:
                    self._patterns = self._generalised()
                except NoPatternError as reason:
                    self._reason = str(reason)
                    _LOGGER.warning(
                        "%s: no pattern over the number of steps: %s. So each number of steps "
                        "above %d is lowered by itself, which may take seconds, and the explainer "
                        "cannot be saved for all of them",
                        self._method,
                        self._reason,
                        TRIED[-1],
                    )
                self._sought = True
            return self._patterns

    def any_steps(self) -> AnySteps:
        """Compile for all numbers of steps.

        Raises
        ------
        ValueError
            If the programs for different numbers of steps follow no pattern, or the bounds of the
            input are not the same at all steps.
        """
        self._inputs.domain(TRIED[0])
        patterns, span = self.patterns(), self._capture.span()
        if patterns is None or span is None:
            reason = self._reason or "there are gaps between those that it takes"
            raise ValueError(
                f"what {self._method} computes for this model follows no pattern over the number "
                f"of steps ({reason}), so it cannot be saved for all of them; save an explainer "
                "for one number of steps, Explainer(pyrel.capture(model, example), ...)"
            )
        fewest, most = span
        few = {n: patterns.sharing(self._lowered(n)) for n in range(fewest, TRIED[0])}
        return AnySteps(few, patterns, most)

    def other_steps(self) -> int:
        """Find another number of steps than the example's, that takes little time to compile.

        It is the example's where there is no other, or the bounds say nothing of others. A program
        that a pattern writes is followed by another that the pattern writes.
        """
        steps = self._inputs.steps
        if not self._inputs.same_at_all_steps:
            return steps
        tried = [*_FEW, *reversed(TRIED)]
        if steps <= TRIED[-1]:
            tried += [steps - 1, steps + 1]
        elif self.patterns() is not None:
            tried = [steps + 1, steps - 1, *tried]
        return next((n for n in tried if n > 0 and n != steps and self._capture.holds(n)), steps)

    def _lowered(self, steps: int) -> Compiled:
        domain = self._inputs.domain(steps)
        return compile_graph(self._capture.graph(steps), self._method, domain, self._precision)

    def _generalised(self) -> Patterns:
        if self._capture.uneven is not None:
            raise NoPatternError(self._capture.uneven)
        if not self._inputs.same_at_all_steps:
            raise NoPatternError("low and high differ from step to step")
        graphs = {n: self._tried(n) for n in TRIED}
        try:
            return self._of_tried(graphs)
        except UnsupportedModelError as error:
            raise NoPatternError(
                f"with {TRIED[0]} to {TRIED[-1]} steps, {_first_line(error)}"
            ) from error

    def _tried(self, steps: int) -> tuple[Graph, Floats, Floats]:
        """Return the graph for one of `TRIED`, and its domain."""
        if not self._capture.holds(steps):
            raise NoPatternError(f"it does not take {steps} steps, or not as it takes others")
        try:
            return (self._capture.graph(steps), *self._inputs.domain(steps))
        except (UnsupportedModelError, ValueError, ArithmeticError, LookupError, RuntimeError) as e:
            # So few steps may not do: an index may lie behind the last one, say.
            raise NoPatternError(f"it cannot be run with {steps} steps: {_first_line(e)}") from e

    def _of_tried(self, graphs: Mapping[int, tuple[Graph, Floats, Floats]]) -> Patterns:
        method, precision = self._method, self._precision
        pattern = generalise(
            {
                n: lower_apart(g, method, low, high, precision)
                for n, (g, low, high) in graphs.items()
            }
        )
        if not _decides(precision):
            return Patterns(pattern)
        decider = generalise(
            {n: lower_forward_apart(g, method, low, high) for n, (g, low, high) in graphs.items()}
        )
        return Patterns(pattern, decider)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def compile_graph(
    graph: Graph, method: Method, domain: tuple[Floats, Floats], precision: str
) -> Compiled:
    """Compile a graph for a method, whose input elements lie in a domain."""
    return Compiled(
        lower(graph, method, *domain, precision),
        lower_forward(graph, method, *domain) if _decides(precision) else None,
    )


def _decides(precision: str) -> bool:
    """Whether a forward pass of its own decides the class."""
    return precision == "bf16_all"


@dataclass(frozen=True, eq=False)
class Loaded:
    """Programs packed for an instruction set, and what a call checks its samples against.

    Attributes
    ----------
    core, decider
        See `Compiled`.
    shape : tuple of int
        Of one sample.
    classes : int
        Number of raw outputs.
    low, high : ndarray of float32, flat, or None
    """

    core: _core.Program
    decider: _core.Program | None
    shape: tuple[int, ...]
    classes: int
    low: Float32s | None
    high: Float32s | None


def load(compiled: Compiled, inputs: Inputs, steps: int, isa: str) -> Loaded:
    """Pack programs for an instruction set."""
    patterns = compiled.patterns
    core = bind(compiled.program, isa, _packed(patterns.program if patterns else None, isa))
    decider = None
    if compiled.decider is not None:
        decider = bind(compiled.decider, isa, _packed(patterns.decider if patterns else None, isa))
    low, high = inputs.bounds(steps) or (None, None)
    return Loaded(core, decider, inputs.of_steps(steps), compiled.program.classes, low, high)


def _packed(pattern: Pattern | None, isa: str) -> _core.Program | None:
    return None if pattern is None else bind_weights(pattern, isa)


Source: TypeAlias = Compiled | Compiler | AnySteps

_KEPT_STEPS = 1 << 15  # of all programs of an explainer that are kept; each takes some kilobytes


class Programs:
    """The programs of one explainer by number of steps, compiled when they are first asked for.

    Those used last are kept. Several threads may ask at once.

    Parameters
    ----------
    source : Compiled, Compiler or AnySteps
        What is compiled, or compiles; a `Compiled` is for the number of steps of the example alone.
    inputs : Inputs
    isa : str
        Name of the instruction set.
    """

    def __init__(self, source: Source, inputs: Inputs, isa: str) -> None:
        self.source, self._inputs, self._isa = source, inputs, isa
        self._kept: dict[int, Loaded] = {}
        self._used: dict[int, int] = {}
        self._clock = itertools.count()
        self._lock = RenewedLock()

    def at(self, steps: int) -> Loaded:
        """Return the program for a number of steps.

        Raises
        ------
        ValueError
            If the model, or its bounds, do not hold for that number.
        UnsupportedModelError
            If there is no rule for the model with that number.
        """
        loaded = self._kept.get(steps)
        if loaded is None:
            with self._lock:
                loaded = self._kept.get(steps) or self._load(steps)
        self._used[steps] = next(self._clock)
        return loaded

    def classes_at(self, steps: int) -> int:
        """Return the number of outputs for a number of steps; errors as of `at`."""
        if isinstance(self.source, Compiled):
            return self.source.program.classes
        if isinstance(self.source, AnySteps):
            return self.source.sizes(steps)[1]
        return self.at(steps).classes

    def _load(self, steps: int) -> Loaded:
        compiled = self.source if isinstance(self.source, Compiled) else self.source.at(steps)
        loaded = load(compiled, self._inputs, steps, self._isa)
        while self._kept and sum(self._kept) + steps > _KEPT_STEPS:
            oldest = min(self._kept, key=lambda each: self._used.get(each, -1))
            del self._kept[oldest]
        self._kept[steps] = loaded
        return loaded
