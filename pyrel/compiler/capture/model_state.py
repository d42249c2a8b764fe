# SPDX-License-Identifier: Apache-2.0
"""Restores a model after an export, or after a run, to the state before.

While torch.export runs a model, tensors are fake. A model may keep them: in an attribute, a list or
a dictionary, an object, the closure of a hook, its class, a global variable. So all that can be
changed and that can be reached from a model is written down before, by identity, and put back in
place afterwards. Nothing is copied but containers and numbers, so a model may hold what cannot be
copied.

What cannot be put back: iterators and generators that were advanced, queues and other objects of
Python's own library that threads may share, and the contents of nested and sparse tensors.
"""

from __future__ import annotations

import contextlib
import functools
import opcode
import random
import threading
import types
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.parameter import is_lazy

from pyrel.compiler.capture import identity_of_code as code
from pyrel.compiler.capture import restore
from pyrel.errors import UnsupportedModelError

_PLAIN = frozenset(
    {bool, int, float, complex, str, bytes, type(None), type(...), type(NotImplemented)}
    | {range, slice, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size}
)
_KEPT_OF_LIBRARIES = frozenset(
    {"argparse", "collections", "dataclasses", "functools", "types", "typing", "weakref"}
)
_CONTAINERS = (OrderedDict, dict, list, deque, set, tuple, frozenset)
_LARGEST_ARRAY = 1 << 24  # bytes: what is larger no model counts or caches in
_STORE_GLOBAL = frozenset(opcode.opmap[name] for name in ("STORE_GLOBAL", "DELETE_GLOBAL"))


@contextlib.contextmanager
def put_back(model: nn.Module, *, values: bool = False) -> Iterator[None]:
    """Put back, at the end, all that a model may change while it runs.

    Parameters
    ----------
    model : nn.Module
    values : bool
        Put back the contents of parameters and buffers too, which torch.export replaces; other
        tensors it changes where the model does.
    """
    with ModelState(model, values=values).put_back():
        yield


class ModelState:
    """A snapshot of a model, which can be restored after each of several runs.

    Parameters
    ----------
    model, values
        See `put_back`.
    """

    def __init__(self, model: nn.Module, *, values: bool = False) -> None:
        self._found = _Reachable(() if values else [*model.parameters(), *model.buffers()])
        hooks = [v for n, v in vars(torch_module).items() if n.startswith("_global_")]
        self._found.see([model, *hooks])

    @contextlib.contextmanager
    def put_back(self) -> Iterator[None]:
        """Put back, at the end, all that the model changes meanwhile."""
        drawn = random.getstate(), np.random.get_state()
        try:
            yield
        finally:
            random.setstate(drawn[0])
            np.random.set_state(drawn[1])
            self._found.put_back()


class _Reachable:
    """All that can be reached from some values, and how each thing is put back."""

    def __init__(self, faked: Iterable[torch.Tensor]) -> None:
        self._faked = set(map(id, faked))
        self._undo: list[tuple[Callable[..., object], tuple[Any, ...]]] = []
        self._slots: dict[type, list[types.MemberDescriptorType]] = {}
        self._seen: set[int] = set()
        self._alive: list[object] = []  # so that no id is used twice
        self._left: list[Any] = []
        self._names: set[tuple[int, str]] = set()

    def see(self, values: Iterable[Any]) -> None:
        """Write down all that can be reached from values."""
        self._left += values
        while self._left:
            value = self._left.pop()
            if type(value) not in _PLAIN and id(value) not in self._seen:
                self._seen.add(id(value))
                self._alive.append(value)
                self._see(value)

    def put_back(self) -> None:
        """Put everything back that is not as it was; one failure does not keep the rest."""
        failed: Exception | None = None
        for function, args in self._undo:
            try:
                function(*args)
            except Exception as error:  # of whatever type a class of the user's raises
                failed = error
        if failed is not None:
            raise UnsupportedModelError(
                f"what the model changed could not be put back: {failed}", operator="forward"
            ) from failed

    def _after(self, function: Callable[..., object], *args: Any) -> None:
        self._undo.append((function, args))

    def _see(self, value: Any) -> None:
        if isinstance(value, torch.Tensor):
            self._see_tensor(value)
        elif isinstance(value, types.FunctionType):
            self._see_function(value)
        elif isinstance(value, type):
            self._see_class(value)
        elif isinstance(value, types.ModuleType):
            self._see_module(value)
        elif isinstance(value, np.ndarray):
            if value.flags.writeable and value.nbytes <= _LARGEST_ARRAY:
                self._after(restore.set_array, value, value.copy())
        elif not self._see_generator(value) and not code.is_stateless(value):
            self._see_container(value)
            self._left += (part for _, part in code.parts_of(value) or ())
            if isinstance(value, functools._lru_cache_wrapper):
                self._after(restore.set_cache, value, value.cache_info().misses)
            elif _may_have_attributes(value):
                self._see_attributes(value)

    def _see_tensor(self, tensor: torch.Tensor) -> None:
        if tensor.is_leaf:
            self._after(restore.set_gradient, tensor, tensor.requires_grad, tensor.grad)
            self._left.append(tensor.grad)
        self._see_container(vars(tensor))
        contents = None if id(tensor) in self._faked else _contents_of(tensor)
        if contents is not None:
            self._after(restore.set_values, tensor, contents)

    def _see_generator(self, value: Any) -> bool:
        if isinstance(value, random.Random):
            self._after(value.setstate, value.getstate())
        elif isinstance(value, np.random.Generator):
            self._after(setattr, value.bit_generator, "state", value.bit_generator.state)
        elif isinstance(value, np.random.RandomState) or type(value) is torch.Generator:
            self._after(value.set_state, value.get_state())
        else:
            return False
        return True

    def _see_container(self, value: Any) -> None:
        kind: Any = next((each for each in _CONTAINERS if isinstance(value, each)), None)
        if kind in (dict, OrderedDict):
            keys, values = list(kind.keys(value)), list(kind.values(value))
            self._after(restore.set_items, kind, value, keys, values)
            self._left += keys
            self._left += values
        elif kind is not None:
            contents = list(kind.__iter__(value))
            self._left += contents
            if kind in (list, deque, set):
                self._after(restore.set_contents, kind, value, contents)

    def _see_attributes(self, value: Any) -> None:
        self._left.append(type(value))
        own = _attributes(value)
        if own is not None:
            self._see_container(own)
        kind = type(value)
        if kind not in self._slots:
            self._slots[kind] = _slots_of(kind)
        for member in self._slots[kind]:
            held = restore.slot_value(member, value)
            self._after(restore.set_slot, member, value, held)
            self._left.append(held)

    def _see_class(self, kind: type) -> None:
        """See what classes of the user's have been given."""
        if code.of_library(kind.__module__):
            return
        self._left += kind.__mro__
        self._left += vars(kind).values()
        own = {name: value for name, value in vars(kind).items() if not restore.is_special(name)}
        self._after(restore.set_class, kind, own)

    def _see_module(self, module: types.ModuleType) -> None:
        """See a Python module that is an attribute, of which anything may be used."""
        if not code.of_library(module.__name__):
            self._see_all_of(vars(module))

    def _see_name(self, namespace: dict[str, Any], name: str, value: Any) -> None:
        if not restore.is_special(name) and (id(namespace), name) not in self._names:
            self._names.add((id(namespace), name))
            self._after(restore.set_name, namespace, name, value)

    def _see_function(self, function: types.FunctionType) -> None:
        home = function.__globals__.get("__name__")
        if code.of_runner(home) or (code.of_library(home) and not function.__closure__):
            return
        for cell in function.__closure__ or ():
            held = restore.cell_value(cell)
            self._after(restore.set_cell, cell, held)
            self._left.append(held)
        self._left += (function.__defaults__, function.__kwdefaults__)
        self._see_container(vars(function))
        if not code.of_library(home):
            self._see_what_code_names(function)

    def _see_what_code_names(self, function: types.FunctionType) -> None:
        body, namespace = function.__code__, function.__globals__
        attributes, visited = code.names_in(body), set[int]()
        every = code.uses_names(body)
        if code.uses_globals(body):
            self._see_all_of(namespace, deeply=False)
        names, stored = code.globals_in(body), _stores_globals(body)
        self._see_named(namespace, names, attributes, visited, stored=stored, every=every)
        for module in code.modules_imported(function):
            self._see_module_named(module, attributes, visited, every)

    def _see_named(
        self,
        namespace: dict[str, Any],
        names: frozenset[str],
        attributes: frozenset[str],
        visited: set[int],
        *,
        stored: bool,
        every: bool,
    ) -> None:
        """See what code names of the globals of a Python module, and of modules among them."""
        for name in names if stored else names & namespace.keys():
            value = namespace.get(name, restore.MISSING)
            if stored:
                self._see_name(namespace, name, value)
            if isinstance(value, types.ModuleType):
                self._see_module_named(value, attributes, visited, every)
            else:
                self._left.append(value)

    def _see_module_named(
        self, module: types.ModuleType, names: frozenset[str], visited: set[int], every: bool
    ) -> None:
        if id(module) in visited or code.of_library(module.__name__):
            return
        visited.add(id(module))
        if every:
            self._left.append(module)
        self._see_named(vars(module), names, names, visited, stored=True, every=every)

    def _see_all_of(self, namespace: dict[str, Any], *, deeply: bool = True) -> None:
        """See all global variables of a Python module, and which there are."""
        self._after(restore.drop_names, namespace, set(namespace))
        for name, value in list(namespace.items()):
            self._see_name(namespace, name, value)
            if deeply and not isinstance(value, types.ModuleType):
                self._left.append(value)


def _contents_of(tensor: torch.Tensor) -> torch.Tensor | None:
    """Copy a tensor; None for one that no model writes into, or that cannot be copied."""
    if tensor.layout != torch.strided or tensor.is_nested or tensor.is_meta:
        return None
    if tensor.is_quantized or is_lazy(tensor):
        return None
    try:
        return tensor.detach().clone()
    except Exception:  # of whatever type a class of the user's raises
        return None


def _may_have_attributes(value: Any) -> bool:
    """Whether an object is one of the user's, or of what models keep values in."""
    if isinstance(value, nn.Module | threading.local):
        return True
    if type(value) in weakref.ProxyTypes:
        return False
    module = type(value).__module__
    if not code.of_library(module):
        return True
    return module.partition(".")[0] in _KEPT_OF_LIBRARIES or module.startswith("torch.nn.")


def _attributes(value: Any) -> dict[str, Any] | None:
    if isinstance(value, threading.local):
        return vars(value)
    try:
        own = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return None
    return own if isinstance(own, dict) else None


def _stores_globals(body: types.CodeType) -> bool:
    """Whether code, or a function inside, may assign to a global variable."""
    inner = (each for each in body.co_consts if isinstance(each, types.CodeType))
    return not _STORE_GLOBAL.isdisjoint(body.co_code[::2]) or any(map(_stores_globals, inner))


def _slots_of(kind: type) -> list[types.MemberDescriptorType]:
    """Return what reads and writes the slots that classes written in Python declare."""
    declaring = (base for base in kind.__mro__ if "__slots__" in vars(base))
    members = (member for base in declaring for member in vars(base).values())
    return [member for member in members if isinstance(member, types.MemberDescriptorType)]
