# SPDX-License-Identifier: Apache-2.0
"""Exports a model so that what it does to gradients shows: see `gradient_marks`.

Custom functions, backward hooks of modules and ``inference_mode`` are no functions that a mode is
called for, so what torch calls for them is replaced for the exporting thread.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, _SingleLevelFunction
from torch.fx import traceback
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction

from pyrel.compiler.capture.gradient_marks import (
    Watch,
    marked_gradient,
    name_of,
    noted_line,
    within_function,
)
from pyrel.compiler.capture.places import NO_LINE

_SETS_UP_NOTHING = _SingleLevelFunction.setup_context


class _Context(FunctionCtx):
    """The ``ctx`` of a custom function whose backward pass is never run."""

    dirty_tensors: tuple[torch.Tensor, ...] = ()

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.needs_input_grad = tuple(isinstance(a, torch.Tensor) for a in args)


def _applied(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Run the forward pass of a ``torch.autograd.Function``, and mark what comes out.

    Checkpoints compute the same gradient as without.
    """
    if function is CheckpointFunction:
        return args[0](*args[2:])
    context = _Context(args)
    given = (context, *args) if function.setup_context is _SETS_UP_NOTHING else args
    with within_function(name_of(function)):
        outputs = function.forward(*given, **kwargs)
    what = f"the torch.autograd.Function {name_of(function)}"
    for tensor in context.dirty_tensors:
        tensor.copy_(torch.ops.pyrel.custom_gradient(tensor, what))
    if context.dirty_tensors:
        return outputs
    return marked_gradient(outputs, what)


@contextlib.contextmanager
def _functions_applied() -> Iterator[None]:
    """Let custom functions that this thread applies be marked, under whatever name they go."""
    exporting = threading.get_ident()

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() == exporting:
            return _applied(cls, args, kwargs)
        return super(_SingleLevelFunction, cls).apply(*args, **kwargs)

    base: Any = _SingleLevelFunction
    base.apply = classmethod(apply)
    try:
        yield
    finally:
        del base.apply


class _GradientsOff:
    """Stands for ``torch._C._InferenceMode``: what it made could not be saved for gradients."""

    def __init__(self, mode: bool) -> None:
        self._mode = mode

    def __enter__(self) -> None:
        self._context = torch.set_grad_enabled(not self._mode)

    def __exit__(self, *error: Any) -> None:
        self._context.__exit__(*error)


@contextlib.contextmanager
def _no_inference_mode() -> Iterator[None]:
    """Let ``torch.inference_mode`` turn gradients off in this thread, and no more."""
    exporting, namespace = threading.get_ident(), vars(torch._C)
    context = namespace["_InferenceMode"]

    def made(mode: bool) -> Any:
        return (_GradientsOff if threading.get_ident() == exporting else context)(mode)

    namespace["_InferenceMode"] = made
    try:
        yield
    finally:
        namespace["_InferenceMode"] = context


def _without_backward_hooks(module: Any) -> None:
    """Mark the outputs of a module in place of its backward hooks."""
    parts = "_backward_pre_hooks", "_backward_hooks"
    hooks = [hook for part in parts for hook in getattr(module, part).values()]
    if not hooks:
        return
    for part in parts:
        setattr(module, part, OrderedDict[int, Any]())
    what = f"the backward hook {name_of(hooks[0])} of a module"
    call = module._call_impl

    def marking(*args: Any, **kwargs: Any) -> Any:
        return marked_gradient(call(*args, **kwargs), what)

    module._call_impl = marking


@contextlib.contextmanager
def _inference_parameters_constant(model: nn.Module) -> Iterator[None]:
    """Let parameters made in inference mode need no gradient, which torch would refuse them."""
    made_there = [p for p in model.parameters() if p.is_inference() and p.requires_grad]
    with torch.inference_mode():
        for parameter in made_there:
            parameter.requires_grad_(False)
    try:
        yield
    finally:
        with torch.inference_mode():
            for parameter in made_there:
                parameter.requires_grad_(True)


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[None]:
    """Export with marks. The caller puts back what this assigns to the model's modules."""
    for module in model.modules():
        _without_backward_hooks(module)
    root: Any = model
    call = root._call_impl

    @functools.wraps(call)
    def watching(*args: Any, **kwargs: Any) -> Any:
        # What stands for a parameter may be assigned as one, as weights with dropout are.
        for parameter in root.parameters():
            parameter._is_param = True
        # Inside the modes of torch.export, so that this one is called first.
        watch = Watch(pytree.tree_leaves((args, kwargs)))
        with noted_line(None), watch.kept, watch, _no_inference_mode():
            return call(*args, **kwargs)

    root._call_impl = watching
    with (
        _inference_parameters_constant(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        traceback.preserve_node_meta(),
        noted_line(NO_LINE),  # inputs and parameters, outside of the call, have none
        _functions_applied(),
    ):
        yield
