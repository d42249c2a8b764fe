# SPDX-License-Identifier: Apache-2.0
"""Runs a model, or torch.export, so that nothing of it shows outside."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, TextIO

import torch

from pyrel.compiler.capture.model_state import ModelState

_TRACES = "torch.__trace"  # the logger of records for tools, not for people
_SILENT = logging.CRITICAL + 1


@contextlib.contextmanager
def as_it_was(
    model: torch.nn.Module, *, values: bool = False, state: ModelState | None = None
) -> Iterator[None]:
    """Put the model in eval mode, and back; take back all that forward changed of it.

    ``values`` says that the model runs on real tensors, which it may change; ``state`` is what it
    holds, where that is known.
    """
    state = ModelState(model, values=values) if state is None else state
    with state.put_back(), _no_autocast():
        for module in model.modules():
            if isinstance(module, torch.fx.GraphModule):
                _without_modes(module)
        model.eval()
        yield


def _without_modes(module: torch.fx.GraphModule) -> None:
    """Let an exported program, given as a module, take ``train`` and ``eval``, which it refuses.

    The caller takes back what this assigns to the module.
    """
    for name in ("train", "eval"):
        if name in vars(module):
            setattr(module, name, lambda *_: module)


@contextlib.contextmanager
def _no_autocast() -> Iterator[None]:
    """Turn autocast around a call off: it is none of the model's."""
    with torch.autocast("cpu", enabled=False), torch.autocast("cuda", enabled=False):
        yield


class _Muted:
    """A stream that drops what one thread writes, until that is over, and not what others do."""

    def __init__(self, stream: TextIO) -> None:
        self.before = stream
        self.thread: int | None = threading.get_ident()

    def write(self, text: str) -> int:
        """Write a text, if another thread does."""
        return len(text) if threading.get_ident() == self.thread else self.before.write(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts, if another thread does."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.before, name)


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Keep what runs in this thread from printing and warning."""
    muted = {n: _Muted(getattr(sys, n)) for n in ("stdout", "stderr") if getattr(sys, n)}
    for name, stream in muted.items():
        setattr(sys, name, stream)
    try:
        with warnings.catch_warnings():  # Python knows no warnings of one thread
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, stream in muted.items():
            stream.thread = None
            if getattr(sys, name) is stream:
                setattr(sys, name, stream.before)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch.export from warning, and from printing graphs when it fails: we raise instead.

    Of loggers, only torch's are silenced: other threads and pyrel may go on logging. Those
    without a level of their own have that of ``torch``. That of structured traces, which prints
    nothing, stays as it is: with its first record torch finds that nobody wants them
    (``TORCH_TRACE``), and makes no more of them, each with the whole stack.
    """
    known = list(logging.root.manager.loggerDict.items())
    torchs = [each for name, each in known if name.startswith("torch.") and name != _TRACES]
    loggers = [each for each in torchs if isinstance(each, logging.Logger) and each.level]
    every = (logging.getLogger("torch"), *loggers)
    # Setting a level takes time. Within another such context there is nothing to be done.
    levels = {each: each.level for each in every if each.level != _SILENT}
    for logger in levels:
        logger.setLevel(_SILENT)
    try:
        with silent():
            yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)
