# SPDX-License-Identifier: Apache-2.0
"""Lets a model that asks whether it is compiled or exported go the way that it goes when it runs.

What is explained is what the model computes for its user. torch's own code has to know better.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

_ASKED = ("is_compiling", "is_dynamo_compiling", "is_exporting")


def _answering(function: Callable[[], bool], thread: int) -> Callable[[], bool]:
    def answer() -> bool:
        asking = str(sys._getframe(1).f_globals.get("__name__"))
        if threading.get_ident() != thread or asking.partition(".")[0] == "torch":
            return function()
        return False

    return answer


@contextlib.contextmanager
def told_eager() -> Iterator[None]:
    """Answer code that is not torch's, in this thread, that nothing is compiled or exported."""
    compiler: Any = torch.compiler
    functions = {name: getattr(compiler, name) for name in _ASKED if hasattr(compiler, name)}
    for name, function in functions.items():
        setattr(compiler, name, _answering(function, threading.get_ident()))
    try:
        yield
    finally:
        for name, function in functions.items():
            setattr(compiler, name, function)
