# SPDX-License-Identifier: Apache-2.0
"""A lock that one process holds on what it works on, and that says who holds it."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import logging
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyrel.files.atomic import is_at, lock

_LOGGER = logging.getLogger("pyrel")
_MOST_BYTES = 4096  # of what a holder writes about itself


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a lock, for as long as the ``with`` statement lasts, in this thread alone.

    The lock is on a file, which says who holds it. The operating system frees it when the process
    ends, however it ends; a file that is left then is taken over.

    Parameters
    ----------
    path : Path
        The file of the lock, in a folder that is there; removed in the end.
    what : str
        What is locked, for the message, such as "the training run in runs/deep".

    Raises
    ------
    BlockingIOError
        Another process, or thread, holds it; the message says which, where and since when.
    OSError
        The file cannot be made, or is no regular file.
    """
    descriptor = _taken(path, what)
    try:
        _describe_holder(descriptor)
        yield
    finally:
        with contextlib.suppress(OSError):
            if is_at(descriptor, path):
                path.unlink()
        os.close(descriptor)


def _taken(path: Path, what: str) -> int:
    while True:
        descriptor = _opened(path)
        try:
            free = lock(descriptor)
        except OSError as error:
            _LOGGER.warning(
                "%s is not locked, for this file system has no locks (%s): let no other process "
                "work on it meanwhile",
                *(what, error.strerror),
            )
            return descriptor
        if not free:
            holder = _holder(descriptor)
            os.close(descriptor)
            raise BlockingIOError(
                errno.EAGAIN,
                f"{what} is in use by {holder}; wait for its end, or end it",
                str(path.parent),
            )
        if is_at(descriptor, path):
            return descriptor
        os.close(descriptor)  # its holder has just removed it


def _opened(path: Path) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    status = os.fstat(descriptor)
    # A hard link, planted in a folder that others can write to, may be a name of any file.
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise FileExistsError(
            errno.EEXIST,
            "pyrel made no such lock file; remove it",
            str(path),
        )
    return descriptor


def _describe_holder(descriptor: int) -> None:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    holder = {"process": os.getpid(), "host": socket.gethostname(), "since": now}
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, json.dumps(holder).encode(), 0)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, _MOST_BYTES, 0))
        number, host = int(holder["process"]), str(holder["host"])[:80]
        since = datetime.datetime.fromisoformat(holder["since"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return "another process"  # which has not written yet who it is
    return f"process {number} on {host!r} since {since}"
