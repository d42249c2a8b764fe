# SPDX-License-Identifier: Apache-2.0
"""Compiles a captured model for a method: for one number of steps, or for any."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from pyrel.compiler.capture.capture import Capture
from pyrel.compiler.capture.forks import RenewedLock
from pyrel.compiler.graph.affine_start import affine_start
from pyrel.compiler.graph.embedded import from_rows, lookup_of
from pyrel.compiler.graph.nodes import Floats, Graph
from pyrel.compiler.lowering.cache import LoweringCache
from pyrel.compiler.lowering.lower import (
    lower_apart,
    lower_forward,
    lower_forward_apart,
    lower_with_rules,
    place_rules,
)
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.rule_table import PlacedRule, placed_rules
from pyrel.compiler.program.generalise import TRIED, NoPatternError, generalise
from pyrel.engine.compiled import AnySteps, Compiled, Patterns
from pyrel.engine.inputs import Inputs
from pyrel.engine.outputs import Outputs
from pyrel.engine.plans.base import BACK, EMBED, EXPLAIN, IMAGE
from pyrel.engine.plans.choose import forward_only_programs, goes_back_again
from pyrel.errors import UnsupportedModelError
from pyrel.methods import IntegratedGradients, Method

_FEW = (2, 3, 4, 5)  # steps: quickly lowered, and for most models enough

_LOGGER = logging.getLogger("pyrel")


class Compiler:
    """Compiles a captured model, for each number of steps when it is first needed.

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
    outputs : Outputs
    """

    def __init__(
        self, capture: Capture, method: Method, inputs: Inputs, precision: str, outputs: Outputs
    ) -> None:
        self.outputs = outputs
        self._capture, self._method = capture, method
        self._inputs, self.precision = inputs, precision
        self._keep_forward = outputs.follow_steps and goes_back_again(method)
        self._lock = RenewedLock()
        self._sought = False
        self._patterns: Patterns | None = None
        self._reason = ""  # why there are none
        self._any_steps: AnySteps | None = None

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
        if self._any_steps is not None:  # a pickle for each worker takes no more lowering
            return self._any_steps
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
        self._any_steps = AnySteps(few, patterns, most, self.outputs)
        return self._any_steps

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

    def rules(self) -> tuple[PlacedRule, ...]:
        """List the rules that the programs follow, as for the example's number of steps."""
        steps = self._inputs.steps
        graph, domain = self._graph(steps), self._inputs.domain(steps)
        return placed_rules(place_rules(graph, self._method, *domain)[1])

    def _graph(self, steps: int) -> Graph:
        return self._inputs.held(self._capture.graph(steps))

    def _lowered(self, steps: int) -> Compiled:
        domain = self._inputs.domain(steps)
        own = steps == self._inputs.steps
        graph = self._graph(steps)
        given = graph, self._method, domain, self.precision
        ids, keep = self._inputs.moves_ids, self._keep_forward
        return compile_graph(*given, moves_ids=ids, check_sites=own, keep_forward=keep)

    def _generalised(self) -> Patterns:
        if self._capture.irregular_growth is not None:
            raise NoPatternError(self._capture.irregular_growth)
        if not self._inputs.same_at_all_steps:
            raise NoPatternError("low and high differ from step to step")
        graphs = {n: self._tried(n) for n in TRIED}
        try:
            patterns, _ = patterns_of(
                *(graphs, self._method, self.precision),
                moves_ids=self._inputs.moves_ids,
                keep_forward=self._keep_forward,
            )
        except UnsupportedModelError as error:
            raise NoPatternError(
                f"with {TRIED[0]} to {TRIED[-1]} steps, {_first_line(error)}"
            ) from error
        _LOGGER.debug(
            "%s: programs for any number of steps, from those for %s", self._method, TRIED
        )
        return patterns

    def _tried(self, steps: int) -> tuple[Graph, Floats, Floats]:
        """Return the graph for one of `TRIED`, and its domain."""
        if not self._capture.holds(steps):
            raise NoPatternError(f"it does not take {steps} steps, or not as it takes others")
        try:
            return (self._graph(steps), *self._inputs.domain(steps))
        except (UnsupportedModelError, ValueError) as error:
            # So few steps may not do: an index may lie behind the last one, say.
            raise NoPatternError(
                f"it cannot be run with {steps} steps: {_first_line(error)}"
            ) from error


def patterns_of(
    graphs: Mapping[int, tuple[Graph, Floats, Floats]],
    method: Method,
    precision: str,
    *,
    moves_ids: bool,
    keep_forward: bool,
) -> tuple[Patterns, dict[int, Placement]]:
    """Find the pattern of graphs of a few numbers of steps, with the domains of their inputs.

    Returns it with where rules stand in the graphs.

    Raises
    ------
    NoPatternError
    UnsupportedModelError
        If there is no rule for the model with so few steps.
    """
    cache = LoweringCache()
    beside = forward_only_programs(method, precision, ids=moves_ids)
    first = {n: _Input(*each) for n, each in graphs.items()}
    main = {n: each.looked_up() for n, each in first.items()} if EMBED in beside else first
    apart = {
        n: lower_apart(
            *(each.graph, method, each.low, each.high, precision, cache),
            keep_forward=keep_forward,
        )
        for n, each in main.items()
    }
    patterns = {EXPLAIN: generalise({n: program for n, (program, _) in apart.items()})}
    for name in beside:
        forward = {
            n: lower_forward_apart(each.of(name), method, each.low, each.high, cache)
            for n, each in first.items()
        }
        patterns[name] = generalise(forward)
    return Patterns(patterns), {n: placement for n, (_, placement) in apart.items()}


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def compile_graph(
    graph: Graph,
    method: Method,
    domain: tuple[Floats, Floats],
    precision: str,
    *,
    moves_ids: bool,
    check_sites: bool = True,
    keep_forward: bool = False,
    may_cut: bool = False,
) -> Compiled:
    """Compile a graph for a method, whose input elements lie in a domain.

    ``moves_ids`` says whether there are token ids that are not constant; ``check_sites`` and
    ``keep_forward`` as of `lower_with_rules`. ``may_cut`` allows programs for an affine start
    (`pyrel.compiler.graph.affine_start`).
    """
    beside = forward_only_programs(method, precision, ids=moves_ids)
    first = _Input(graph, *domain)
    if may_cut and isinstance(method, IntegratedGradients):
        cut = _cut(first, method, precision)
        if cut is not None:
            return cut
    main = first.looked_up() if EMBED in beside else first
    given = main.graph, method, main.low, main.high, precision
    program, rules = lower_with_rules(*given, check_sites=check_sites, keep_forward=keep_forward)
    programs = {EXPLAIN: program}
    for name in beside:
        programs[name] = lower_forward(first.of(name), method, first.low, first.high)
    return Compiled(programs, rules=rules)


def _cut(first: _Input, method: Method, precision: str) -> Compiled | None:
    """Compile a graph cut behind an affine start, if it has one whose cut is a gain."""
    start = affine_start(first.graph)
    if start is None:
        return None
    high = np.full(start.rest.input_size, np.inf)
    low = -high
    program, rules = lower_with_rules(start.rest, method, low, high, precision)
    own = placed_rules(place_rules(start.image, method, first.low, first.high)[1])
    programs = {
        EXPLAIN: program,
        IMAGE: lower_forward(start.image, method, first.low, first.high),
        BACK: lower_forward(start.back, method, low, high),
    }
    return Compiled(programs, rules=(*own, *rules))


class _Input(NamedTuple):
    """A graph, and the range of its input elements."""

    graph: Graph
    low: Floats
    high: Floats

    def looked_up(self) -> _Input:
        """Return the graph that takes the rows of tables beside token ids."""
        graph = from_rows(self.graph)
        if self.graph.layout is not None:
            rest = graph.input_size - self.low.size
            ends = (self.low, -np.inf), (self.high, np.inf)
            return _Input(graph, *(np.append(end, np.full(rest, beyond)) for end, beyond in ends))
        low, high = (np.full((self.low.size, graph.input_shape[-1]), b) for b in (-np.inf, np.inf))
        low[:, 0], high[:, 0] = self.low, self.high
        return _Input(graph, low.reshape(-1), high.reshape(-1))

    def of(self, name: str) -> Graph:
        """Return the graph of a program beside the one that explains."""
        return lookup_of(self.graph) if name == EMBED else self.graph
