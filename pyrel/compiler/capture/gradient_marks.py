# SPDX-License-Identifier: Apache-2.0
"""Opaque operators that mark where a forward pass stops or replaces gradients.

torch.export records what is computed, and most of ``detach``. It loses which operators ran under
``no_grad`` or ``inference_mode``, inlines the forward pass of a ``torch.autograd.Function``, and
forgets hooks. So, while a model is exported, a function mode notes in the metadata of each
operator whether gradients were off, and puts opaque operators where a gradient is replaced. It
notes the line of the model too, which torch would look up in the whole stack: a tenth to a third
of an export. Nothing outside the exporting thread is changed.
"""

from __future__ import annotations

import contextlib
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.fx import traceback
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.hooks import RemovableHandle

from pyrel.compiler.capture.loops import KeptInLoops
from pyrel.compiler.capture.opaque_layers import LIBRARY
from pyrel.compiler.capture.places import line_of
from pyrel.errors import UnsupportedModelError

_NO_GRAD, _FUNCTION = "pyrel_no_grad", "pyrel_function"  # in the metadata of operators
_LINE = "stack_trace"  # there, too


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


def within_function(name: str) -> Any:
    """Note of the operators in a ``with`` statement that they are of a custom function."""
    return traceback.annotate({_FUNCTION: name})


def function_of(node: torch.fx.Node) -> str | None:
    """Return the name of the ``torch.autograd.Function`` in whose ``forward`` an operator ran."""
    return (node.meta.get("custom") or {}).get(_FUNCTION)


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


def is_marked(node: torch.fx.Node) -> bool:
    """Whether it was noted of an operator if gradients were off."""
    return _NO_GRAD in (node.meta.get("custom") or {})


def set_under_no_grad(node: torch.fx.Node, off: bool) -> None:
    """Note whether gradients were off."""
    node.meta["custom"] = {**(node.meta.get("custom") or {}), _NO_GRAD: off}


@contextlib.contextmanager
def noted_line(line: str | None) -> Iterator[None]:
    """Note of the operators in a ``with`` statement that they are of a line of code.

    Without a line torch looks for it, for each of them.
    """
    before = traceback.get_current_meta().get(_LINE)
    _note(line)
    try:
        yield
    finally:
        _note(before)


def _note(line: str | None) -> None:
    if line is None:
        traceback.get_current_meta().pop(_LINE, None)
    else:
        traceback.get_current_meta()[_LINE] = line


class Watch(TorchFunctionMode):
    """Notes where gradients are off, and replaces functions that only matter to autograd.

    ``inputs`` need gradients, whatever torch.export knows of them. The frame that makes this is the
    one that calls the model.
    """

    def __init__(self, inputs: list[Any]) -> None:
        super().__init__()
        self._inputs = inputs
        self._calling = sys._getframe(1)
        self.kept = KeptInLoops(inputs)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function, or what stands for it."""
        if func is torch._C._set_grad_enabled:
            # torch.export would make a graph of its own of what follows.
            with torch._C.DisableTorchFunction():
                return func(*args)
        if func == _REQUIRES_GRAD and any(args[0] is each for each in self._inputs):
            return torch.is_floating_point(args[0])
        called = _REPLACED.get(func, func)
        frame = sys._getframe(1)
        self.kept.reach(frame, self._calling)
        with noted_line(line_of(frame, self._calling)):
            if torch.is_grad_enabled():
                return called(*args, **(kwargs or {}))
            with traceback.annotate({_NO_GRAD: True}):
                return called(*args, **(kwargs or {}))


_GRAD_FN: Any = torch.Tensor.grad_fn.__get__  # type: ignore[union-attr]
_REQUIRES_GRAD: Any = torch.Tensor.requires_grad.__get__  # type: ignore[attr-defined]


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
        torch.ops.pyrel.hooked(x, f"the hook {name_of(hook)} of a tensor")
    return RemovableHandle(OrderedDict())


class _GradFn:
    """Stands for the ``grad_fn`` of a tensor, which a hook may be put on."""

    def __init__(self, x: torch.Tensor) -> None:
        self._tensor = x

    def register_hook(self, hook: Callable[..., Any]) -> RemovableHandle:
        """Note the hook."""
        return _hook(self._tensor, hook)

    register_prehook = register_hook


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
    _GRAD_FN: lambda x: None if x.grad_fn is None else _GradFn(x),
    torch.Tensor.register_hook: _hook,
    torch.Tensor.retain_grad: lambda x: None,
    torch.Tensor.backward: _refuse("torch.Tensor.backward"),
    torch.autograd.backward: _refuse("torch.autograd.backward"),
    torch.autograd.grad: _refuse("torch.autograd.grad"),
}


def name_of(thing: Any) -> str:
    """Full name of a class or function, or that of an object's class."""
    module = getattr(thing, "__module__", None) or type(thing).__module__
    return f"{module}.{getattr(thing, '__qualname__', type(thing).__qualname__)}"


def marked_gradient(outputs: Any, what: str) -> Any:
    """Let all numbers among nested outputs have a gradient of their own."""

    def mark(value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        return torch.ops.pyrel.custom_gradient(value, what)

    return pytree.tree_map(mark, outputs)
