# SPDX-License-Identifier: Apache-2.0
"""The programs of a model for one method: what they take, and how they are saved and copied."""

from __future__ import annotations

import operator
import os
from pathlib import Path
from typing import Any, Self, cast

import torch

from pyrel.compiler.lowering.rule_table import as_text
from pyrel.compiler.program.file_limits import Limits
from pyrel.engine import arrays, devices
from pyrel.engine.arrays import Array, Batch, Float32s
from pyrel.engine.batch import explain_all, explain_by_length
from pyrel.engine.compile import Compiler
from pyrel.engine.compiled import AnySteps, Compiled
from pyrel.engine.cuda import tensors
from pyrel.engine.devices import CPU, Binding, bound
from pyrel.engine.each_step import explain_each_step, is_each_step, steps_of_outputs
from pyrel.engine.inputs import Inputs
from pyrel.engine.outputs import Outputs
from pyrel.engine.precision import OF_FLOAT32
from pyrel.engine.program_file import read_program, write_program
from pyrel.engine.programs import Programs, Replanned, Source
from pyrel.engine.progress import Told
from pyrel.engine.results import Results
from pyrel.engine.stability import StabilityWarning
from pyrel.methods import Method
from pyrel.methods.options import word


class CompiledModel:
    """The programs of an explainer, whether compiled, loaded or copied."""

    method: Method
    inputs: Inputs
    outputs: Outputs
    checked: str
    input_shape: Any
    any_steps: bool
    classes: int

    def _take(
        self,
        method: Method,
        inputs: Inputs,
        checked: str,
        source: Source,
        binding: Binding,
    ) -> None:
        self._binding = binding
        self._programs = Programs(source, method, inputs, binding)
        self._stability = StabilityWarning()
        self.method = method
        self.inputs, self.outputs = inputs, source.outputs
        self.checked = checked
        self.input_shape = inputs.shapes
        self.any_steps = inputs.any_steps
        self.classes = self._programs.classes_at(inputs.steps)

    def __repr__(self) -> str:
        """Show method, shapes and instruction set, and why there is one number of steps only."""
        lengths = ", with lengths" if self.inputs.lengths else ""
        clipped = ", clipped to its range" if self.inputs.clips else ""
        takes = f"input {self.inputs}{lengths}{clipped}"
        only = f", {self.inputs.only}" if self.inputs.only else ""
        runs = f"instruction set {self._binding.isa}"
        if self._programs.device != CPU:
            precision = self._binding.precision
            products = "" if precision == "float32" else f", products of {precision}"
            runs = f"{self._programs.device}{products}"
        return (
            f"Explainer({self.method}, {takes}, {self.outputs.text(self.classes)}, "
            f"checked: {self.checked}, "
            f"{runs}{only})"
        )

    def __str__(self) -> str:
        """Show what `repr` shows, and the rule of each node where the model was compiled here."""
        return f"{self!r}\n{self._table_of_rules()}"

    @property
    def flops(self) -> float:
        """Floating-point operations of the products for one sample, forward and backward.

        With ``any_steps``, of one with as many steps as the example had.
        """
        return self._programs.at(self.inputs.steps).flops

    def classes_at(self, steps: int) -> int:
        """Return the number of raw outputs for a number of steps.

        Raises
        ------
        TypeError
            If ``steps`` is no whole number.
        ValueError
            If the model does not take so many.
        """
        try:
            steps = operator.index(steps)
        except TypeError:
            raise TypeError(f"steps: wanted a whole number, got {type(steps).__name__}") from None
        return self._programs.classes_at(steps) if self.any_steps else self.classes

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the compiled program to a file, which `load` reads without the model.

        The file holds the weights as they are, not packed for this machine's instruction set. Of a
        method of your own it holds the name and the options; it loads as a `pyrel.methods.Custom`.

        Parameters
        ----------
        path : path
            Replaced in one step if it exists; folders are made as needed. Any name will do;
            the content is a safetensors file.

        Raises
        ------
        TypeError
            If the method is a class of your own, and has an option that JSON cannot hold.
        ValueError
            If the explainer takes any number of steps, and its programs for them follow no pattern.
        OSError
            If the file cannot be written.
        """
        write_program(Path(path), self.method, self.inputs, self._compiled(), self.checked)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        limits: Limits | None = None,
        device: str | torch.device | None = None,
        precision: str = "float32",
    ) -> Self:
        """Read an explainer that `save` wrote.

        Nothing in the file is executed as code, and the engine checks every instruction before it
        runs one: a file of a stranger can at worst explain wrongly. What would take much time or
        memory for its size is refused.

        Parameters
        ----------
        path : path
        limits : Limits, optional
            How large the program may be; ``pyrel.Limits()`` by default. For a file that you trust,
            ``pyrel.Limits().times(10)`` allows ten times as much of everything.
        device : str, torch.device or None
            What explains: as of `pyrel.Explainer`. A file is the same for all.
        precision : {"float32", "tf32x3", "tf32"}
            How a CUDA device forms products of float32: as of `pyrel.Explainer`. Those of bfloat16
            are in the file.

        Returns
        -------
        Explainer
            With the same results as the saved one, bit for bit on the same instruction set.

        Raises
        ------
        OSError
            If the file cannot be read.
        ValueError
            If it is truncated, changed, foreign, of a newer pyrel, or larger than the limits allow;
            the message names the file, and the limit. Or if there is no such device.
        """
        if limits is not None and not isinstance(limits, Limits):
            kind = type(limits).__name__
            raise TypeError(f"limits: wanted pyrel.Limits, as pyrel.Limits().times(10), got {kind}")
        precision = word("precision", precision, *OF_FLOAT32)  # what else there is, the file has
        binding = bound(device, precision)
        explainer = cls.__new__(cls)
        explainer._take(*read_program(Path(path), binding, limits or Limits()), binding)
        return explainer

    def _checked_lengths(self, x: Batch, lengths: Any) -> Any:
        if lengths is None:
            return None
        if not self.inputs.lengths:
            raise TypeError(
                "lengths: this explainer takes none; make it with Explainer(model, example, "
                "lengths=True)"
            )
        return arrays.lengths(lengths, x.shape[0], self._steps_of(x))

    def _steps_of(self, x: Batch) -> int:
        return arrays.steps_of(x) if self.any_steps else self.inputs.steps

    def _programs_for(self, x: Batch) -> Programs:
        """Return the programs for the device that explains a batch."""
        return self._programs.on(devices.chosen(self._binding.device, x))

    def _outputs(self, x: Batch, lengths: Any) -> Array:
        """Run a batch forward; outputs have the type and the device of the batch."""
        programs, steps = self._programs_for(x), self._steps_of(x)
        if tensors.stay(programs, x, steps, None, lengths):
            given = programs, self.inputs, cast(torch.Tensor, x), steps
            found = tensors.explain(*given, None, None, None, relevance=False)
            return cast(Array, found.output)
        results = self._run(programs, x, None, lengths, None)
        return arrays.like(self.outputs.shaped(results).output, x)

    def _run(
        self,
        programs: Programs,
        x: Batch,
        target: Any,
        lengths: Any,
        relevance: Any,
        told: Told | None = None,
    ) -> Results:
        """Explain a batch, or run it forward where there is no place for relevance."""
        if lengths is None:
            steps = self._steps_of(x)
            return explain_all(programs, self.inputs, x, target, steps, relevance, told)
        return explain_by_length(programs, self.inputs, x, target, lengths, relevance, told)

    def _explained(
        self, x: Batch, target: Any, lengths: Any, out: Any, told: Told | None
    ) -> tuple[Any, Float32s]:
        """Explain a batch, or each step of its outputs, into ``out`` if it is given.

        Returns the fields of an explanation as a user gets them, and the amplification.
        """
        programs, steps = self._programs_for(x), self._steps_of(x)
        if tensors.stay(programs, x, steps, target, lengths, out):
            given = programs, self.inputs, cast(torch.Tensor, x), steps
            found = tensors.explain(*given, target, out, told)
            return found, tensors.on_host(found.amplification)
        each = is_each_step(target)
        before = x.shape[:1]
        if each:
            shape, axis = steps_of_outputs(programs, self.inputs, steps)
            before = x.shape[0], shape[axis]
        places = arrays.Places.of(out, x, before)
        if each:
            asked = x, lengths, steps, places.relevance, told
            results = explain_each_step(programs, self.inputs, *asked)
        else:
            results = self._run(programs, x, target, lengths, places.relevance, told)
        given_back = arrays.conversion(x)
        columns = [given_back(column) for column in self.outputs.shaped(results)[1:]]
        return (places.given_back(), *columns), results.amplification

    def _table_of_rules(self) -> str:
        """Show the rule of each node, where the model was compiled here."""
        if not self.method.backward:
            return "  (no rules: it compares outputs)"
        source = self._programs.source
        rules = source.rules() if isinstance(source, Compiler) else getattr(source, "rules", ())
        return as_text(rules) if rules else "  (the rules are in the program, without names)"

    def _compiled(self) -> Compiled | AnySteps:
        """Return what is saved; ValueError if no pattern holds for all numbers of steps."""
        source = self._programs.source
        return source.any_steps() if isinstance(source, Compiler) else source

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Return an explainer with the same programs, which nothing changes."""
        return self.__copy__()

    def __copy__(self) -> Self:
        """Return an explainer with the same programs, that warns on its own account."""
        explainer = type(self).__new__(type(self))
        explainer.__dict__.update(self.__dict__)
        explainer._stability = StabilityWarning()
        return explainer

    def _with_options(self, changed: dict[str, Any]) -> Self:
        """Return an explainer with other options of the method, which no program depends on."""
        explainer = self.__copy__()
        explainer.method = type(self.method)(**self.method.options | changed)
        explainer._programs = Replanned(self._programs, explainer.method)
        return explainer


def limits_of(compiled: Compiled | AnySteps) -> Limits:
    """Return the limits that programs were made with."""
    return (compiled if isinstance(compiled, Compiled) else compiled.patterns).program.limits
