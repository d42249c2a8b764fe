# SPDX-License-Identifier: Apache-2.0
"""Compares a compiled program with its model, on two inputs, before anybody relies on it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from pyrel import methods
from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.check_inputs import check_inputs
from pyrel.engine.checked import Checked
from pyrel.engine.comparison import Part, Request, Undecided, difference
from pyrel.engine.given_inputs import Doubles, Finish
from pyrel.engine.inputs import Inputs
from pyrel.engine.model_reference import Reference
from pyrel.engine.model_run import Answer
from pyrel.engine.programs import Programs
from pyrel.engine.results import Results
from pyrel.engine.rounding import BFLOAT16, FLOAT32, TF32, THREE_OF_TF32, TINY, Roundoff
from pyrel.engine.run import Run
from pyrel.engine.several import SeveralInputs
from pyrel.errors import SelfCheckError, UnsupportedModelError
from pyrel.methods import Method
from pyrel.methods.enums import Start
from pyrel.methods.registry import own_parts

_LOGGER = logging.getLogger("pyrel")

CHECKS = ("outputs", "all", None)

# What compiling for some number of steps may raise.
NO_PROGRAM = (UnsupportedModelError, ValueError)

_MAPS: dict[type[Method], Finish] = {
    methods.Gradient: lambda gradient, x: gradient,
    methods.Sensitivity: lambda gradient, x: gradient**2,
    methods.GradientXInput: lambda gradient, x: gradient * x,
    # Of these it is what their program computes at each copy.
    methods.IntegratedGradients: lambda gradient, x: gradient,
    methods.SmoothGrad: lambda gradient, x: gradient,
}


def check_option(check: object) -> str | None:
    """Return the option, or refuse it."""
    if not isinstance(check, str | None) or check not in CHECKS:
        raise ValueError(f'check: wanted "outputs", "all" or None, got {check!r}')
    return check


class _Batch(NamedTuple):
    """One input, and what the program says of it."""

    name: str
    x: Float32s
    steps: int
    results: Results


@dataclass
class SelfCheck:
    """Compares the programs of an explainer with a reference.

    Parameters
    ----------
    reference : Reference
    method : Method
    inputs : Inputs
    programs : Programs
    precision : str
    check : {"outputs", "all"}
    padding : int, optional
        A token id that the model tells from others.
    """

    reference: Reference
    method: Method
    inputs: Inputs
    programs: Programs
    precision: str
    check: str
    padding: int | None = None
    _notes: list[str] = field(default_factory=list)
    _conserved: bool = False  # whether that was compared
    _undecided: set[str] = field(default_factory=set)

    def run(self, example: object, steps: int) -> Checked:
        """Compare on the example, and on its elements in another order.

        Each input goes through the reference once, and once backward for gradients.

        Parameters
        ----------
        example : ndarray or Tensor or None
        steps : int
            Number of steps of the second input.

        Returns
        -------
        Checked

        Raises
        ------
        SelfCheckError
            If the program computes something else.
        """
        finish = self._finish()
        done: list[int] = []
        gradients = finish is not None
        if not self.inputs.any_steps:
            self._ask_ahead(example, finish)
        for batch in self._batches(example, steps, done):
            answer = self._asked(batch, finish)
            if answer is not None:
                done.append(batch.steps)
                gradients &= answer.map is not None
                self._compare(batch, answer, finish)
            if self._counts:
                self._conserves(batch)
        what = ["outputs"] if done else []
        what += ["gradients"] if gradients and done else []
        what = [each for each in what if each not in self._undecided]
        what += ["conservation"] if self._conserved else []
        if finish is not None and done and not gradients:
            self._note("no gradients: what the model makes of token ids is no lookup of rows alone")
        shown = tuple(done) if self.inputs.any_steps else ()
        model = self.reference.name
        notes = tuple(self._notes)
        compared = len(done) if what else 0
        return Checked(tuple(what), compared, self.reference.samples, shown, model, notes)

    def _finish(self) -> Finish | None:
        """Return the function from a gradient to the map; None for methods that are no gradient."""
        finish = _MAPS.get(type(self.method))
        if finish is not None and self.method.autograd == "ignore":
            self._note('no gradients: autograd="ignore"')
            return None
        return finish

    def _leave_undecided(self, what: str, batch: _Batch, found: Undecided) -> None:
        """Note that rounding alone changes what was to be compared."""
        self._undecided.add(what)
        times = f"{found.share:.2g}" if found.share < 1e3 else "more than a thousand"
        self._note(
            f"{what} not decidable in float32: rounding alone moves those for sample "
            f"{found.sample} of {batch.name}{self._with_steps(batch)} by {times} times "
            "their size"
        )
        _LOGGER.warning("%s: %s", self.method, self._notes[-1])

    def _note(self, text: str) -> None:
        if text not in self._notes:
            self._notes.append(text)

    def _roundoff(self, coarse: str) -> Roundoff:
        """Return that on the way to what is compared, which this and "bf16_all" make coarser."""
        if self.precision in (coarse, "bf16_all"):
            return BFLOAT16
        return {"tf32": TF32, "tf32x3": THREE_OF_TF32}.get(self.precision, FLOAT32)

    @property
    def _counts(self) -> bool:
        wanted = self.check == "all" or own_parts(self.method) != ""
        return wanted and self.method.conserves

    def _batches(self, example: object, steps: int, done: list[int]) -> Iterator[_Batch]:
        """Yield the example, then its elements in another order.

        These have another number of ``steps``, or if the model does not take that, the example's.
        ``done`` are the numbers of steps of what has been compared. Where the model counts token
        ids, both are: what is padded in two steps does not show what is in more.
        """
        own, samples = self.inputs.steps, self.reference.samples
        first, second = check_inputs(example, self.inputs, steps, samples, self.padding)
        yield _Batch("the example", first, own, self._explained(first, None, own))
        compared = len(done)
        if steps != own:
            # So few steps may not do: an index may lie behind the last one, say.
            with contextlib.suppress(*NO_PROGRAM):
                yield self._moved(second, steps)
            if len(done) > compared and self.padding is None:
                return
            _, second = check_inputs(example, self.inputs, own, samples, self.padding)
        yield self._moved(second, own)

    def _ask_ahead(self, example: object, finish: Finish | None) -> None:
        """Let the reference answer before the engine has packed the weights."""
        steps, samples = self.inputs.steps, self.reference.samples
        first, second = check_inputs(example, self.inputs, steps, samples, self.padding)
        targets = self._other_classes(second, steps)
        self.reference.ask_ahead([(first, None), (second, targets)], finish)

    def _moved(self, x: Float32s, steps: int) -> _Batch:
        """Explain other classes than the predicted ones."""
        name = "the example's elements in another order"
        return _Batch(name, x, steps, self._explained(x, self._other_classes(x, steps), steps))

    def _other_classes(self, x: Float32s, steps: int) -> Int64s:
        classes = self.programs.classes_at(steps)
        targets: Int64s = (np.arange(len(x), dtype=np.int64) + 1) * (classes - 1) // len(x)
        return targets

    def _explained(self, x: Float32s, targets: Int64s | None, steps: int) -> Results:
        loaded = self.programs.at(steps)
        results = Results.places(np.empty(x.shape, np.float32), len(x), loaded.classes)
        Run(x, loaded, replace(self.inputs, check_finite=False)).once(x, targets, results)
        return results

    def _asked(self, batch: _Batch, finish: Finish | None) -> Answer | None:
        """Ask the reference; None where it does not take the input, or overflows."""
        try:
            answer = self.reference.answer(batch.x, batch.results.target, finish)
        except Exception as error:  # of whatever type the model raises
            line = " ".join(str(error).split())[:_LONGEST]
            what = f"{batch.name}{self._with_steps(batch)}"
            name = self.reference.name
            self._note(f"{name} does not take {what}: {type(error).__name__}: {line}")
            return None
        if not np.isfinite(answer.output).all():
            self._note(f"outputs for {batch.name} are NaN or infinite")
            return None
        return answer

    def _with_steps(self, batch: _Batch) -> str:
        return f" (T = {batch.steps})" if self.inputs.any_steps else ""

    def _compare(self, batch: _Batch, answer: Answer, finish: Finish | None) -> None:
        """Compare outputs, and the map where there is one."""
        results, whose = batch.results, f"for {batch.name}{self._with_steps(batch)}"
        output = np.asarray(results.output, np.float64)
        if answer.output.shape != output.shape:
            raise SelfCheckError(
                f"outputs {whose} have shape {output.shape} in what was compiled and "
                f"{answer.output.shape} in {self.reference.name}"
            )
        request = Request(batch.x, results.target, finish)
        found = difference(
            self.reference, request, Part(output, _output, self._roundoff("bf16_all")), answer
        )
        if isinstance(found, Undecided):
            self._leave_undecided("outputs", batch, found)
        elif found is not None:
            raise SelfCheckError(
                f"output[{_listed(found.where)}] {whose} is {found.value:.9g} in what was compiled "
                f"and {found.wanted:.9g} in {self.reference.name}; {found}"
            )
        if answer.map is None or not np.isfinite(answer.map).all():
            return
        relevance = np.asarray(results.relevance, np.float64)
        part = Part(
            relevance,
            _map_at(self.inputs, batch.steps),
            self._roundoff("bf16"),
            self._floor(request, output),
        )
        found = difference(self.reference, request, part, answer)
        if isinstance(found, Undecided):
            self._leave_undecided("gradients", batch, found)
        elif found is not None:
            raise SelfCheckError(
                f"{self.method.name}[{_listed(found.where)}] {whose}, target "
                f"{results.target[found.where[0]]}, is {found.value:.9g} in what was compiled and "
                f"{found.wanted:.9g} by {self.reference.gradient_name}; {found}"
            )

    def _floor(self, request: Request, output: Doubles) -> Doubles | float:
        """Return what a slope amounts to that moves the score by some thousand errors of float64.

        Slopes of saturated gates are products of 1 - σ, which torch rounds to multiples of 2⁻⁵³.
        """
        if request.finish is None or self.inputs.vocabulary:
            return 0.0
        x = np.abs(request.x.astype(np.float64)).reshape(len(request.x), -1)
        score = np.abs(output).reshape(len(x), -1).max(axis=1)
        slope = 2.0**-40 * score / np.maximum(x.max(axis=1), np.finfo(np.float32).tiny)
        shape = (-1, *[1] * (request.x.ndim - 1))
        slopes = np.broadcast_to(slope.reshape(shape), request.x.shape)
        found = np.abs(request.finish(slopes, np.abs(request.x.astype(np.float64))))
        return np.asarray(found.reshape(len(x), -1).max(axis=1).reshape(shape))

    def _conserves(self, batch: _Batch) -> None:
        """Compare ΣR + absorbed with the start."""
        results = batch.results
        assert results.relevance is not None
        relevance = np.asarray(results.relevance, np.float64).reshape(len(batch.x), -1)
        output = np.asarray(results.output, np.float64)
        start = output[np.arange(len(output)), results.target]
        if self.method.start == Start.positive_output:
            start = np.maximum(start, 0.0)
        with np.errstate(invalid="ignore", over="ignore"):
            total = relevance.sum(axis=1) + results.absorbed
            scale = np.abs(start) * results.amplification
            passed = np.maximum(np.abs(relevance).sum(axis=1), scale)
        finite = np.isfinite(total) & np.isfinite(start) & np.isfinite(results.amplification)
        if not finite.all():  # which a call refuses
            self._note(f"relevance for {batch.name} overflows in float32")
        self._conserved |= bool(finite.any())
        allowed = self._roundoff("bf16").usual * np.maximum(passed, np.abs(start)) + TINY
        with np.errstate(invalid="ignore"):
            over = ~(np.abs(total - start) <= allowed) & finite
        if over.any():
            sample = int(over.argmax())
            raise SelfCheckError(
                f"ΣR + absorbed is {total[sample]:.9g} for sample {sample} of {batch.name}"
                f"{self._with_steps(batch)}, and {self.method.name} started with "
                f"{start[sample]:.9g}; they differ by {abs(total[sample] - start[sample]):.2g}, "
                f"and rounding explains {allowed[sample]:.2g}",
                own_parts(self.method),
            )


_LONGEST = 200  # characters of a model's own error that are quoted


def _listed(index: tuple[int, ...]) -> str:
    return ", ".join(map(str, index))


def _output(answer: Answer) -> Doubles:
    return answer.output


def _map(answer: Answer) -> Doubles:
    assert answer.map is not None
    return answer.map


def _map_at(inputs: Inputs, steps: int) -> Callable[[Answer], Doubles]:
    """Return the function from an answer to its map, zero where inputs are constant."""
    if not isinstance(inputs, SeveralInputs):
        return _map
    kept = ~inputs.is_held(steps)
    return lambda answer: np.where(kept, _map(answer), 0.0)
