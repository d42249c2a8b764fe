# SPDX-License-Identifier: Apache-2.0
"""Places in a model: the path of a module, and a line of code."""

from __future__ import annotations

import functools
import linecache
import os
import re
import sysconfig
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pyrel.errors import ModulePath

_ROOT = Path(__file__).resolve().parents[2]
_OWN = tuple(str(_ROOT / part) for part in ("compiler", "engine"))
_STDLIB = os.path.realpath(sysconfig.get_path("stdlib"))
_SITE = re.compile(r".*[/\\](?:site|dist)-packages[/\\](\w+)")
_PACKAGES = frozenset({"torch", "sympy", "numpy", "mpmath"})
_TYPED = ("<ipython", "<stdin")  # what users type has no file
_CALL = nn.Module._call_impl.__code__
_ENTRY = re.compile(r'File "([^"]+)", line (\d+)')
NO_LINE = "no line of the model's own"
_LONGEST = 80  # characters of a line of code that are shown

Frame = tuple[types.FrameType, int]  # with the number of the line


@dataclass(frozen=True)
class Place:
    """A place in a model.

    Attributes
    ----------
    module : str
        Path of the innermost module that was called; ``""`` for the model.
    file, line : str, int
        Of the innermost line that is neither Python's nor torch's nor pyrel's; ``""`` where the
        model has no code of its own.
    function : str
        The function of torch that was called there; ``""`` for none.
    """

    module: str = ""
    file: str = ""
    line: int = 0
    function: str = ""

    @property
    def code(self) -> str:
        """The line of code; empty where it cannot be read."""
        text = linecache.getline(self.file, self.line).strip() if self.file else ""
        return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."

    @property
    def at(self) -> str:
        """File, line and code, such as ``"model.py, line 12: x = self.pool(x)"``."""
        if not self.file:
            return ""
        known = f"{os.path.basename(self.file)}, line {self.line}"
        return f"{known}: {self.code}" if self.code else known

    def __str__(self) -> str:
        """Show module and line."""
        within = f"in module '{self.module}'" if self.module else "in the model itself"
        return f"{within} ({self.at})" if self.at else within


def place_of_frames(frames: Iterable[Frame], paths: dict[int, str]) -> Place | None:
    """Find the place by the frames of a stack, the outermost first.

    Parameters
    ----------
    frames : iterable of (frame, line)
    paths : mapping from int to str
        Path of each module of the model by its id.

    Returns
    -------
    Place or None
        None where none of the frames is a call of one of these modules.
    """
    module: str | None = None
    file, line, function = "", 0, ""
    for frame, number in frames:
        code = frame.f_code
        if code is _CALL:
            inner = paths.get(id(frame.f_locals.get("self")))
            module, function = module if inner is None else inner, ""
        elif module is None:
            continue
        elif not _of_library(code.co_filename):
            file, line, function = code.co_filename, number, ""
        elif code.co_name == "__torch_function__" and not function:
            function = _name(frame.f_locals.get("func"))
    return None if module is None else Place(module, file, line, function)


def place_of_error(error: BaseException, paths: dict[int, str]) -> Place:
    """Find where in a model an error, or what caused it, was raised."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        found = place_of_frames(_traced(cause.__traceback__), paths)
        if found is not None:
            return found
        cause = cause.__cause__ or cause.__context__
    return Place()


def place_of_node(node: torch.fx.Node) -> Place:
    """Find the place of an operator of an exported program."""
    stack = node.meta.get("nn_module_stack") or {}
    module = str(list(stack.values())[-1][0]) if stack else ""
    return Place(module, *_own_line(node.meta.get("stack_trace") or ""))


def path_of(node: torch.fx.Node) -> ModulePath:
    """Path of the innermost module that a node of an exported graph belongs to, with its line."""
    place = place_of_node(node)
    return ModulePath(place.module, place.at)


@functools.lru_cache(maxsize=256)  # the steps of a loop have equal ones
def _own_line(trace: str) -> tuple[str, int]:
    entries = _ENTRY.findall(trace)
    own = [entry for entry in entries if os.path.isabs(entry[0]) and not _of_library(entry[0])]
    file, line = own[-1] if own else ("", "0")
    return file, int(line)


def line_of(frame: types.FrameType | None, outermost: types.FrameType) -> str:
    """Write down the innermost line of the user's in a running stack, for `place_of_node`.

    Frames are looked at up to the ``outermost``, which is not. `NO_LINE` where there is none.
    """
    while frame is not None and frame is not outermost:
        file = frame.f_code.co_filename
        if os.path.isabs(file) and not _of_library(file):
            return f'File "{file}", line {frame.f_lineno}'
        frame = frame.f_back
    return NO_LINE


def paths_of(model: nn.Module) -> dict[int, str]:
    """Return the path of each module of a model by its id."""
    return {id(module): path for path, module in model.named_modules()}


def stack(frame: types.FrameType | None) -> list[Frame]:
    """Return the frames of a running stack, the outermost first."""
    found: list[Frame] = []
    while frame is not None:
        found.append((frame, frame.f_lineno))
        frame = frame.f_back
    return found[::-1]


def _traced(traceback: types.TracebackType | None) -> Iterator[Frame]:
    while traceback is not None:
        yield traceback.tb_frame, traceback.tb_lineno
        traceback = traceback.tb_next


@functools.cache
def _of_library(file: str) -> bool:
    if file.startswith("<"):
        return not file.startswith(_TYPED)
    real = os.path.realpath(file)
    if real.startswith(_OWN):
        return True
    package = _SITE.search(real)
    return package[1] in _PACKAGES if package else real.startswith(_STDLIB)


def _name(function: Any) -> str:
    name = getattr(function, "__name__", "")
    if name == "__get__":  # of a property
        name = getattr(getattr(function, "__self__", None), "__name__", "")
    return str(name)
