# SPDX-License-Identifier: Apache-2.0
"""What stops or replaces gradients in a forward pass, made visible in what torch.export gives.

torch.export records what is computed, and most of ``detach``. It loses which operators ran under
``no_grad`` or ``inference_mode``, inlines the forward pass of a ``torch.autograd.Function``, and
forgets hooks. So, while a model is exported, a function mode notes in the metadata of each
operator whether gradients were off, and puts opaque operators where a gradient is replaced.
Nothing outside the exporting thread is changed.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.autograd.function import FunctionCtx, _SingleLevelFunction
from torch.fx import traceback
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.checkpoint import CheckpointFunction
from torch.utils.hooks import RemovableHandle

from pyrel.compiler.capture.opaque_layers import LIBRARY
from pyrel.errors import UnsupportedModelError

_NO_GRAD = "pyrel_no_grad"  # in the metadata of operators


def _define() -> None:
    """Define operators that are copies: they only say whose gradient their result has."""
    LIBRARY.define("custom_gradient(Tensor x, str what) -> Tensor")
    LIBRARY.define("written(Tensor after, Tensor before, str what) -> Tensor")
    LIBRARY.define("hooked(Tensor x, str what) -> ()")
    LIBRARY.define("detached(Tensor x) -> ()")
    for name, make in (
        ("custom_gradient", lambda x, what: x.clone()),
        ("written", lambda after, before, what: after.clone()),
        ("hooked", lambda x, what: None),
        ("detached", lambda x: None),
    ):
        LIBRARY.impl(name, make, "CompositeExplicitAutograd")
        torch.library.register_fake(f"pyrel::{name}", make, lib=LIBRARY)
    torch.fx.node.has_side_effect(torch.ops.pyrel.hooked.default)
    torch.fx.node.has_side_effect(torch.ops.pyrel.detached.default)


_define()


def under_no_grad(node: torch.fx.Node) -> bool:
    """Whether gradients were off when an operator of an exported graph ran."""
    return bool((node.meta.get("custom") or {}).get(_NO_GRAD))


_GIVE_BACK = frozenset(
    """alpha_dropout contiguous dropout feature_alpha_dropout feature_dropout flatten to
    type_as""".split()
)


def gave_back(node: torch.fx.Node) -> bool:
    """Whether an operator had nothing to do and gave back its operand, gradient and all."""
    target: Any = node.target
    schema = getattr(target, "_schema", None)
    if schema is None or schema.name.removeprefix("aten::") not in _GIVE_BACK:
        return False
    names = [argument.name for argument in schema.arguments]
    if {**dict(zip(names, node.args, strict=False)), **node.kwargs}.get("copy"):
        return False
    before, after = (each.meta["val"] for each in (node.all_input_nodes[0], node))
    same = (before.dtype, before.device, before.dim()) == (after.dtype, after.device, after.dim())
    return bool(same and (before.is_contiguous() or not after.is_contiguous()))


def set_under_no_grad(node: torch.fx.Node, off: bool) -> None:
    """Note whether gradients were off."""
    node.meta["custom"] = {**(node.meta.get("custom") or {}), _NO_GRAD: off}


class _Watch(TorchFunctionMode):
    """Notes where gradients are off, and replaces functions that only matter to autograd."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch._C._set_grad_enabled:
            # torch.export would make a graph of its own of what follows.
            with torch._C.DisableTorchFunction():
                return func(*args)
        called = _REPLACED.get(func, func)
        if torch.is_grad_enabled():
            return called(*args, **(kwargs or {}))
        with traceback.annotate({_NO_GRAD: True}):
            return called(*args, **(kwargs or {}))


def _set_data(x: torch.Tensor, value: torch.Tensor) -> None:
    x.detach().copy_(value)


def _require(x: torch.Tensor, wanted: bool = True) -> torch.Tensor:
    """``requires_grad_``; what needs no gradient any more is detached."""
    return x.requires_grad_() if wanted else _detach(x)


def _detach(x: torch.Tensor) -> torch.Tensor:
    torch.ops.pyrel.detached(x)
    return x


def _hook(x: torch.Tensor, hook: Callable[..., Any]) -> RemovableHandle:
    if x.is_floating_point():
        torch.ops.pyrel.hooked(x, f"the hook {_name(hook)} of a tensor")
    return RemovableHandle(OrderedDict())


def _refuse(name: str) -> Callable[..., Any]:
    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise UnsupportedModelError("forward computes gradients itself", operator=name)

    return refuse


# What is called in place of torch's functions.
_REPLACED: dict[Callable[..., Any], Callable[..., Any]] = {
    torch.Tensor.data.__get__: lambda x: x.detach(),  # type: ignore[attr-defined]
    torch.Tensor.data.__set__: _set_data,  # type: ignore[attr-defined]
    torch.Tensor.detach_: _detach,
    torch.Tensor.requires_grad_: _require,
    torch.Tensor.requires_grad.__set__: _require,  # type: ignore[attr-defined]
    torch.Tensor.register_hook: _hook,
    torch.Tensor.retain_grad: lambda x: None,
    torch.Tensor.backward: _refuse("torch.Tensor.backward"),
    torch.autograd.backward: _refuse("torch.autograd.backward"),
    torch.autograd.grad: _refuse("torch.autograd.grad"),
}


def _name(thing: Any) -> str:
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return f"{module}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def _marked(outputs: Any, what: str) -> Any:
    """Let all numbers among nested outputs have a gradient of their own."""

    def mark(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return torch.ops.pyrel.custom_gradient(value, what)

    return pytree.tree_map(mark, outputs)


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
    if function.setup_context is _SingleLevelFunction.setup_context:
        outputs = function.forward(context, *args, **kwargs)
    else:
        outputs = function.forward(*args, **kwargs)
    what = f"the torch.autograd.Function {_name(function)}"
    for tensor in context.dirty_tensors:
        tensor.copy_(torch.ops.pyrel.custom_gradient(tensor, what))
    if context.dirty_tensors:
        return outputs
    return _marked(outputs, what)


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


def _without_backward_hooks(module: Any) -> None:
    """Mark the outputs of a module in place of its backward hooks."""
    parts = "_backward_pre_hooks", "_backward_hooks"
    hooks = [hook for part in parts for hook in getattr(module, part).values()]
    if not hooks:
        return
    for part in parts:
        setattr(module, part, OrderedDict[int, Any]())
    what = f"the backward hook {_name(hooks[0])} of a module"
    call = module._call_impl

    def marking(*args: Any, **kwargs: Any) -> Any:
        return _marked(call(*args, **kwargs), what)

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
        with _Watch():  # inside the modes of torch.export: so this one is called first
            return call(*args, **kwargs)

    root._call_impl = watching
    with (
        _inference_parameters_constant(model),
        torch.inference_mode(False),
        torch.enable_grad(),
        traceback.preserve_node_meta(),
        _functions_applied(),
    ):
        yield
