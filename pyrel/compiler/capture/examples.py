# SPDX-License-Identifier: Apache-2.0
"""Checks the example that a model is exported with, and explains why one does not fit."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from inspect import Parameter
from typing import Any, TypeAlias

import numpy.typing as npt
import torch
from torch.nn.parameter import is_lazy

from pyrel.compiler.capture.array_kinds import refuse_unreadable
from pyrel.compiler.capture.isolation import as_it_was, quiet
from pyrel.compiler.capture.refusals import own_failure, shape_of_batch
from pyrel.errors import UnsupportedModelError

Example: TypeAlias = npt.NDArray[Any] | torch.Tensor

POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
_IDS = ("int", "uint")  # how the types of an example of token ids begin


def unwrapped(model: torch.nn.Module) -> torch.nn.Module:
    """Return the user's module inside torch.compile's or DataParallel's.

    Raises
    ------
    UnsupportedModelError
        If the wrapper has hooks, which the module inside does not call.
    """
    parallel = isinstance(model, torch.nn.DataParallel)
    inner = model.module if parallel else getattr(model, "_orig_mod", None)
    if not isinstance(inner, torch.nn.Module):
        return model
    if any(getattr(model, hooks) for hooks in _HOOKS):
        raise UnsupportedModelError(
            "hooks of a wrapper, which pyrel takes off; register them on the "
            f"{type(inner).__name__} inside",
            operator=type(model).__name__,
        )
    return unwrapped(inner)


def refuse_empty(model: torch.nn.Module) -> None:
    """Refuse parameters and buffers without values, such as those of the meta device.

    Raises
    ------
    TypeError
        If there is one; the message names it.
    """
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if is_lazy(tensor):
            raise TypeError(
                f"model: {name} is not made yet, as the module is lazy; call the model once"
            )
        refuse_unreadable(f"model: {name}", tensor, "a tensor with values")


def takes_lengths(model: torch.nn.Module, batch: torch.Tensor) -> bool:
    """Whether a second argument of forward must be given, or is called lengths.

    A forward with ``*args`` that hands them on takes lengths if it runs with them.
    """
    given = inspect.signature(model.forward).parameters.values()
    arguments = [p for p in given if p.kind in POSITIONAL]
    if len(arguments) < 2:
        takes_any = any(p.kind == Parameter.VAR_POSITIONAL for p in given)
        return takes_any and batch.dim() > 1 and _failure(model, batch, True) is None
    return arguments[1].default is Parameter.empty or "len" in arguments[1].name


def example_tensor(model: torch.nn.Module, example: Example) -> torch.Tensor:
    """Return a batch of two zeros of the example's shape, or refuse an example of no shape."""
    refuse_example(example)
    return _zeros(model, example.shape[1:], _are_ids(example))


def refuse_example(example: Example) -> None:
    """Refuse what is no array or tensor of samples with elements."""
    refuse_unreadable("example", example)
    if not example.shape:
        raise ValueError(f"example: wanted shape (n, ...), batch first, got {tuple(example.shape)}")
    if 0 in example.shape[1:]:
        raise ValueError(f"example: a sample has no elements, the shape is {tuple(example.shape)}")


def _are_ids(example: Example) -> bool:
    return str(example.dtype).removeprefix("torch.").startswith(_IDS)


def _zeros(model: torch.nn.Module, shape: Sequence[int], ids: bool) -> torch.Tensor:
    """Return a batch of two, because export fixes a batch size of zero or one; any values do."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return torch.zeros(2, *shape, dtype=torch.int64 if ids else like.dtype, device=device)


def batch_of(sample: torch.Tensor, n: int) -> torch.Tensor:
    """Return a batch of ``n`` times the first sample."""
    return sample[:1].expand(n, *sample.shape[1:]).clone()


def arguments(batch: torch.Tensor, lengths: bool) -> tuple[torch.Tensor, ...]:
    """Return what a model is called with: a batch and, if it takes them, lengths that are full."""
    if not lengths:
        return (batch,)
    return batch, torch.full(batch.shape[:1], batch.shape[1], device=batch.device)


def wrong_example(
    model: torch.nn.Module, example: Example, lengths: bool
) -> UnsupportedModelError | ValueError | TypeError | None:
    """Say what is wrong with an example, if the model does not take it.

    It may take one like it: with another dimension in front, or with integers instead of floats, or
    both.
    """
    model = unwrapped(model)
    shape, ids = tuple(example.shape), _are_ids(example)
    lengths = lengths and takes_lengths(model, _zeros(model, shape[1:], ids))
    batch = _zeros(model, shape[1:], ids)
    failure = _failure(model, batch, lengths)
    if failure is None:
        return None
    for of_batch, of_ids in ((shape[1:], not ids), (shape, ids), (shape, not ids)):
        if 0 in of_batch or _failure(model, _zeros(model, of_batch, of_ids), lengths) is not None:
            continue
        kind = "integers (token ids)" if of_ids else "floats"
        message = (
            f"example: wanted {kind} of shape {shape_of_batch(of_batch)}, got dtype "
            f"{example.dtype} and shape {shape}"
        )
        if of_batch == shape[1:]:
            return TypeError(message)
        return ValueError(f"{message}; that is one sample: give a batch of one, x[None]")
    own = own_failure(model, batch, failure)
    own.__cause__ = failure
    return own


def _failure(model: torch.nn.Module, batch: torch.Tensor, lengths: bool) -> Exception | None:
    """Run a model as it is; return what it raises, if it does with gradients and without."""
    found = None
    for gradients in (False, True):  # some compute gradients themselves, some write into weights
        found = _failure_of_mode(model, batch, lengths, gradients)
        if found is None:
            break
    return found


def _failure_of_mode(
    model: torch.nn.Module, batch: torch.Tensor, lengths: bool, gradients: bool
) -> Exception | None:
    mode = torch.enable_grad if gradients else torch.no_grad
    try:
        with as_it_was(model, values=True), mode(), quiet(), torch.random.fork_rng():
            model(*arguments(batch, lengths))
    except Exception as error:  # of whatever type the model raises
        return error
    return None
