# SPDX-License-Identifier: Apache-2.0
"""Locks across `os.fork`: of a parent's threads its child has one, which would wait for others."""

from __future__ import annotations

import os
import threading
import weakref
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


def _in_child() -> None:
    for lock in list(_renewed):
        if lock._holder != threading.get_ident():  # the thread that forked goes on, and releases
            lock._renew()
    exporting.release()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=exporting.acquire, after_in_parent=exporting.release, after_in_child=_in_child
    )
