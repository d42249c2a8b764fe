# SPDX-License-Identifier: Apache-2.0
"""Temporary folders, of which a killed process leaves none for ever."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pyrel.files.atomic import is_at, lock, lock_if_possible

_TRIES = 100


@contextmanager
def temporary_folder(prefix: str) -> Iterator[Path]:
    """Make a folder for temporary files, and remove it in the end.

    It is locked meanwhile: those with the same prefix whose locks are free, for their processes
    were killed, are removed first.

    Parameters
    ----------
    prefix : str
        Start of its name; only folders of `temporary_folder` may have it.

    Raises
    ------
    OSError
        It cannot be made.
    """
    parent = Path(tempfile.gettempdir())
    for name in os.listdir(parent):
        if name.startswith(prefix):
            _remove_if_unlocked(parent / name)
    with ExitStack() as stack:
        descriptor, folder = _locked_folder(prefix, stack)
        stack.callback(os.close, descriptor)
        yield folder


def _locked_folder(prefix: str, stack: ExitStack) -> tuple[int, Path]:
    for _ in range(_TRIES):
        made = tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(made))
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            if lock_if_possible(descriptor) and is_at(descriptor, folder):
                return descriptor, folder
            os.close(descriptor)
        # Another process has taken it for left behind, before it was locked.
    raise FileExistsError(errno.EEXIST, "others keep taking the temporary folders", prefix)


def _remove_if_unlocked(folder: Path) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, flags)
        try:
            own = os.fstat(descriptor).st_uid == os.geteuid()
            if own and lock(descriptor) and is_at(descriptor, folder):
                shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(descriptor)
