# SPDX-License-Identifier: Apache-2.0
"""Exports a torch model, for open sizes where it allows them, and leaves it as it was."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from inspect import Parameter
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from pyrel.compiler.capture.as_eager import as_eager
from pyrel.compiler.capture.autograd_watch import watched
from pyrel.compiler.capture.calls import POSITIONAL, Call
from pyrel.compiler.capture.examples import Sample, sample_of, unwrapped
from pyrel.compiler.capture.isolation import as_it_was, quiet
from pyrel.compiler.capture.opaque_layers import opaque_layers, shortened
from pyrel.compiler.capture.refusals import (
    branches,
    depends_on_batch,
    lacks_argument,
    no_draws,
    refusal,
)
from pyrel.compiler.capture.sizes import (
    bounds_the_batch,
    excluded_batches,
    first_input,
    fixed,
    untied,
)
from pyrel.compiler.capture.small_sizes import SmallSizes
from pyrel.compiler.capture.spared import spared
from pyrel.compiler.capture.step_causes import Causes, FixedBatchError
from pyrel.compiler.graph.layout import input_name

_LARGEST_BATCH = 1 << 10  # that a model is exported for, to see what it does for that alone


def export(
    model: torch.nn.Module, example: Any, lengths: bool = False, causes: Causes | None = None
) -> list[ExportedProgram]:
    """Export ``model`` in eval mode for any batch size, and again for single sizes to compare with.

    torch.export lets a program depend on the size of the batch: a branch on it is decided by the
    example. So the model is exported for a batch of one too, if it takes one, or else of another,
    unless it runs the same operators for one (`pyrel.compiler.capture.small_sizes`), and for sizes
    that a guard leaves out.
    Where it makes a number of the batch size, as ``len(x)`` does, there are fixed sizes only. The
    second dimension, that of the steps, stays open where the model allows it. ``lengths`` gives a
    model that takes two inputs the lengths of the sequences. ``causes`` records the
    guards of the first program.
    """
    causes = Causes() if causes is None else causes
    model = unwrapped(model)
    sample = sample_of(model, example, lengths)
    # Sizes that are equal to each other torch.export takes for one.
    sizes = (3, 2) if 2 in sample.first.shape[1:2] else (2, 3)
    try:
        programs = [_export_open(model, sample, sizes[0], causes)]
        sample = _tied(sample, programs[0])
        if sample.tied:
            programs = [_export_open(model, sample, sizes[0], causes)]
    except Exception as error:  # torch.export raises many types, none of them documented
        if not _fixes_the_batch(error):
            raise refusal(model, str(sample), error, sample.lengths) from error
        causes.keep_batch(sizes[0])
        try:
            first = _export_open(model, sample, sizes[0], causes, Dim.STATIC)
            other = _export_once(model, sample, sizes[1], steps=_freedom(first))
            programs = [first, other]
        except Exception as error:
            raise refusal(model, str(sample), error, sample.lengths) from error
    excluded_sizes = excluded_batches(programs[0])
    if bounds_the_batch(programs[0]) or any(n > _LARGEST_BATCH for n in excluded_sizes):
        raise depends_on_batch(causes.first_use(first_input(programs[0]).shape[0]))
    steps = _freedom(programs[0])
    for excluded in excluded_sizes:
        with contextlib.suppress(Exception):  # of any type, where the model does not take it
            programs.append(_export_once(model, sample, excluded, steps=steps))
    if SmallSizes(model, sample, programs[0]).one_sample_is_alike():
        return programs
    return [*programs, _export_to_compare(model, sample, sizes[1], steps)]


def _tied(sample: Sample, program: ExportedProgram) -> Sample:
    """Let steps be as many that are so in the example, and that a program leaves open apart."""
    if sample.call is None:
        return sample
    return replace(sample, tied=untied(sample.call.layout, program))


def export_one_step(
    model: torch.nn.Module,
    example: Any,
    lengths: bool,
    call: Call | None,
    program: ExportedProgram,
) -> list[ExportedProgram]:
    """Export for a sequence of one step, which an open number of steps does not include.

    The ``program`` for an open number does if the model runs the same operators for one step. An
    open size is at least two for torch.export. `export` checks an open batch size; here two
    fixed batch sizes are enough, which takes a third of the time.
    """
    model = unwrapped(model)
    sample = sample_of(model, example, lengths)
    sample = replace(sample, call=call)  # which knows what has steps
    if SmallSizes(model, sample, program).one_step_is_alike():
        return [program]
    sample = replace(sample, tensors=tuple(_one_step(sample)))
    try:
        program = _export_once(model, sample, 2, steps=Dim.STATIC)
    except Exception as error:  # torch.export raises many types, none of them documented
        raise refusal(model, str(sample), error, sample.lengths) from error
    return [program, _export_to_compare(model, sample, 3, Dim.STATIC)]


def _one_step(sample: Sample) -> Iterator[torch.Tensor]:
    """Yield what is left of a sample of which the first step is taken."""
    for number, tensor in enumerate(sample.tensors):
        yield tensor[:, :1] if sample.follows(number) else tensor


def _export_to_compare(
    model: torch.nn.Module, sample: Sample, other: int, steps: Any
) -> ExportedProgram:
    """Export for a batch of one, or of another size if the model does not take one sample alone."""
    try:
        return _export_once(model, sample, 1, steps=steps)
    except Exception:  # a model may well not take one sample alone: that is no obstacle
        pass
    try:
        return _export_once(model, sample, other, steps=steps)
    except Exception as error:
        raise refusal(model, str(sample), error, sample.lengths) from error


def export_shortened(model: torch.nn.Module, example: Any) -> ExportedProgram | None:
    """Export as for a batch of token ids of which no packed sequence is as long as the batch.

    None where the model does not take such batches.
    """
    model = unwrapped(model)
    sample = sample_of(model, example, False)
    try:
        with shortened():
            return _export_once(model, sample, 3, Dim.AUTO)
    except Exception:  # torch.export raises many types, none of them documented
        return None


def _export_open(
    model: torch.nn.Module,
    sample: Sample,
    n: int,
    causes: Causes,
    size: Any = Dim.DYNAMIC,
) -> ExportedProgram:
    """Export for any batch size, and any number of steps unless that fails."""
    try:
        with causes.noted(model, n):
            return _export_once(model, sample, n, size)
    except Exception as error:
        if _fixes_the_batch(error) or branches(error) or lacks_argument(error):
            raise
    return _export_once(model, sample, n, size, steps=Dim.STATIC)


def _freedom(program: ExportedProgram) -> Any:
    """Freedom of the number of steps with which a program could be exported."""
    shape = first_input(program).shape
    return Dim.AUTO if len(shape) < 2 or fixed(shape[1]) is None else Dim.STATIC


def _export_once(
    model: torch.nn.Module,
    sample: Sample,
    n: int,
    size: Any = Dim.STATIC,
    steps: Any = Dim.AUTO,
) -> ExportedProgram:
    """Export a batch with the given freedom of its size and of the number of steps."""
    inputs = sample.of(n)
    follow = [sample.follows(number) for number in range(len(sample.tensors))]
    follow += [False] * (len(inputs) - len(follow))  # lengths
    shapes: list[dict[int, Any]] = [{0: size, 1: steps} if f else {0: size} for f in follow]
    with as_it_was(model), as_eager(), opaque_layers(), spared(), watched(model), quiet():
        _name_inputs(model, sample, len(inputs))
        with no_draws():
            return torch.export.export(model, inputs, dynamic_shapes=tuple(shapes), strict=False)


def _name_inputs(model: torch.nn.Module, sample: Sample, count: int) -> None:
    """Give a forward the names that torch.export describes sizes by.

    That is, one which takes ``*args``, or several inputs: all of these by position. The caller
    takes back what this assigns to the model.
    """
    forward = model.forward
    if sample.call is not None:
        model.__dict__["forward"] = _by_position(forward, sample, count)
        return
    given = list(inspect.signature(forward).parameters.values())[:count]
    if len(given) == count and all(parameter.kind in POSITIONAL for parameter in given):
        return

    def of_one(x: torch.Tensor) -> Any:
        return forward(x)

    def of_two(x: torch.Tensor, lengths: torch.Tensor) -> Any:
        return forward(x, lengths)

    model.__dict__["forward"] = of_one if count == 1 else of_two


def _by_position(forward: Callable[..., Any], sample: Sample, count: int) -> Callable[..., Any]:
    def called(*tensors: torch.Tensor) -> Any:
        for number in sample.tied:
            same = tensors[number].shape[1] == tensors[0].shape[1]
            torch._check(same)  # type: ignore[no-untyped-call]
        positional, named = sample.arguments(tensors)
        return forward(*positional, **named)

    names = (input_name(number) for number in range(count))
    parameters = [Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names]
    vars(called)["__signature__"] = inspect.Signature(parameters)
    return called


def _fixes_the_batch(error: Exception) -> bool:
    if isinstance(error, FixedBatchError):
        return True
    return "Constraints violated" in str(error) or "specialized" in str(error)
