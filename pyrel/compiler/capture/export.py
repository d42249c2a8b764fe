# SPDX-License-Identifier: Apache-2.0
"""Exports a torch model, for open sizes where it allows them, and leaves it as it was."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch.export import Dim, ExportedProgram

from pyrel.compiler.capture.as_eager import as_eager
from pyrel.compiler.capture.autograd_watch import watched
from pyrel.compiler.capture.examples import (
    POSITIONAL,
    Example,
    arguments,
    batch_of,
    example_tensor,
    takes_lengths,
    unwrapped,
)
from pyrel.compiler.capture.isolation import as_it_was, quiet
from pyrel.compiler.capture.opaque_layers import opaque_layers, shortened
from pyrel.compiler.capture.refusals import (
    branches,
    depends_on_batch,
    lacks_argument,
    no_draws,
    refusal,
)
from pyrel.compiler.capture.sizes import bounds_the_batch, first_input, fixed
from pyrel.compiler.capture.step_causes import Causes


def export(
    model: torch.nn.Module, example: Example, lengths: bool = False, causes: Causes | None = None
) -> list[ExportedProgram]:
    """Export ``model`` in eval mode for any batch size, and again for single sizes to compare with.

    torch.export lets a program depend on the size of the batch: a branch on it is decided by the
    example. So the model is exported for a batch of one too, if it takes one, or else of another.
    Where it makes a number of the batch size, as ``len(x)`` does, there are fixed sizes only. The
    second dimension, that of the steps, stays open where the model allows it. ``lengths`` gives a
    model that takes two inputs the lengths of the sequences. ``causes`` records the
    guards of the first program.
    """
    causes = Causes() if causes is None else causes
    model = unwrapped(model)
    sample = example_tensor(model, example)
    lengths = lengths and takes_lengths(model, sample)
    # Sizes that are equal to each other torch.export takes for one.
    sizes = (3, 2) if 2 in sample.shape[1:2] else (2, 3)
    try:
        programs = [_export_open(model, batch_of(sample, sizes[0]), lengths, causes)]
    except Exception as error:  # torch.export raises many types, none of them documented
        if not _fixes_the_batch(error):
            raise refusal(model, sample, error, lengths) from error
        causes.keep_batch(sizes[0])
        try:
            first = _export_open(model, batch_of(sample, sizes[0]), lengths, causes, Dim.STATIC)
            other = batch_of(sample, sizes[1])
            programs = [first, _export_once(model, other, lengths, steps=_freedom(first))]
        except Exception as error:
            raise refusal(model, sample, error, lengths) from error
    if bounds_the_batch(programs[0]):
        raise depends_on_batch(causes.first_use(first_input(programs[0]).shape[0]))
    steps = _freedom(programs[0])
    return [*programs, _export_to_compare(model, sample, sizes[1], lengths, steps)]


def export_one_step(
    model: torch.nn.Module, example: Example, lengths: bool = False
) -> list[ExportedProgram]:
    """Export for a sequence of one step, which an open number of steps does not include.

    An open size is at least two for torch.export. `export` checks an open batch size; here two
    fixed batch sizes are enough, which takes a third of the time.
    """
    model = unwrapped(model)
    sample = example_tensor(model, example[:, :1])
    lengths = lengths and takes_lengths(model, sample)
    try:
        program = _export_once(model, batch_of(sample, 2), lengths, steps=Dim.STATIC)
    except Exception as error:  # torch.export raises many types, none of them documented
        raise refusal(model, sample, error, lengths) from error
    return [program, _export_to_compare(model, sample, 3, lengths, Dim.STATIC)]


def _export_to_compare(
    model: torch.nn.Module, sample: torch.Tensor, other: int, lengths: bool, steps: Any
) -> ExportedProgram:
    """Export for a batch of one, or of another size if the model does not take one sample alone."""
    try:
        return _export_once(model, batch_of(sample, 1), lengths, steps=steps)
    except Exception:  # a model may well not take one sample alone: that is no obstacle
        pass
    try:
        return _export_once(model, batch_of(sample, other), lengths, steps=steps)
    except Exception as error:
        raise refusal(model, sample, error, lengths) from error


def export_shortened(model: torch.nn.Module, example: Example) -> ExportedProgram | None:
    """Export as for a batch of token ids of which no packed sequence is as long as the batch.

    None where the model does not take such batches.
    """
    model = unwrapped(model)
    sample = example_tensor(model, example)
    try:
        with shortened():
            return _export_once(model, batch_of(sample, 3), False, Dim.AUTO)
    except Exception:  # torch.export raises many types, none of them documented
        return None


def _export_open(
    model: torch.nn.Module,
    batch: torch.Tensor,
    lengths: bool,
    causes: Causes,
    size: Any = Dim.DYNAMIC,
) -> ExportedProgram:
    """Export for any batch size, and any number of steps unless that fails."""
    try:
        with causes.noted(model):
            return _export_once(model, batch, lengths, size)
    except Exception as error:
        if _fixes_the_batch(error) or branches(error) or lacks_argument(error):
            raise
    return _export_once(model, batch, lengths, size, steps=Dim.STATIC)


def _freedom(program: ExportedProgram) -> Any:
    """Freedom of the number of steps with which a program could be exported."""
    shape = first_input(program).shape
    return Dim.AUTO if len(shape) < 2 or fixed(shape[1]) is None else Dim.STATIC


def _export_once(
    model: torch.nn.Module,
    batch: torch.Tensor,
    lengths: bool,
    size: Any = Dim.STATIC,
    steps: Any = Dim.AUTO,
) -> ExportedProgram:
    """Export with the given freedom of the batch size and of the number of steps."""
    shapes = [{0: size, 1: steps} if batch.dim() > 1 else {0: size}]
    if lengths:
        shapes.append({0: size})
    inputs = arguments(batch, lengths)
    with as_it_was(model), as_eager(), opaque_layers(), watched(model), quiet():
        _name_inputs(model, len(inputs))
        with no_draws():
            return torch.export.export(model, inputs, dynamic_shapes=tuple(shapes), strict=False)


def _name_inputs(model: torch.nn.Module, count: int) -> None:
    """Give a forward that takes ``*args`` the names that torch.export describes sizes by.

    The caller takes back what this assigns to the model.
    """
    forward = model.forward
    given = list(inspect.signature(forward).parameters.values())[:count]
    if len(given) == count and all(parameter.kind in POSITIONAL for parameter in given):
        return

    def of_one(x: torch.Tensor) -> Any:
        return forward(x)

    def of_two(x: torch.Tensor, lengths: torch.Tensor) -> Any:
        return forward(x, lengths)

    model.__dict__["forward"] = of_one if count == 1 else of_two


def _fixes_the_batch(error: Exception) -> bool:
    return "Constraints violated" in str(error) or "specialized" in str(error)
