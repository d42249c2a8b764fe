# SPDX-License-Identifier: Apache-2.0
"""Decides whether a model is still the one that was captured.

What a model computes is in its parameters, and as well in its attributes, its hooks, the code of
its functions and what that code names. `state_of` writes all of that down as far as it can be
reached: tensors, arrays and plain values by their contents; containers, instances, functions and
classes by what they hold; and by its identity what cannot change. What may change unseen makes a
model incomparable, and then it is never taken for the same. Nothing written down keeps a model
alive.
"""

from __future__ import annotations

import functools
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules import module as torch_module
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from pyrel.compiler.capture import identity_of_code as code

Token: TypeAlias = Any  # a plain value, or the id of an object

_PLAIN = frozenset({bool, int, str, bytes, type(None), type(...), type(NotImplemented)})
_VALUES = frozenset({torch.dtype, torch.device, torch.layout, torch.memory_format, range, slice})
_TENSORS = frozenset({torch.Tensor, nn.Parameter, nn.Buffer})
_NUMBERS = (int, float, complex, str, bytes)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_MOST_TOKENS = 200_000  # a tenth of a second
_PIECE = 1 << 18  # bytes that are hashed at once: they stay in the cache
_TOO_MUCH = "with it there is too much to compare at each call"
# Attributes of modules that decide nothing: of a GraphModule what its forward was written from, of
# a compiled module what does the same in another way.
_NOT_READ = frozenset({"_compiled_call_impl", "_graph"})


class IncomparableError(Exception):
    """Something may change unseen; ``path`` leads there, from the outside in."""

    def __init__(self, value: object, why: str = "it may change unseen") -> None:
        self.kind, self.why = type(value).__name__, why
        self.path: list[str] = []

    def within(self, name: object) -> IncomparableError:
        """Return the error, with where it was met."""
        self.path.insert(0, str(name))
        return self

    def __str__(self) -> str:
        """Path, type and why."""
        return f"{'.'.join(self.path)} is of type {self.kind}: {self.why}"


@dataclass(frozen=True, eq=False)
class State:
    """A record of everything that determines what a model computes.

    Attributes
    ----------
    tokens : list
        Plain values, digests, and ids of objects.
    alive : list of weakref
        To these objects: while they live, their ids are no others'.
    held : list
        Objects of no module of the user's that no weak reference can be had of.
    """

    tokens: list[Token] = field(default_factory=list)
    alive: list[weakref.ref[Any]] = field(default_factory=list)
    held: list[object] = field(default_factory=list)

    def is_still(self, now: State) -> bool:
        """Whether a model that was so is so still, as a later state shows."""
        return self.tokens == now.tokens and all(one() is not None for one in self.alive)


def state_of(model: nn.Module) -> State:
    """Write down what a module is, and what torch is set to while it runs.

    Raises
    ------
    IncomparableError
        If the model holds something that may change unseen.
    """
    traversal = _Traversal(model)
    try:
        traversal.surroundings()
        traversal.see(model)
    except RecursionError:
        raise IncomparableError(model, "it is nested too deeply") from None
    return traversal.state


def state_of_options(options: object) -> State:
    """Write down arguments of a call; see `state_of`."""
    traversal = _Traversal(None)
    traversal.see(options)
    return traversal.state


class _Traversal:
    """Visits every object reachable from a model once, in a fixed order."""

    def __init__(self, model: nn.Module | None) -> None:
        self.state = State()
        self._tokens = self.state.tokens
        self._seen: dict[int, int] = {}
        self._kept: list[object] = []  # so that no id is used twice during the traversal
        self._named: set[tuple[int, str]] = set()
        self._layers: set[int] = set()  # classes of torch
        self._builders: set[int] = set()  # what makes modules, before they run
        # Capture puts these in eval mode, whatever mode they are in.
        self._switched = _switched(model) if model is not None else set()

    def surroundings(self) -> None:
        """See what torch is set to."""
        self._tokens.append(torch.get_default_dtype())
        for device in ("cpu", "cuda"):
            on = torch.is_autocast_enabled(device)
            self._tokens.append(torch.get_autocast_dtype(device) if on else None)
        for name, value in vars(torch_module).items():
            if name.startswith("_global_"):
                self.see(value)
        # What torch's own modules call.
        named = {n: v for n, v in list(vars(functional).items()) if isinstance(v, _FUNCTIONS)}
        self._tokens.append({name: id(value) for name, value in named.items()})
        self.state.alive.extend(map(weakref.ref, named.values()))
        functions: list[Any] = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        self.see([*functions, *_get_current_dispatch_mode_stack()])

    def see(self, value: Any) -> None:
        """See a value and all that it holds."""
        kind = type(value)
        if kind in _PLAIN:
            self._tokens += kind, value
        elif kind is float or kind is complex:
            self._tokens += kind, repr(value)  # tells zeros of both signs, and takes NaN for NaN
        elif kind in _VALUES:
            self._tokens += kind, str(value)
        elif id(value) in self._seen:
            self._tokens.append(("again", self._seen[id(value)]))
        else:
            self._seen[id(value)] = len(self._seen)
            self._kept.append(value)
            if len(self._tokens) > _MOST_TOKENS:
                raise IncomparableError(value, _TOO_MUCH)
            self._see_object(value, kind)

    def _see_object(self, value: Any, kind: type) -> None:
        if kind in _TENSORS:
            self._see_tensor(value)
        elif isinstance(value, nn.Module):
            self._see_module(value)
        elif isinstance(value, types.FunctionType):
            self._see_function(value)
        elif isinstance(value, type):
            self._see_class(value)
        elif isinstance(value, types.ModuleType):
            self._see_namespace(value)
        elif code.is_stateless(value) or code.of_runner(kind.__module__):
            self.same(value)
        elif isinstance(value, torch.Tensor | torch.jit.ScriptModule):
            raise IncomparableError(value, "its content cannot be read")
        elif isinstance(value, np.ndarray | np.generic):
            self._see_array(value)
        else:
            _check_cache(value)
            parts = code.parts_of(value)
            if parts is not None:
                self._tokens.append(kind.__name__)
                self._see_all(parts)
            else:
                self._see_instance(value, kind)

    def same(self, value: object) -> None:
        """Write down the identity of what does not change."""
        self._tokens.append(id(value))
        try:
            self.state.alive.append(weakref.ref(value))
        except TypeError:
            self.state.held.append(value)

    def _see_all(self, items: Iterable[tuple[str, Any]]) -> None:
        for name, value in items:
            self._tokens.append(name)
            try:
                self.see(value)
            except IncomparableError as error:
                raise error.within(name) from None

    # What holds numbers

    def _see_tensor(self, tensor: torch.Tensor) -> None:
        kind = (type(tensor), tensor.dtype, tuple(tensor.shape), tensor.device)
        self._tokens += *kind, tensor.requires_grad, _content(tensor)
        hooks = tensor._backward_hooks
        if hooks or vars(tensor):
            self._see_all([("_backward_hooks", hooks), *vars(tensor).items()])

    def _see_array(self, array: Any) -> None:
        if type(array) is not np.ndarray and not isinstance(array, np.generic):
            raise IncomparableError(array)
        self._tokens += type(array), repr(array.dtype), array.shape
        if array.dtype.hasobject:
            self.see(array.tolist())
        else:
            self._tokens.append(_digest(np.ascontiguousarray(array).tobytes()))

    # What holds other values

    def _see_module(self, module: nn.Module) -> None:
        self.see(type(module))
        switched = id(module) in self._switched
        for name, value in list(vars(module).items()):
            if not (switched and name == "training") and name not in _NOT_READ:
                self._tokens.append(name)
                if type(value) in {dict, OrderedDict} and not value:  # as most of a module's
                    self._tokens.append(0)
                    continue
                try:
                    self.see(value)
                except IncomparableError as error:
                    raise error.within(name) from None
        self._tokens.append("end")

    def _see_instance(self, value: Any, kind: type) -> None:
        """See an instance of a class that is written in Python, or derived from a container."""
        self.see(kind)
        contents = _contents(value)
        if contents is not None:
            if len(contents) > _MOST_TOKENS:
                raise IncomparableError(value, _TOO_MUCH)
            self._tokens.append(len(contents))
            self._see_all([(str(number), each) for number, each in enumerate(contents)])
        elif isinstance(value, _NUMBERS):
            base = next(b for b in _NUMBERS if isinstance(value, b))
            self._tokens.append(base.__repr__(value))
        elif not code.is_python_class(kind):
            raise IncomparableError(value)
        own = getattr(value, "__dict__", None)
        if own:
            self._see_all([(str(name), each) for name, each in list(own.items())])
        self._see_all(code.slots_of(value, kind))
        self._tokens.append("end")

    # What holds code

    def _see_function(self, function: types.FunctionType) -> None:
        if code.of_runner(function.__globals__.get("__name__")):
            return
        self.same(function.__code__)
        self.see(function.__defaults__)
        self.see(function.__kwdefaults__)
        self._see_all(code.closure_of(function))
        if vars(function):
            self._see_all(list(vars(function).items()))
        if not code.of_library(function.__globals__.get("__name__")):
            self._see_what_code_names(function)

    def _see_what_code_names(self, function: types.FunctionType) -> None:
        body = function.__code__
        unseen = code.unseen_in(body)
        if unseen is not None and id(function) not in self._builders:
            raise IncomparableError(function, f"it uses {unseen}, and what that reads may change")
        attributes, visited = code.names_in(body), set[int]()
        every = code.uses_names(body)
        self._see_named(
            function.__globals__, code.globals_in(body), attributes, visited, every=every
        )
        for module in code.modules_imported(function):
            self._see_module_named(module, attributes, visited, every)

    def _see_named(
        self,
        namespace: dict[str, Any],
        names: frozenset[str],
        attributes: frozenset[str],
        visited: set[int],
        *,
        every: bool,
        library: bool = False,
    ) -> None:
        """See what code names of the globals of a Python module, and of modules among them."""
        for name in sorted(names & namespace.keys()):
            value = namespace[name]
            if isinstance(value, types.ModuleType):
                self._tokens.append(name)
                self._see_module_named(value, attributes, visited, every)
            elif (id(namespace), name) not in self._named:
                self._named.add((id(namespace), name))
                if library:
                    self._see_of_library(name, value)
                else:
                    self._see_all([(name, value)])

    def _see_module_named(
        self, module: types.ModuleType, names: frozenset[str], visited: set[int], every: bool
    ) -> None:
        """See what code names of a Python module; of the user's all, if it computes names."""
        self.same(module)
        if id(module) in visited or code.of_runner(module.__name__):
            return
        visited.add(id(module))
        library = code.of_library(module.__name__)
        if every and not library:
            self.see(module)
        else:
            self._see_named(vars(module), names, names, visited, every=every, library=library)

    def _see_of_library(self, name: str, value: Any) -> None:
        self._tokens.append(name)
        if type(value) in _PLAIN or type(value) is float:
            self.see(value)
        else:
            self.same(value)

    def _see_namespace(self, module: types.ModuleType) -> None:
        """See a Python module that is an attribute, of which anything may be read."""
        self.same(module)
        if not code.of_library(module.__name__):
            self._see_all([(n, v) for n, v in vars(module).items() if not n.startswith("__")])

    def _see_class(self, kind: type) -> None:
        self.same(kind)
        if issubclass(kind, nn.Module):
            self._builders.add(id(vars(kind).get("__init__")))
        for base in kind.__mro__:
            if not code.of_library(base.__module__):
                if base is kind:
                    self._see_all(code.attributes_of_class(kind))
                else:
                    self.see(base)
            elif issubclass(base, nn.Module) and id(base) not in self._layers:
                self._layers.add(id(base))
                for name, value in list(vars(base).items()):
                    self._see_of_library(name, value)


def _check_cache(value: object) -> None:
    """Refuse a function that keeps results, once it does: they may be changed."""
    keeps = isinstance(value, functools._lru_cache_wrapper) and value.cache_info().currsize > 0
    if keeps and not code.of_library(getattr(value, "__module__", None)):
        raise IncomparableError(value, "the results it keeps may change")


def _switched(model: nn.Module) -> set[int]:
    """Ids of the modules that `nn.Module.eval` switches, if none has a way of its own."""
    modules = list(model.modules())
    usual = all(
        type(m).train is nn.Module.train and type(m).eval is nn.Module.eval for m in modules
    )
    return {id(m) for m in modules} if usual else set()


def _contents(value: Any) -> list[Any] | None:
    """Return what a container holds, in its order; None if it is none."""
    if isinstance(value, OrderedDict):
        return [each for item in OrderedDict.items(value) for each in item]
    if isinstance(value, dict):
        factory = getattr(value, "default_factory", None)
        return [factory, *(each for item in dict.items(value) for each in item)]
    for container in (list, tuple, set, frozenset):
        if isinstance(value, container):
            return list(container.__iter__(value))  # type: ignore[arg-type]
    return [value.maxlen, *deque.__iter__(value)] if isinstance(value, deque) else None


def _content(tensor: torch.Tensor) -> tuple[int, ...]:
    """Digest of what a tensor holds."""
    try:
        values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous()
        return _digest(values.reshape(-1).view(torch.uint8).numpy().data)
    except (RuntimeError, NotImplementedError, TypeError, ValueError):
        # It has none: uninitialised, without memory, sparse, quantised.
        raise IncomparableError(tensor, "its content cannot be read") from None


def _digest(content: bytes | memoryview) -> tuple[int, ...]:
    """Hash bytes, faster than a cryptographic hash would: nobody forges weights here."""
    return tuple(
        hash(bytes(content[first : first + _PIECE])) for first in range(0, len(content), _PIECE)
    )
