# SPDX-License-Identifier: Apache-2.0
"""Exports the branch of a model that runs in eager mode.

A model may branch on `torch.compiler.is_compiling` and its like. pyrel explains what the model
computes for its user, so the model gets the answer False during an export; torch's own code gets
the true one.

`nn.TransformerEncoder` and `nn.TransformerDecoder` branch, too: they compare a mask with a causal
one, for attention to take a faster kernel. torch.export cannot follow a branch on what a mask
holds. So they take masks as they are given, with the same result.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.modules import transformer

_QUERIES = ("is_compiling", "is_dynamo_compiling", "is_exporting")
_LOOKS_FOR_CAUSAL = ("_detect_is_causal_mask",)


def _eager(function: Callable[[], bool], thread: int) -> Callable[[], bool]:
    def answer() -> bool:
        caller = str(sys._getframe(1).f_globals.get("__name__"))
        if threading.get_ident() != thread or caller.partition(".")[0] == "torch":
            return function()
        return False

    return answer


def _only_told(function: Callable[..., bool], thread: int) -> Callable[..., bool]:
    def answer(mask: Any, is_causal: bool | None = None, *args: Any, **kwargs: Any) -> bool:
        if threading.get_ident() != thread:
            return function(mask, is_causal, *args, **kwargs)
        return is_causal is True

    return answer


@contextlib.contextmanager
def as_eager() -> Iterator[None]:
    """Let `is_compiling` and its like return False in this thread, but for torch's own code.

    Nor does torch's own code look for causal masks.
    """
    compiler: Any = torch.compiler
    made = {
        (owner, name): (getattr(owner, name), make)
        for owner, names, make in (
            (compiler, _QUERIES, _eager),
            (transformer, _LOOKS_FOR_CAUSAL, _only_told),
        )
        for name in names
        if hasattr(owner, name)
    }
    for (owner, name), (function, make) in made.items():
        setattr(owner, name, make(function, threading.get_ident()))
    try:
        yield
    finally:
        for (owner, name), (function, _) in made.items():
            setattr(owner, name, function)
