# SPDX-License-Identifier: Apache-2.0
"""Lists what functions, classes and instances hold, for `pyrel.compiler.capture.identity`."""

from __future__ import annotations

import _thread
import contextvars
import dis
import functools
import importlib.util
import logging
import operator
import re
import sys
import types
import weakref
from typing import Any, NamedTuple

import numpy as np
import torch


class _Record(NamedTuple):
    field: object


_STATELESS = (
    logging.Logger,
    re.Pattern,
    torch._ops.OpOverload,
    torch._ops.OpOverloadPacket,
    types.UnionType,
    types.GenericAlias,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    types.ClassMethodDescriptorType,
    types.CodeType,
    type(vars(_Record)["field"]),  # what reads a field
    _thread.LockType,
    _thread.RLock,
    np.dtype,
    np.ufunc,
)
_GETTERS = (operator.itemgetter, operator.attrgetter, operator.methodcaller)
# What runs tests or a notebook decides nothing either; pytest's `assert` names its own modules.
_RUNNERS = frozenset({"pytest", "_pytest", "pluggy", "hypothesis", "IPython", "ipykernel"})
_LIBRARIES = frozenset({"torch", "numpy", "pyrel", "sympy", *_RUNNERS, *sys.stdlib_module_names})
# What a class has of itself, and what decides nothing that it computes.
_OF_ITSELF = frozenset(
    """
    __dict__ __weakref__ __doc__ __module__ __qualname__ __annotations__ __abstractmethods__
    _abc_impl __orig_bases__ __parameters__ __type_params__ __firstlineno__ __static_attributes__
    __annotate__ __annotate_func__ __annotations_cache__
    """.split()
)
_COMPILED = ("pybind11", "PyCapsule")  # types of what C++ functions are bound to
_WORD = 8  # bytes
# What reads that which cannot be compared: as globals, and as attributes too.
_UNSEEN_GLOBALS = frozenset({"globals", "eval", "exec", "__import__"})
_UNSEEN = frozenset(
    """
    open environ environb getenv import_module read_text read_bytes load fromfile loadtxt genfromtxt
    """.split()
)
_BY_NAME = frozenset({"getattr", "setattr", "delattr", "hasattr", "vars", "__dict__"})
_GLOBAL = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "STORE_GLOBAL", "DELETE_GLOBAL"})


def of_library(module: object) -> bool:
    """Whether a Python module, by name, is of Python, NumPy, torch, pyrel or a test runner."""
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES


def of_runner(module: object) -> bool:
    """Whether a Python module, by name, is of what runs tests or a notebook."""
    return isinstance(module, str) and module.partition(".")[0] in _RUNNERS


def is_stateless(value: object) -> bool:
    """Whether what an object decides cannot change."""
    if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
        owner = value.__self__
        of_nothing = owner is None or isinstance(owner, types.ModuleType | type)
        return of_nothing or type(owner).__name__.startswith(_COMPILED)
    kind = type(value)
    if kind.__name__ in {"Explainer", "Program"} and kind.__module__.partition(".")[0] == "pyrel":
        return True
    return isinstance(value, _STATELESS) or kind.__module__ == "typing"


def parts_of(value: Any) -> list[tuple[str, Any]] | None:
    """Return what makes up an object of a few types of Python's; None for others."""
    if isinstance(value, types.MethodType):
        return [("__func__", value.__func__), ("__self__", value.__self__)]
    if isinstance(value, types.BuiltinFunctionType | types.MethodWrapperType):
        return [("__name__", value.__name__), ("__self__", value.__self__)]
    if isinstance(value, functools.partial):
        own = [("func", value.func), ("args", value.args), ("keywords", value.keywords)]
        return [*own, *vars(value).items()]
    if isinstance(value, staticmethod | classmethod):
        return [("__func__", value.__func__)]
    if isinstance(value, property):
        return [("fget", value.fget), ("fset", value.fset), ("fdel", value.fdel)]
    if isinstance(value, functools._lru_cache_wrapper):
        return [*vars(value).items()]
    if isinstance(value, contextvars.ContextVar):
        return [("name", value.name), ("value", value.get(None))]
    if isinstance(value, weakref.ref):
        return [("target", value())]
    if isinstance(value, types.MappingProxyType):
        return [("items", dict(value))]
    if isinstance(value, _GETTERS):
        return [("reduced", value.__reduce__()[1])]
    return None


def closure_of(function: types.FunctionType) -> list[tuple[str, Any]]:
    """Return the variables that a function took from around it."""
    found = []
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found.append((name, cell.cell_contents))
        except ValueError:  # not assigned yet
            found.append((name, None))
    return found


def names_in(code: types.CodeType) -> frozenset[str]:
    """Names that code, and the functions inside, look up: globals, and attributes of any object."""
    inner = [names_in(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return frozenset(code.co_names).union(*inner)


@functools.lru_cache(maxsize=4096)
def globals_in(code: types.CodeType) -> frozenset[str]:
    """Names of global variables that code, and the functions inside, read or assign to."""
    own = {str(i.argval) for i in dis.get_instructions(code) if i.opname in _GLOBAL}
    inner = [globals_in(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return frozenset(own).union(*inner)


@functools.lru_cache(maxsize=4096)
def _imports_in(code: types.CodeType) -> frozenset[tuple[str, int]]:
    found: set[tuple[str, int]] = set()
    before: list[Any] = [0, 0]  # what was put on the stack: the level, and the names
    for each in dis.get_instructions(code):
        if each.opname == "IMPORT_NAME":
            level = before[0] if isinstance(before[0], int) else 0
            found.add((str(each.argval), level))
        before = [before[1], each.argval]
    inner = [_imports_in(c) for c in code.co_consts if isinstance(c, types.CodeType)]
    return frozenset(found).union(*inner)


def modules_imported(function: types.FunctionType) -> list[types.ModuleType]:
    """Return the Python modules, of those loaded, that a function imports while it runs."""
    found = []
    for name, level in sorted(_imports_in(function.__code__)):
        if level:
            package = function.__globals__.get("__package__") or ""
            try:
                name = importlib.util.resolve_name("." * level + name, package)
            except ImportError:  # as the function itself will say
                continue
        parts = name.split(".")
        for end in range(1, len(parts) + 1):
            module = sys.modules.get(".".join(parts[:end]))
            if isinstance(module, types.ModuleType):
                found.append(module)
    return found


def unseen_in(code: types.CodeType) -> str | None:
    """Return what code uses that reads what cannot be compared, as files; None if nothing."""
    names = names_in(code)
    found = (names & _UNSEEN) | (globals_in(code) & _UNSEEN_GLOBALS)
    if "modules" in names and "sys" in names:
        found |= {"sys.modules"}
    return min(found, default=None)


def uses_names(code: types.CodeType) -> bool:
    """Whether code may read or write attributes whose names it computes."""
    return not names_in(code).isdisjoint(_BY_NAME)


def uses_globals(code: types.CodeType) -> bool:
    """Whether code may read or write global variables whose names it computes."""
    return not globals_in(code).isdisjoint(_UNSEEN_GLOBALS)


def attributes_of_class(kind: type) -> list[tuple[str, Any]]:
    """Return what a class was given, and its metaclass."""
    own = [(n, v) for n, v in vars(kind).items() if n not in _OF_ITSELF]
    return [("metaclass", type(kind)), *own]


def is_python_class(kind: type) -> bool:
    """Whether instances hold no more than attributes in ``__dict__`` and slots."""
    words = len(_members(kind)) + (kind.__dictoffset__ > 0) + (kind.__weakrefoffset__ > 0)
    return kind.__itemsize__ == 0 and kind.__basicsize__ <= object.__basicsize__ + _WORD * words


def slots_of(value: object, kind: type) -> list[tuple[str, Any]]:
    """Return what the slots of an instance hold, where they hold anything."""
    found = []
    for member in _members(kind):
        try:
            found.append((member.__name__, member.__get__(value, kind)))
        except AttributeError:  # not assigned yet
            found.append((member.__name__, None))
    return found


def _members(kind: type) -> list[types.MemberDescriptorType]:
    return [
        each
        for base in kind.__mro__
        for each in vars(base).values()
        if isinstance(each, types.MemberDescriptorType)
    ]
