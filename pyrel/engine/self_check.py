# SPDX-License-Identifier: Apache-2.0
"""Compares a compiled program with its model, on two inputs, before anybody relies on it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from pyrel import methods
from pyrel._core import Start
from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.check_inputs import check_inputs
from pyrel.engine.checked import Checked
from pyrel.engine.compile import Programs
from pyrel.engine.inputs import Inputs
from pyrel.engine.model_copies import LAMBDA
from pyrel.engine.model_run import Answer, Doubles, Finish, ModelRun
from pyrel.engine.precise_run import NoCopyError, PreciseRun
from pyrel.engine.run import Results, Run
from pyrel.errors import SelfCheckError, UnsupportedModelError
from pyrel.methods import Method

CHECKS = ("outputs", "all", None)

# What the project promises in float32: 80 roundings in a row, each by at most half of 2^-23.
RELATIVE = 1e-5
_ROUNDOFF = {"float32": 2.0**-24, "bf16": 2.0**-9}
# Numbers on the way that are below 2^-126 have fewer digits than float32 has.
_TINY = 2.0**-102

# What compiling for some number of steps may raise.
_NO_PROGRAM = (UnsupportedModelError, ValueError, ArithmeticError, LookupError, RuntimeError)

_MAPS: dict[type[Method], Finish] = {
    methods.Gradient: lambda gradient, x: gradient,
    methods.Sensitivity: lambda gradient, x: gradient**2,
    methods.GradientXInput: lambda gradient, x: gradient * x,
}


def check_option(check: object) -> str | None:
    """Return the option, or refuse it."""
    if check not in CHECKS or not isinstance(check, str | None):
        raise ValueError(f'check: wanted "outputs", "all" or None, got {check!r}')
    return check


class _Part(NamedTuple):
    """What is compared: its name, the program's values, and the model's of an answer."""

    name: str
    values: Doubles
    of: Callable[[Answer], Doubles]
    roundoff: float


class _Batch(NamedTuple):
    """One input, and what the program says of it."""

    name: str
    x: Float32s
    steps: int
    results: Results


@dataclass
class SelfCheck:
    """Compares the programs of an explainer with a model.

    Parameters
    ----------
    method : Method
    inputs : Inputs
    programs : Programs
    precision : str
    check : {"outputs", "all"}
    """

    method: Method
    inputs: Inputs
    programs: Programs
    precision: str
    check: str
    _notes: list[str] = field(default_factory=list)

    def against(self, model: ModelRun, example: object, steps: int) -> Checked:
        """Compare with a model, on the example and on its elements in another order.

        Each input is run through the model once, and once backward for gradients. Where a number
        is off by more than rounding usually does, a copy of the model in float64 decides (see
        `pyrel.engine.precise_run`).

        Parameters
        ----------
        model : ModelRun
        example : ndarray or Tensor or None
        steps : int
            Number of steps of the second input.

        Returns
        -------
        Checked

        Raises
        ------
        SelfCheckError
            If the program computes something else than the model.
        """
        finish = self._finish()
        decider = PreciseRun(model, bool(self.inputs.vocabulary))
        done: list[int] = []
        gradients = finish is not None
        for batch in self._batches(example, steps, model.samples, done):
            answer = self._asked(model, batch, finish)
            if answer is not None:
                done.append(batch.steps)
                gradients &= answer.map is not None
                self._compare(decider, batch, answer, finish)
            self._conserves(batch)
        what = ["outputs"] if done else []
        what += ["gradients"] if gradients and done else []
        what += ["conservation"] if self._counts else []
        if finish is not None and done and not gradients:
            self._note("no gradients: what the model makes of token ids is no lookup of rows alone")
        shown = tuple(done) if self.inputs.any_steps else ()
        return Checked(tuple(what), len(done), model.samples, shown, tuple(self._notes))

    def _finish(self) -> Finish | None:
        """How the map is made of autograd's gradient; None for methods that are none."""
        finish = _MAPS.get(type(self.method))
        if finish is not None and self.method.autograd == "ignore":
            self._note('no gradients: autograd="ignore"')
            return None
        return finish

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _roundoff(self, coarse: str) -> float:
        """Largest relative error of a rounding on the way to what is compared."""
        return _ROUNDOFF["bf16" if self.precision in (coarse, "bf16_all") else "float32"]

    @property
    def _counts(self) -> bool:
        return self.check == "all" and self.method.conserves

    def _batches(
        self, example: object, steps: int, samples: int, done: list[int]
    ) -> Iterator[_Batch]:
        """Yield the example, then its elements in another order.

        These have another number of ``steps``, or if the model does not take that, the example's.
        ``done`` are the numbers of steps of what has been compared.
        """
        first, second = check_inputs(example, self.inputs, steps, samples)
        yield _Batch("the example", first, self.inputs.steps, self._explained(first, None))
        compared = len(done)
        if steps != self.inputs.steps:
            # So few steps may not do: an index may lie behind the last one, say.
            with contextlib.suppress(*_NO_PROGRAM):
                yield self._moved(second, steps)
            if len(done) > compared:
                return
            _, second = check_inputs(example, self.inputs, self.inputs.steps, samples)
        yield self._moved(second, self.inputs.steps)

    def _moved(self, x: Float32s, steps: int) -> _Batch:
        """Explain other classes than the predicted ones."""
        classes = self.programs.at(steps).classes
        targets = (np.arange(len(x), dtype=np.int64) + 1) * (classes - 1) // len(x)
        name = "the example's elements in another order"
        return _Batch(name, x, steps, self._explained(x, targets))

    def _explained(self, x: Float32s, targets: Int64s | None) -> Results:
        steps = x.shape[1] if self.inputs.any_steps else self.inputs.steps
        loaded = self.programs.at(steps)
        results = Results.places(np.empty(x.shape, np.float32), len(x), loaded.classes)
        Run(x, loaded, replace(self.inputs, check_finite=False)).explain(x, targets, results)
        return results

    def _asked(self, model: ModelRun, batch: _Batch, finish: Finish | None) -> Answer | None:
        """Ask the model; None where it does not take the input, or overflows."""
        try:
            answer = model(batch.x, bool(self.inputs.vocabulary), batch.results.target, finish)
        except Exception as error:  # of whatever type the model raises
            line = str(error).strip().partition("\n")[0]
            what = f"{batch.name}{self._with_steps(batch)}"
            self._note(f"the model does not take {what}: {type(error).__name__}: {line}")
            return None
        if not np.isfinite(answer.output).all():
            self._note(f"outputs for {batch.name} are NaN or infinite")
            return None
        return answer

    def _with_steps(self, batch: _Batch) -> str:
        return f" (T = {batch.steps})" if self.inputs.any_steps else ""

    def _compare(
        self, decider: PreciseRun, batch: _Batch, answer: Answer, finish: Finish | None
    ) -> None:
        """Compare outputs, and the map where there is one."""
        relevance = np.asarray(batch.results.relevance, np.float64)
        output = np.asarray(batch.results.output, np.float64)
        if answer.output.shape != output.shape:
            raise SelfCheckError(
                f"outputs for {batch.name} have shape {output.shape} in what was compiled and "
                f"{answer.output.shape} in the model"
            )
        parts = [_Part("output", output, _output, self._roundoff("bf16_all"))]
        if answer.map is not None and np.isfinite(answer.map).all():
            parts.append(_Part("relevance", relevance, _map, self._roundoff("bf16")))
        for part in parts:
            model = part.of(answer)
            relative = RELATIVE * part.roundoff / _ROUNDOFF["float32"]
            allowed = relative * _largest(model) + _TINY
            undecided = ""
            if _within(part.values, model, allowed):
                continue
            try:
                exact = part.of(decider.exact(batch.x, batch.results.target, finish))
                allowed = relative * _largest(exact) + LAMBDA * _largest(model - exact) + _TINY
                if _within(part.values, exact, allowed):
                    continue
                moves = decider.moves(
                    batch.x, batch.results.target, finish, part.of, exact, part.roundoff
                )
                allowed = np.maximum(allowed, moves)
                model = exact
                if _within(part.values, exact, allowed):
                    continue
            except NoCopyError as error:
                undecided = f"; no copy of the model runs in float64, which would decide: {error}"
            raise SelfCheckError(self._off(part, batch, model, allowed) + undecided)

    def _off(self, part: _Part, batch: _Batch, model: Doubles, allowed: Doubles) -> str:
        """Say which number is furthest off."""
        program, name = part.values, part.name
        error = np.abs(program - model).reshape(len(program), -1)
        error = np.where(np.isfinite(error), error, np.inf)
        bounds = np.broadcast_to(allowed.reshape(len(program), 1), error.shape)
        over = error > bounds
        sample, element = np.unravel_index(int((error - bounds).argmax()), error.shape)
        place = np.unravel_index(element, program.shape[1:])
        index = ", ".join(str(int(i)) for i in (sample, *place))
        whose = (
            f"output[{index}]"
            if name == "output"
            else f"relevance[{index}] by {self.method.name}, target {batch.results.target[sample]},"
        )
        there = (int(sample), *map(int, place))
        steps = self._with_steps(batch)
        source = "the model" if name == "output" else "torch's autograd"
        return (
            f"{whose} for {batch.name}{steps} is {program[there]:.9g} in what was compiled and "
            f"{model[there]:.9g} in {source}; they differ by {error[sample, element]:.2g}, and "
            f"rounding explains {bounds[sample, element]:.2g}. {int(over.sum())} of {over.size} "
            "numbers are off"
        )

    def _conserves(self, batch: _Batch) -> None:
        """Compare ΣR + absorbed with the start, where that was asked for."""
        if not self._counts:
            return
        results = batch.results
        assert results.relevance is not None
        relevance = np.asarray(results.relevance, np.float64).reshape(len(batch.x), -1)
        output = np.asarray(results.output, np.float64)
        start = output[np.arange(len(output)), results.target]
        if self.method.start == Start.positive_output:
            start = np.maximum(start, 0.0)
        total = relevance.sum(axis=1) + results.absorbed
        passed = np.maximum(np.abs(relevance).sum(axis=1), np.abs(start) * results.amplification)
        relative = RELATIVE * self._roundoff("bf16") / _ROUNDOFF["float32"]
        allowed = relative * np.maximum(passed, np.abs(start)) + _TINY
        over = ~(np.abs(total - start) <= allowed) & np.isfinite(start)
        if over.any():
            sample = int(over.argmax())
            raise SelfCheckError(
                f"ΣR + absorbed is {total[sample]:.9g} for sample {sample} of {batch.name}, and "
                f"{self.method.name} started with {start[sample]:.9g}; they differ by "
                f"{abs(total[sample] - start[sample]):.2g}, and rounding explains "
                f"{allowed[sample]:.2g}"
            )


def _output(answer: Answer) -> Doubles:
    return answer.output


def _map(answer: Answer) -> Doubles:
    assert answer.map is not None
    return answer.map


def _largest(values: Doubles) -> Doubles:
    """Largest size of each sample's values, shape (n, 1, ...)."""
    axes = tuple(range(1, values.ndim))
    return np.asarray(np.abs(values).max(axis=axes, keepdims=True))


def _within(program: Doubles, model: Doubles, allowed: Doubles) -> bool:
    # What overflows float32 is infinite in a program; a call refuses it.
    model = np.where(np.abs(model) > np.finfo(np.float32).max, np.copysign(np.inf, model), model)
    with np.errstate(invalid="ignore"):
        close = np.abs(program - model) <= allowed
    return bool((close | (program == model)).all())
