# SPDX-License-Identifier: Apache-2.0
"""The programs of an explainer by number of steps, bound to an instruction set or a device."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

from pyrel.compiler.capture.forks import RenewedLock
from pyrel.compiler.program.step_pattern import Pattern
from pyrel.engine.arrays import Float32s
from pyrel.engine.compile import Compiler
from pyrel.engine.compiled import AnySteps, Compiled
from pyrel.engine.cuda.engine import CudaEngine
from pyrel.engine.devices import CPU, Binding
from pyrel.engine.engines import Engine
from pyrel.engine.inputs import Inputs
from pyrel.engine.kept_packed import kept_packed
from pyrel.engine.loaded import Weights, bind, bind_weights
from pyrel.engine.plans.base import BACK, EXPLAIN, IMAGE, Plan
from pyrel.engine.plans.choose import plan_of
from pyrel.methods import Method


@dataclass(frozen=True, eq=False)
class Loaded:
    """Programs bound to an engine, and what a call checks its samples against.

    Attributes
    ----------
    programs : dict
        By name, see `Compiled`.
    plan : Plan
        How they run.
    shape : tuple of int
        Of one sample.
    classes : int
        Number of raw outputs.
    low, high : ndarray of float32, flat, or None
    outputs : dict
        How many each program has, by name.
    """

    programs: Mapping[str, Engine]
    plan: Plan
    shape: tuple[int, ...]
    classes: int
    low: Float32s | None
    high: Float32s | None
    outputs: Mapping[str, int]

    @property
    def core(self) -> Engine:
        """The program that explains."""
        return self.programs[EXPLAIN]

    @property
    def bytes_on_device(self) -> int:
        """How much of a CUDA device's memory the programs take."""
        engines = self.programs.values()
        return sum(each.image_bytes for each in engines if isinstance(each, CudaEngine))

    @property
    def flops(self) -> float:
        """Floating-point operations of the products for one sample, of all parts of a model."""
        parts = (EXPLAIN, IMAGE, BACK)
        return sum(self.programs[name].flops for name in parts if name in self.programs)


def load(
    compiled: Compiled, method: Method, inputs: Inputs, steps: int, binding: Binding
) -> Loaded:
    """Bind programs as `pack` does; the errors are those of `plan_of`, too."""
    outputs = {name: program.classes for name, program in compiled.programs.items()}
    plan = plan_of(method, outputs, inputs, steps)
    programs = pack(compiled, binding)
    low, high = inputs.bounds(steps) or (None, None)
    shape, classes = inputs.of_steps(steps), compiled.program.classes
    return Loaded(programs, plan, shape, classes, low, high, outputs)


def pack(compiled: Compiled, binding: Binding) -> dict[str, Engine]:
    """Bind programs, by name, to an instruction set, or to a CUDA device."""
    patterns = compiled.patterns.patterns if compiled.patterns is not None else {}
    bound: dict[str, Engine] = {}
    for name, program in compiled.programs.items():
        weights = _packed(patterns.get(name), binding.isa)
        if binding.place == CPU:
            bound[name] = bind(program, binding.isa, weights)
        else:
            bound[name] = CudaEngine(program, binding.place, weights, binding.precision)
    return bound


def _packed(pattern: Pattern | None, isa: str) -> Weights | None:
    return None if pattern is None else bind_weights(pattern, isa)


Source: TypeAlias = Compiled | Compiler | AnySteps

# Of all programs of an explainer that are kept. On the CPU a step takes some kilobytes; on a device
# each program has the weights again.
_KEPT_STEPS, _KEPT_BYTES = 1 << 15, 1 << 30


class Programs:
    """The programs of one explainer by number of steps, compiled when they are first needed.

    The most recently used are kept. Several threads may call at once.

    Parameters
    ----------
    source : Compiled, Compiler or AnySteps
        What is compiled, or compiles; a `Compiled` is for the number of steps of the example alone.
    method : Method
    inputs : Inputs
    binding : Binding
        What they are bound to.
    """

    def __init__(self, source: Source, method: Method, inputs: Inputs, binding: Binding) -> None:
        self.source, self._method, self._inputs = source, method, inputs
        self._binding = binding
        self._elsewhere: dict[str, Self] = {}
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

    @property
    def device(self) -> str:
        """Where they run."""
        return self._binding.place

    def on(self, device: str) -> Self:
        """Return the same programs for a device; the same ones every time."""
        if device == self.device:
            return self
        with self._lock:
            if device not in self._elsewhere:
                self._elsewhere[device] = self._moved(device)
            return self._elsewhere[device]

    def _moved(self, device: str) -> Self:
        binding = self._binding._replace(device=device)
        return type(self)(self.source, self._method, self._inputs, binding)

    def classes_at(self, steps: int) -> int:
        """Return the number of outputs for a number of steps; errors as of `at`."""
        if isinstance(self.source, Compiled):
            return self.source.program.classes
        if isinstance(self.source, AnySteps):
            return self.source.sizes(steps)[1]
        return self.at(steps).classes

    def _load(self, steps: int) -> Loaded:
        compiled = self.source if isinstance(self.source, Compiled) else self.source.at(steps)
        loaded = load(compiled, self._method, self._inputs, steps, self._binding)
        if isinstance(self.source, Compiled) and compiled.patterns is None:
            self.source = kept_packed(compiled, loaded.programs)
        while self._kept and self._is_full(steps, loaded):
            oldest = min(self._kept, key=lambda each: self._used.get(each, -1))
            del self._kept[oldest]
        self._kept[steps] = loaded
        return loaded

    def _is_full(self, steps: int, loaded: Loaded) -> bool:
        """Whether others have to go before a program for some steps is kept."""
        there = sum(each.bytes_on_device for each in (*self._kept.values(), loaded))
        return sum(self._kept) + steps > _KEPT_STEPS or there > _KEPT_BYTES


class Replanned(Programs):
    """The programs of others, run by the plan of a method that they serve as well.

    Parameters
    ----------
    programs : Programs
    method : Method
        Of the same class, with other options that no program depends on.
    """

    def __init__(self, programs: Programs, method: Method) -> None:
        super().__init__(programs.source, method, programs._inputs, programs._binding)
        self._of = programs

    def _moved(self, device: str) -> Self:
        return type(self)(self._of.on(device), self._method)

    def _load(self, steps: int) -> Loaded:
        loaded = self._of.at(steps)
        plan = plan_of(self._method, loaded.outputs, self._inputs, steps)
        self._kept[steps] = replace(loaded, plan=plan)
        return self._kept[steps]
