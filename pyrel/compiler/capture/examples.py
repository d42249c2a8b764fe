# SPDX-License-Identifier: Apache-2.0
"""Checks the example that a model is exported with, and explains why one does not fit."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from inspect import Parameter
from typing import Any, TypeAlias

import numpy.typing as npt
import torch
from torch.nn.parameter import is_lazy

from pyrel.compiler.capture.array_kinds import refuse_unreadable, refuse_unreadable_weight
from pyrel.compiler.capture.calls import POSITIONAL, Call, is_called_lengths, read_call
from pyrel.compiler.capture.isolation import as_it_was, quiet
from pyrel.compiler.capture.refusals import own_failure, shape_of_batch
from pyrel.compiler.graph.layout import Kind, is_structure, kind_of, parts_of, path_text
from pyrel.errors import UnsupportedModelError

Example: TypeAlias = npt.NDArray[Any] | torch.Tensor
# Of several inputs a structure, as a call gives them.
Given: TypeAlias = Example | tuple[Any, ...] | Mapping[str, Any]

_HOOKS = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")


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
        refuse_unreadable_weight(name, tensor)


@dataclass(frozen=True)
class Sample:
    """Zeros of the shapes of an example, and how a model is called with such.

    Attributes
    ----------
    tensors : tuple of Tensor
        A batch of two; one, or those of several inputs in the order of their layout.
    call : Call or None
        Of several inputs.
    lengths : bool
        Whether the lengths of the sequences are an argument more.
    tied : frozenset of int
        Inputs whose steps are as many as the first one's, as nothing in the model says.
    """

    tensors: tuple[torch.Tensor, ...]
    call: Call | None = None
    lengths: bool = False
    tied: frozenset[int] = frozenset()

    @property
    def first(self) -> torch.Tensor:
        """The input whose second dimension is that of the steps, if there is one."""
        return self.tensors[0]

    def follows(self, number: int) -> bool:
        """Whether the second dimension of an input may be that of the steps."""
        if self.call is None:
            return self.first.dim() > 1
        return self.call.layout.leaves[number].steps

    def of(self, n: int) -> tuple[torch.Tensor, ...]:
        """Return a batch of ``n``; with lengths that are full, if they are taken."""
        batch = tuple(batch_of(each, n) for each in self.tensors)
        if not self.lengths:
            return batch
        return *batch, torch.full((n,), self.first.shape[1], device=self.first.device)

    def arguments(self, given: tuple[torch.Tensor, ...]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a batch as arguments by position and by name."""
        return (given, {}) if self.call is None else self.call.arguments(given)

    def __str__(self) -> str:
        """Say what they are, such as "an input of shape (n, 12, 8)"."""
        shapes = [shape_of_batch(each.shape[1:]) for each in self.tensors]
        if self.call is None:
            ids = "" if self.first.is_floating_point() else " of token ids"
            return f"an input{ids} of shape {shapes[0]}"
        named = (f"{n} {shape}" for n, shape in zip(self.call.layout.names, shapes, strict=True))
        return f"the inputs {', '.join(named)}"


def sample_of(model: torch.nn.Module, example: Any, lengths: bool) -> Sample:
    """Return zeros of the shapes of an example, or refuse an example that has none."""
    call = read_call(model, example, lengths)
    if call is None:
        refuse_example(example)
        tensor = _zeros(model, example.shape[1:], kind_of(example))
        sample = Sample((tensor,))
        return replace(sample, lengths=lengths and takes_lengths(model, sample))
    leaves = call.layout.leaves
    tensors = tuple(_zeros(model, leaf.shape, leaf.elements) for leaf in leaves)
    return Sample(tensors, call, call.lengths is not None)


def takes_lengths(model: torch.nn.Module, sample: Sample) -> bool:
    """Whether a second argument of forward must be given, or is called lengths.

    A forward with ``*args`` that hands them on takes lengths if it runs with them.
    """
    given = inspect.signature(model.forward).parameters.values()
    arguments = [p for p in given if p.kind in POSITIONAL]
    if len(arguments) < 2:
        takes_any = any(p.kind == Parameter.VAR_POSITIONAL for p in given)
        tried = replace(sample, lengths=True)
        return takes_any and sample.first.dim() > 1 and _failure(model, tried) is None
    return arguments[1].default is Parameter.empty or is_called_lengths(arguments[1].name)


def refuse_given(example: Any) -> None:
    """Refuse what is no array or tensor of samples with elements, nor a structure of such."""
    if not is_structure(example):
        refuse_example(example)
        return
    for path, each in parts_of(example).items():
        refuse_example(each, path_text(path))


def refuse_example(example: Example, name: str = "example") -> None:
    """Refuse what is no array or tensor of samples with elements."""
    refuse_unreadable(name, example)
    if not example.shape:
        raise ValueError(f"{name}: wanted shape (n, ...), batch first, got {tuple(example.shape)}")
    if 0 in example.shape[1:]:
        raise ValueError(f"{name}: a sample has no elements, the shape is {tuple(example.shape)}")


def _zeros(model: torch.nn.Module, shape: Sequence[int], kind: Kind) -> torch.Tensor:
    """Return a batch of two, because export fixes a batch size of zero or one; any values do."""
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    dtype = {Kind.ids: torch.int64, Kind.masks: torch.bool}.get(kind, like.dtype)
    return torch.zeros(2, *shape, dtype=dtype, device=device)


def batch_of(sample: torch.Tensor, n: int) -> torch.Tensor:
    """Return a batch of ``n`` times the first sample."""
    return sample[:1].expand(n, *sample.shape[1:]).clone()


def wrong_example(
    model: torch.nn.Module, example: Any, lengths: bool
) -> UnsupportedModelError | ValueError | TypeError | None:
    """Say what is wrong with an example, if the model does not take it.

    It may take one like it: with another dimension in front, or with integers instead of floats, or
    both.
    """
    model = unwrapped(model)
    sample = sample_of(model, example, lengths)
    failure = _failure(model, sample)
    if failure is None:
        return None
    found: UnsupportedModelError | ValueError | TypeError | None = None
    if sample.call is None:
        found = _other_example(model, example, sample)
    if found is None:
        found = own_failure(model, str(sample), failure)
        found.__cause__ = failure
    return found


def _other_example(
    model: torch.nn.Module, example: Example, sample: Sample
) -> ValueError | TypeError | None:
    """Find an example that the model takes, and say what it is."""
    shape, kind = tuple(example.shape), kind_of(example)
    other = Kind.floats if kind == Kind.ids else Kind.ids
    for of_batch, of_kind in ((shape[1:], other), (shape, kind), (shape, other)):
        tried = replace(sample, tensors=(_zeros(model, of_batch, of_kind),))
        if 0 in of_batch or _failure(model, tried) is not None:
            continue
        wanted = "integers (token ids)" if of_kind == Kind.ids else "floats"
        message = (
            f"example: wanted {wanted} of shape {shape_of_batch(of_batch)}, got dtype "
            f"{example.dtype} and shape {shape}"
        )
        if of_batch == shape[1:]:
            return TypeError(message)
        return ValueError(f"{message}; that is one sample: give a batch of one, x[None]")
    return None


def _failure(model: torch.nn.Module, sample: Sample) -> Exception | None:
    """Run a model as it is; return what it raises, if it does with gradients and without."""
    found = None
    for gradients in (False, True):  # some compute gradients themselves, some write into weights
        found = _failure_of_mode(model, sample, gradients)
        if found is None:
            break
    return found


def _failure_of_mode(model: torch.nn.Module, sample: Sample, gradients: bool) -> Exception | None:
    mode = torch.enable_grad if gradients else torch.no_grad
    try:
        with as_it_was(model, values=True), mode(), quiet(), torch.random.fork_rng():
            positional, named = sample.arguments(sample.of(2))
            model(*positional, **named)
    except Exception as error:  # of whatever type the model raises
        return error
    return None
