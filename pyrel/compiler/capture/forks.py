# SPDX-License-Identifier: Apache-2.0
"""Locks and threads across `os.fork`: a child has only that thread of its parent which forked."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from types import TracebackType


class RenewedLock:
    """A lock that a forked child finds free, whichever thread of the parent held it.

    It suits what is changed in one last step, so that a child finds either state whole. As a
    context manager only::

        with lock:
            ...
    """

    def __init__(self) -> None:
        self._renew()
        _renewed.add(self)

    def _renew(self) -> None:
        self._lock = threading.Lock()
        self._holder: int | None = None

    def __enter__(self) -> None:
        """Wait until no other thread of this process holds it."""
        self._lock.acquire()
        self._holder = threading.get_ident()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let the next thread have it."""
        self._holder = None
        self._lock.release()


_renewed: weakref.WeakSet[RenewedLock] = weakref.WeakSet()

# Held while a model is exported, which patches modules of torch for all threads: a fork waits, for
# a child in which nothing undoes that would capture wrongly for ever.
exporting = threading.RLock()

_forked = False


@contextlib.contextmanager
def one_thread_if_forked() -> Iterator[None]:
    """Let operators of torch run on one thread where this process is a forked child.

    The child's OpenMP counts on the threads that the parent's operators have started, and an
    operator that shares its work out would wait for them for ever.
    """
    if not _forked:
        yield
        return
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _in_child() -> None:
    global _forked
    _forked = True
    for lock in list(_renewed):
        if lock._holder != threading.get_ident():  # the thread that forked goes on, and releases
            lock._renew()
    exporting.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=exporting.acquire, after_in_parent=exporting.release, after_in_child=_in_child
    )
