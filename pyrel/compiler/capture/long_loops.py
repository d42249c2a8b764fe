# SPDX-License-Identifier: Apache-2.0
"""Captures models with a long Python loop over the steps at a few short lengths.

torch.export takes some 30 ms for each step of such a loop, a minute or more for a thousand. The
programs of the few lengths say what that of the full one is (`pyrel.compiler.program.generalise`),
where the loop goes on as it begins, which the operators that the model runs at full length show
(`pyrel.compiler.capture.loop_growth`). Where it does not, or nothing is known, the model is
exported in full.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.export import ExportedProgram

from pyrel.compiler.capture.calls import read_call
from pyrel.compiler.capture.capture import Capture, capture_at
from pyrel.compiler.capture.eager_trace import Step, eager_trace
from pyrel.compiler.capture.examples import Given, Sample, sample_of, unwrapped
from pyrel.compiler.capture.forks import exporting
from pyrel.compiler.capture.loop_growth import irregular_loop
from pyrel.compiler.capture.outputs import Output
from pyrel.compiler.graph.nodes import Graph

_LOGGER = logging.getLogger("pyrel")

# Steps from which on a few short exports take less time than a long one.
LEAST_STEPS = 64


class LoopCapture(Capture):
    """A model that is captured for few steps, and is for many; exported in full when asked to be.

    Parameters
    ----------
    few : mapping from int to Capture
        By number of steps.
    steps : int
        Of the example.
    full : callable
        Captures the model for these.

    Attributes
    ----------
    few : dict from int to Graph
        Graphs of few steps, none where they say nothing of that of all.
    """

    def __init__(
        self, few: dict[int, Capture], steps: int, full: Callable[[], Capture], output: Output
    ) -> None:
        most = few[max(few)]
        super().__init__(most._programs, False, steps, at_once=True, output=output)
        self.few: dict[int, Graph] = {n: each.graph() for n, each in few.items()}
        self._full = full
        self._made: Capture | None = None
        self._because = most.fixed_because

    @property
    def fixed_because(self) -> str | None:
        """The operation that fixes the number of steps, as in the short captures."""
        return self._because

    def graph(self, steps: int | None = None) -> Graph:
        """Make the graph of all steps, by an export in full."""
        with exporting:  # torch.export is not safe to run in several threads
            if self._made is None:
                self._made = self._full()
        return self._made.graph(steps)


def is_short(source: Graph | Capture) -> bool:
    """Whether something was captured for few steps, and is for many."""
    return isinstance(source, LoopCapture) and bool(source.few)


def forget_short(source: Graph | Capture) -> bool:
    """Let a loop be exported in full, as its first steps do not say what all do.

    False where nothing was captured for few steps.
    """
    short = is_short(source)
    if isinstance(source, LoopCapture):
        source.few.clear()
    return short


def capture_in_short(
    model: torch.nn.Module | ExportedProgram,
    example: Given | None,
    few: Sequence[int],
    *,
    lengths: bool = False,
    at_once: bool = False,
    output: Output = None,
) -> Capture:
    """Do what `capture_at` does; a long loop is exported for a ``few`` numbers of steps only.

    ``few`` are at least three numbers, of which the first two differ by one.
    """

    def captured(of: torch.nn.Module | ExportedProgram, given: Given | None) -> Capture:
        return capture_at(of, given, lengths=lengths, at_once=at_once, output=output)

    if not isinstance(model, torch.nn.Module) or lengths or example is None:
        return captured(model, example)
    found = None
    try:
        steps = _steps_of_loop(unwrapped(model), example, few)
        if steps is not None:
            short = {n: captured(model, _first_steps(example, n)) for n in few}
            if not any(each.dynamic for each in short.values()):
                full = _later(model, example, captured)
                found = LoopCapture(short, steps, full, output)
    except Exception as error:  # of whatever type the model raises for so few steps
        _LOGGER.debug("a loop is exported in full: %s: %s", type(error).__name__, error)
    return captured(model, example) if found is None else found


def _first_steps(example: Any, steps: int) -> Any:
    return example[:, :steps]


def _later(
    model: torch.nn.Module, example: Any, capture: Callable[[Any, Any], Capture]
) -> Callable[[], Capture]:
    """Return what captures a model, and does not keep it alive.

    Captures are kept as long as their model lives; of the example they need no sample.
    """
    kept, none = weakref.ref(model), example[:0]
    shape = none.clone() if isinstance(none, torch.Tensor) else none.copy()

    def later() -> Capture:
        return capture(kept(), shape)

    return later


def _steps_of_loop(model: torch.nn.Module, example: Any, few: Sequence[int]) -> int | None:
    """Return the steps of an example, where the model has a long loop that goes on evenly."""
    shape = tuple(getattr(example, "shape", ()))
    if len(shape) < 2 or shape[1] < LEAST_STEPS or read_call(model, example, False) is not None:
        return None
    sample = sample_of(model, example, False)
    if sample.lengths:
        return None
    first, second, *others = few
    traces: dict[int, list[Step]] = {}
    for steps in (first, second):
        traces[steps] = _trace(model, sample, steps)
    each = len(traces[second]) - len(traces[first])
    if each <= 0:
        return None  # it has no loop
    for steps in (*others, shape[1]):
        traces[steps] = _trace(model, sample, steps)
        if len(traces[steps]) != len(traces[first]) + each * (steps - first):
            return None
    why = irregular_loop(traces)
    if why is not None:
        _LOGGER.warning(
            "a loop over %d steps is exported in full, some 0.1 s for each: %s", shape[1], why
        )
        return None
    return int(shape[1])


def _trace(model: torch.nn.Module, sample: Sample, steps: int) -> list[Step]:
    tensors = tuple(tensor[:, :steps] for tensor in sample.tensors)
    return eager_trace(model, replace(sample, tensors=tensors))
