# SPDX-License-Identifier: Apache-2.0
"""Exports the branch of a model that runs in eager mode.

A model may branch on `torch.compiler.is_compiling` and its like. pyrel explains what the model
computes for its user, so the model gets the answer False during an export; torch's own code gets
the true one.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

_QUERIES = ("is_compiling", "is_dynamo_compiling", "is_exporting")


def _eager(function: Callable[[], bool], thread: int) -> Callable[[], bool]:
    def answer() -> bool:
        caller = str(sys._getframe(1).f_globals.get("__name__"))
        if threading.get_ident() != thread or caller.partition(".")[0] == "torch":
            return function()
        return False

    return answer


@contextlib.contextmanager
def as_eager() -> Iterator[None]:
    """Let `is_compiling` and its like return False in this thread, but for torch's own code."""
    compiler: Any = torch.compiler
    functions = {name: getattr(compiler, name) for name in _QUERIES if hasattr(compiler, name)}
    for name, function in functions.items():
        setattr(compiler, name, _eager(function, threading.get_ident()))
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(compiler, name, function)
