# SPDX-License-Identifier: Apache-2.0
"""What an explainer is compiled to: a program for each number of steps."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass

from pyrel import _core
from pyrel.arrays import Float32s
from pyrel.graph import Floats, Graph
from pyrel.inputs import Inputs
from pyrel.lower import lower, lower_forward
from pyrel.methods import Method
from pyrel.program import Program


@dataclass(frozen=True, eq=False)
class Compiled:
    """A model compiled for one method and one number of steps.

    Attributes
    ----------
    program : Program
    decider : Program or None
        A forward pass in float32, where the program's own outputs are too coarse for the class.
    """

    program: Program
    decider: Program | None = None


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


def compile_graph(
    graph: Graph, method: Method, domain: tuple[Floats, Floats], precision: str
) -> Compiled:
    """Compile a graph for a method, whose input elements lie in a domain."""
    decides = precision == "bf16_all"
    return Compiled(
        lower(graph, method, *domain, precision),
        lower_forward(graph, method, *domain) if decides else None,
    )


def load(compiled: Compiled, inputs: Inputs, steps: int, isa: str) -> Loaded:
    """Pack programs for an instruction set."""
    decider = None if compiled.decider is None else compiled.decider.load(isa)
    low, high = inputs.bounds(steps) or (None, None)
    program = compiled.program
    shape = inputs.of_steps(steps)
    return Loaded(program.load(isa), decider, shape, program.classes, low, high)


_KEPT = 8  # programs of an explainer; each holds the packed weights


class Programs:
    """The programs of one explainer by number of steps, compiled when they are first asked for.

    Those used last are kept. Several threads may ask at once.

    Parameters
    ----------
    inputs : Inputs
    first : Loaded
        For the number of steps that the example had.
    compile_at : callable, optional
        Compiles for another number of steps; None where there is no other.
    isa : str
        Name of the instruction set.
    """

    def __init__(
        self,
        inputs: Inputs,
        first: Loaded,
        compile_at: Callable[[int], Compiled] | None,
        isa: str,
    ) -> None:
        self._inputs, self._compile_at, self._isa = inputs, compile_at, isa
        self._kept = {inputs.steps: first}
        self._used: dict[int, int] = {}
        self._clock = itertools.count()
        self._lock = threading.Lock()

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

    def _load(self, steps: int) -> Loaded:
        assert self._compile_at is not None
        loaded = load(self._compile_at(steps), self._inputs, steps, self._isa)
        if len(self._kept) >= _KEPT:
            oldest = min(self._kept, key=lambda each: self._used.get(each, -1))
            del self._kept[oldest]
        self._kept[steps] = loaded
        return loaded
