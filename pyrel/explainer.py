# SPDX-License-Identifier: Apache-2.0
"""`Explainer`: a model compiled for one explanation method."""

from __future__ import annotations

import inspect
import logging
import operator
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram

from pyrel import methods
from pyrel.compiler.capture.capture import Capture, capture_at
from pyrel.compiler.graph.lookups import told_apart
from pyrel.compiler.graph.nodes import Graph
from pyrel.compiler.program.generalise import TRIED
from pyrel.compiler.program.limits import Limits
from pyrel.engine import arrays
from pyrel.engine import config as runtime
from pyrel.engine.arrays import Array, Float32s, Int64s
from pyrel.engine.checked import NOTHING, Checked
from pyrel.engine.compile import AnySteps, Compiled, Compiler, Programs, Source, compile_graph
from pyrel.engine.graph_reference import GraphReference
from pyrel.engine.inputs import LARGEST_VOCABULARY, Inputs
from pyrel.engine.model_reference import ModelReference, Reference
from pyrel.engine.model_run import ModelRun
from pyrel.engine.precision import check_precision
from pyrel.engine.program_file import (
    dump_program,
    is_named,
    load_program,
    read_program,
    write_program,
)
from pyrel.engine.run import Results, Run
from pyrel.engine.self_check import SelfCheck, check_option
from pyrel.engine.stability import StabilityWarning
from pyrel.errors import UnsupportedModelError
from pyrel.explanation import Explanation
from pyrel.forks import exporting
from pyrel.methods.options import flag

_LOGGER = logging.getLogger("pyrel")


class Captured(NamedTuple):
    """A module that has been captured, as it is now."""

    capture: Capture
    module: torch.nn.Module


Model: TypeAlias = torch.nn.Module | ExportedProgram | Graph | Capture | Captured
Bound: TypeAlias = float | npt.ArrayLike | torch.Tensor


class Explainer:
    """A model compiled for one explanation method.

    Compiling copies the weights: later changes to the model do not show. An explainer may be used
    from several threads at once, and after a fork. `save` and `load` keep it as a file.

    Parameters
    ----------
    model : torch.nn.Module, torch.export.ExportedProgram, Graph or Capture
        Takes one tensor (n, ...) and returns raw scores (n, classes) or (n,); with ``lengths`` it
        may take the lengths of the sequences as a second argument. A module is captured in eval
        mode, whatever mode it is in; a program has to be exported so.
    example : ndarray or Tensor, shape (n, ...), optional
        Any input of the right shape and type; needed for a module only. Integers are token ids.
    method : str or Method
        A name of `pyrel.methods.names()`, or an object such as ``pyrel.methods.DeepTaylor()``.
    low, high : float or array that broadcasts to one sample, optional
        Smallest and largest value that inputs take, ``low <= 0 <= high``. Without them inputs may
        be any real numbers. deep_taylor chooses its rule at the input by them. Token ids have none.
    lengths : bool
        Calls may say how long each sequence is. The model has to take any number of steps.
    check_finite : bool
        Refuse NaN and infinity in inputs and outputs, and relevance that overflows or is lost near
        the ends of float32's range.
    precision : {"float32", "bf16", "bf16_all"}
        "bf16" forms the products of relevance from numbers rounded to bfloat16 (8 significant
        bits), summed in float32; outputs and class stay those of float32. "bf16_all" forms all
        products so, which suits deep_taylor only: gradients change where a ReLU flips. Where no
        target is given, forward passes in float32 decide the class of some samples, and of all
        whose two largest outputs are close by the errors that those show; with 64 samples or fewer
        all are decided so, which costs more than "bf16" does. ``output`` stays what was shared out.
        Both need a processor with products of bfloat16.
    check : {"outputs", "all", None}
        Compare what was compiled with the model, on two samples of the example and on two made of
        its elements in another order (and of another number of steps, where any may be taken): the
        outputs and, for gradient methods, torch autograd's gradient; with "all" also whether
        relevance is conserved, where the method claims that. See `checked` for what was compared;
        None compares nothing.
    **options
        Arguments of the method, where it is given by name; such as ``squared=False``.

    Attributes
    ----------
    method : Method
    input_shape : tuple of int
        Shape of one sample; with ``any_steps``, of one with as many steps as the example had.
    any_steps : bool
        Whether the first axis of a sample, its steps, may have any size: where the model takes
        sequences of any length without a Python loop over their steps. The program for another
        number of steps is made when it is first met.
    classes : int
        Number of raw outputs; see `classes_at` for models that have a score for each step.
    inputs : Inputs
        All that is known of the input: its range, whether it is token ids, whether calls may give
        lengths.
    checked : str
        What was compared with the model when compiling, such as "outputs and gradients on 2 inputs
        × 2 samples, T = 12 and 13", and what could not be.

    Raises
    ------
    UnsupportedModelError
        If the model holds something that pyrel, or the method, has no rule for.
    SelfCheckError
        If what was compiled computes something else than the model (an `UnsupportedModelError`).
    ValueError, TypeError
        If an argument is wrong; the message names it.

    Examples
    --------
    >>> explainer = pyrel.Explainer(model, x[:1], low=0.0, high=1.0)
    >>> e = explainer(x)
    >>> e.relevance.shape == x.shape
    True
    """

    def __init__(
        self,
        model: Model,
        example: Array | None = None,
        method: str | methods.Method = "deep_taylor",
        *,
        low: Bound | None = None,
        high: Bound | None = None,
        lengths: bool = False,
        check_finite: bool = True,
        precision: str = "float32",
        check: str | None = "outputs",
        **options: Any,
    ) -> None:
        isa = runtime.isa()
        precision = check_precision(precision, isa)
        lengths, check_finite = flag("lengths", lengths), flag("check_finite", check_finite)
        check_option(check)
        chosen = methods.get(method, _own_options(), **options)
        source = captured(model, example, lengths)
        compiled: Source
        sample = None
        if isinstance(source, Capture) and source.dynamic:
            sample = _sample(source, example)
        if isinstance(source, Capture) and sample is not None:
            shape, vocabulary, own, padding = sample
            inputs = _inputs(shape, vocabulary, own, True, low, high, lengths, check_finite)
            compiled = Compiler(source, chosen, inputs, precision)
        else:
            graph = source if isinstance(source, Graph) else source.graph(_steps(source, example))
            because = source.fixed_because if isinstance(source, Capture) else None
            if isinstance(source, Capture) and source.dynamic:
                because = "token ids have other bounds at some steps than at others"
            shape, vocabulary, own = graph.input_shape, graph.vocabulary, graph.bounds
            padding = _padding(graph)
            inputs = _inputs(
                shape, vocabulary, own, False, low, high, lengths, check_finite, because or ""
            )
            compiled = compile_graph(graph, chosen, inputs.domain(inputs.steps), precision)
            if inputs.only:
                _LOGGER.info("%s takes %s", chosen, inputs.only)
        self._take(chosen, inputs, NOTHING, compiled, isa)
        if check is not None:
            with exporting:  # no other thread exports the model, or switches its mode, meanwhile
                reference = _reference(model, source, bool(vocabulary))
                self.checked = str(self._check(reference, example, check, precision, padding))

    def _check(
        self, reference: Reference, example: Any, check: str, precision: str, padding: int | None
    ) -> Checked:
        """Compare what was compiled with a reference."""
        source = self._programs.source
        steps = source.other_steps() if isinstance(source, Compiler) else self.inputs.steps
        parts = (self.method, self.inputs, self._programs, precision, check, padding)
        return SelfCheck(reference, *parts).run(example, steps)

    def _take(
        self, method: methods.Method, inputs: Inputs, checked: str, source: Source, isa: str
    ) -> None:
        self._isa = isa
        self._programs = Programs(source, inputs, isa)
        self._stability = StabilityWarning()
        self.method = method
        self.inputs = inputs
        self.checked = checked
        self.input_shape = inputs.shape
        self.any_steps = inputs.any_steps
        self.classes = self._programs.classes_at(inputs.steps)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the compiled program to a file, which `load` reads without the model.

        The file holds the weights as they are, not packed for this machine's instruction set.

        Parameters
        ----------
        path : path
            Replaced in one step if it exists; folders are made as needed. Any name will do;
            the content is a safetensors file.

        Raises
        ------
        TypeError
            If the method is a class of your own: a file can only name the methods of pyrel.
        ValueError
            If the explainer takes any number of steps, and its programs for them follow no pattern.
        OSError
            If the file cannot be written.
        """
        write_program(Path(path), self.method, self.inputs, self._compiled(), self.checked)

    def _compiled(self) -> Compiled | AnySteps:
        """Return what is saved; ValueError if no pattern holds for all numbers of steps."""
        source = self._programs.source
        return source.any_steps() if isinstance(source, Compiler) else source

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, limits: Limits | None = None) -> Explainer:
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
            the message names the file, and the limit.
        """
        if limits is not None and not isinstance(limits, Limits):
            kind = type(limits).__name__
            raise TypeError(f"limits: wanted pyrel.Limits, as pyrel.Limits().times(10), got {kind}")
        explainer = cls.__new__(cls)
        isa = runtime.isa()
        explainer._take(*read_program(Path(path), isa, limits or Limits()), isa)
        return explainer

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle as the bytes that `save` writes, and, if pyrel has no name for it, the method.

        So an explainer travels to other processes, such as those of `multiprocessing` and of a
        ``DataLoader``. What `save` refuses for its steps is refused here, with the same words.
        """
        compiled = self._compiled()
        data = dump_program(self.method, self.inputs, compiled, self.checked)
        method = None if is_named(self.method) else self.method
        return _unpickled, (type(self), data, method, asdict(limits_of(compiled)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Explainer:
        """Return an explainer with the same programs, which nothing changes."""
        return self.__copy__()

    def __copy__(self) -> Explainer:
        """Return an explainer with the same programs, that warns on its own account."""
        explainer = type(self).__new__(type(self))
        explainer.__dict__.update(self.__dict__)
        explainer._stability = StabilityWarning()
        return explainer

    def __repr__(self) -> str:
        """Show method, shapes and instruction set, and why there is one number of steps only."""
        lengths = ", with lengths" if self.inputs.lengths else ""
        takes = f"input {self.inputs}{lengths}"
        only = f", {self.inputs.only}" if self.inputs.only else ""
        return (
            f"Explainer({self.method}, {takes}, {self.classes} outputs, checked: {self.checked}, "
            f"{self._isa}{only})"
        )

    @property
    def flops(self) -> float:
        """Floating-point operations of the products for one sample, forward and backward.

        With ``any_steps``, of one with as many steps as the example had.
        """
        return self._programs.at(self.inputs.steps).core.flops

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

    def __call__(
        self, x: Array, target: Any = None, *, lengths: Any = None, out: Array | None = None
    ) -> Explanation:
        """Explain a batch.

        Parameters
        ----------
        x : ndarray or Tensor of floats, or of integers if the model takes tokens, shape (n, ...)
            Any batch size, zero included. The file of a memory map has to stay as it is during the
            call: where it is cut off, the operating system ends the process.
        target : int or integers of shape (n,), optional
            The class to explain; by default the predicted one, ties to the lowest index.
        lengths : integers of shape (n,), optional
            How many steps each sequence has, from 1 to that of ``x``; by default all that ``x``
            has. What lies beyond is not looked at, and may be NaN or any token id; its relevance is
            0. Results are those of the sequences alone, bit for bit. Needs an explainer made with
            ``lengths=True``.
        out : float32 ndarray or CPU Tensor of the shape of ``x``, optional
            Where to write the relevance; a memory map too.

        Returns
        -------
        Explanation

        Raises
        ------
        ValueError
            If ``x`` has the wrong shape, holds NaN or infinity or a value outside [low, high] or a
            token id that the model has no row for, if a target is no class or a length no number of
            steps, if the model does not hold for that many steps, or if its output or the relevance
            overflows in float32, or comes so near that relevance is lost.
        TypeError
            If an argument has the wrong type.
        """
        self.inputs.check(x)
        n = x.shape[0]
        steps = int(x.shape[1]) if self.any_steps else self.inputs.steps
        if lengths is not None:
            if not self.inputs.lengths:
                raise TypeError(
                    "lengths: this explainer takes none; make it with Explainer(model, example, "
                    "lengths=True)"
                )
            lengths = arrays.lengths(lengths, n, steps)
        relevance = arrays.result(out, x)
        if lengths is None:
            results = self._full(x, target, steps, relevance)
        else:
            results = self._by_length(x, target, lengths, relevance)
        if self.method.conserves:
            self._stability.check(results.amplification)
        given = arrays.like(relevance, x) if out is None else out
        return Explanation(given, *[arrays.like(column, x) for column in results[1:]])

    def _full(self, x: Array, target: Any, steps: int, relevance: Float32s) -> Results:
        """Explain samples that all have the steps that ``x`` has."""
        loaded = self._programs.at(steps if len(x) else self.inputs.steps)
        targets = arrays.targets(target, len(x), loaded.classes)
        results = Results.places(relevance, len(x), loaded.classes)
        run = Run(x, loaded, self.inputs)
        for first, values in arrays.pieces(x):
            run.explain(values, targets, results, first)
        return results

    def _by_length(self, x: Array, target: Any, lengths: Int64s, relevance: Float32s) -> Results:
        """Explain sequences of equal length together, by the program for that number of steps."""
        targets = arrays.targets(target, len(x), self.classes)
        results = Results.places(relevance, len(x), self.classes)
        order = np.argsort(lengths, kind="stable")
        for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
            steps = int(lengths[group[0]])
            loaded = self._programs.at(steps)
            if loaded.classes != self.classes:
                raise ValueError(
                    f"lengths: the model has {loaded.classes} outputs for {steps} steps, and "
                    f"{self.classes} for {self.inputs.steps}; one number of outputs is wanted"
                )
            run = Run(x, loaded, self.inputs)
            at_once = arrays.samples_in_a_piece(loaded.shape)
            for first in range(0, group.size, at_once):
                some = group[first : first + at_once]
                values = arrays.taken(x, some, steps)
                part = Results.places(np.empty(values.shape, np.float32), some.size, self.classes)
                run.explain(values, None if targets is None else targets[some], part, 0, some)
                relevance[some, :steps] = part.relevance
                relevance[some, steps:] = 0.0
                results.put(some, part)
        return results

    def attribute(self, inputs: Array, target: Any = None) -> Any:
        """Relevance alone, under the name that captum and Quantus call."""
        return self(inputs, target).relevance


def limits_of(compiled: Compiled | AnySteps) -> Limits:
    """Return the limits that programs were made with."""
    return (compiled if isinstance(compiled, Compiled) else compiled.patterns).program.limits


def _unpickled(
    cls: type[Explainer], data: bytes, method: methods.Method | None, limits: dict[str, Any]
) -> Explainer:
    explainer = cls.__new__(cls)
    isa, source = runtime.isa(), "a pickled explainer"
    explainer._take(*load_program(data, isa, source, Limits(**limits), method), isa)
    return explainer


def captured(model: Any, example: Array | None, lengths: bool) -> Graph | Capture:
    """Capture a model that is not captured yet, one at a time."""
    if isinstance(model, Captured):
        return model.capture
    if isinstance(model, Graph | Capture):
        return model
    with exporting:  # torch.export is not safe to run in several threads
        return capture_at(model, example, lengths=lengths)


def _reference(model: Model, source: Graph | Capture, ids: bool) -> Reference:
    """Return what a program is compared with: the model, or where there is none, its graph."""
    if isinstance(model, Captured):
        model = model.module
    if isinstance(model, torch.nn.Module | ExportedProgram):
        assert isinstance(source, Capture)
        return ModelReference(ModelRun(model, source.called_with_lengths), ids)
    return GraphReference(source)


def _steps(source: Capture, example: Any) -> int:
    """How many steps the example has, where those of the capture can be others."""
    shape: tuple[int, ...] = tuple(getattr(example, "shape", ()))
    return shape[1] if source.dynamic and len(shape) > 1 else source.steps


def _padding(graph: Graph) -> int | None:
    """Return a token id that the model tells from others, as that of padding."""
    return next(iter(told_apart(graph.nodes)), None)


def _sample(
    source: Capture, example: Any
) -> tuple[tuple[int, ...], int, Int64s | None, int | None] | None:
    """Shape of a sample with the steps of the example; how many tokens there are, by element too.

    Last comes a token id that the model tells from others.

    A step that no table reads, as the last where the next token is predicted, counts as the others.
    None where others differ, as in (n, columns): no number of them says what another would take.
    """
    steps = _steps(source, example)
    few = next((n for n in TRIED if n < steps and source.holds(n)), steps)  # that takes less time
    graph = source.graph(few)
    shape = (steps, *graph.input_shape[1:])
    padding = _padding(graph)
    if graph.bounds is None:
        return shape, graph.vocabulary, None, padding
    bounds = _alike_at_all_steps(graph.bounds)
    if bounds is None:
        return None
    uniform = bool((bounds == graph.vocabulary).all())
    own = None if uniform else np.broadcast_to(bounds, shape).copy()
    return shape, graph.vocabulary, own, padding


def _alike_at_all_steps(bounds: Int64s) -> Int64s | None:
    """Return the bounds of one step, if all steps have these or none."""
    highest = bounds.max(axis=0, keepdims=True)
    return highest if ((bounds == highest) | (bounds == 0)).all() else None


def _inputs(
    shape: tuple[int, ...],
    vocabulary: int,
    own: Int64s | None,
    any_steps: bool,
    low: Any,
    high: Any,
    lengths: bool,
    check_finite: bool,
    because: str = "",
) -> Inputs:
    """Describe what is taken, and refuse a range or lengths that make no sense with the model."""
    if vocabulary and (low is not None or high is not None):
        raise ValueError(
            "low, high: the model takes token ids, whose range is that of its table; leave them out"
        )
    if vocabulary > LARGEST_VOCABULARY:
        raise UnsupportedModelError(
            f"its table has {vocabulary:,} rows; the engine takes token ids below "
            f"{LARGEST_VOCABULARY:,}",
            operator="embedding",
        )
    low, high = arrays.bounds(low, high, shape) or (None, None)
    inputs = Inputs(shape, low, high, vocabulary, any_steps, lengths, check_finite, because, own)
    if lengths and not any_steps:
        why = f" (what fixes their number: {because})" if because else ""
        raise UnsupportedModelError(
            f"lengths=True is for models that take any number of steps; this one takes {inputs} "
            f"only{why}. A Python loop over the steps fixes their number, recurrent layers such as "
            "nn.LSTM leave it open; an exported program needs a dynamic second dimension",
            operator="lengths",
        )
    if lengths and not inputs.same_at_all_steps:
        raise ValueError("low, high: with lengths=True they have to be the same for all steps")
    return inputs


def _own_options() -> list[str]:
    """Name the options of an explainer that are not of its method."""
    parameters = inspect.signature(Explainer.__init__).parameters.values()
    return [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
