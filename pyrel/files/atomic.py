# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole or not at all.

A file is written beside its place, as ``.NAME.<32 hexadecimal digits>.partial``, and renamed when
it is on the disk. Nobody can know the digits before, the file is made only where there is none, and
links are not followed: two writers never share a partial file, and a planted link leads nowhere.
Its writer holds a lock on it while it lives. So what a killed process left is known by its free
lock, and the next writer of the same name removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

_TRIES = 100  # names; one is enough unless someone removes or locks what was just made
_PATIENCE = 10.0  # seconds to wait for who renames several files, which takes no time
_LONGEST_NAME = 255  # bytes, on all usual file systems
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


@contextmanager
def replacing(*paths: Path) -> Iterator[tuple[IO[bytes], ...]]:
    """Open neighbours of files, which take their places when all of them are on the disk.

    Whatever goes wrong before, a full disk or Ctrl-C included, leaves the old files, all of them,
    and nothing else. The places are taken in the order of `paths`: only a process that ends between
    two of these renamings leaves some files new and some old. Where a place is a symbolic link, the
    file replaces the link, not what it points to.

    Parameters
    ----------
    *paths : Path
        Files that may or may not exist, in folders that do.

    Yields
    ------
    tuple of binary file
        Open for writing, in the order of `paths`.

    Raises
    ------
    OSError
        A file cannot be written.
    """
    places = [real_place(path) for path in paths]
    for place in places:
        remove_stale(place)
    partials: list[Path] = []
    try:
        with ExitStack() as stack:
            files = tuple(stack.enter_context(new_partial(p, partials)) for p in places)
            with naming(paths[0]):
                yield files
                for file in files:
                    file.flush()
                    os.fsync(file.fileno())
            alone = fcntl.LOCK_EX if len(places) > 1 else None
            with together(places[0].parent, alone):
                # Still open and so locked: nobody takes them for left behind.
                for partial, place in zip(partials, places, strict=True):
                    os.replace(partial, place)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file so that a reader finds the old content or the new one, never a part.

    Raises
    ------
    OSError
        The file cannot be written; the old one is still there.
    """
    with replacing(path) as (file,):
        file.write(content)


@contextmanager
def together(folder: Path, kind: int | None = fcntl.LOCK_SH) -> Iterator[None]:
    """Read several files of a folder while no `replacing` puts several in their places.

    Whoever locks the folder for long, or for ever, is not waited for but for some seconds.

    Parameters
    ----------
    folder : Path
    kind : int, optional
        As `fcntl.flock` takes it; None for no lock.
    """
    with ExitStack() as stack:
        with contextlib.suppress(OSError):  # no permission, or no locks there
            if kind is not None:
                flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
                descriptor = os.open(folder, flags)
                stack.callback(os.close, descriptor)
                _wait_for_lock(descriptor, kind)
        yield


def _wait_for_lock(descriptor: int, kind: int) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        try:
            return fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)


def remove_stale(path: Path) -> None:
    """Remove partial files of `path` whose writers have ended without removing them.

    Only regular files with the name that `replacing` gives are looked at. What cannot be removed,
    or locked to know that its writer has ended, stays.
    """
    place = real_place(path)
    with contextlib.suppress(OSError):
        for name in os.listdir(place.parent):
            if is_partial(name, place.name):
                _remove_if_unlocked(place.parent / name)


def is_partial(name: str, of: str) -> bool:
    """Return whether a name is that of a partial file of a file."""
    start, digits = hidden_name(of, ""), r"[0-9a-f]{32}\.partial"
    return name.startswith(start) and re.fullmatch(digits, name[len(start) :]) is not None


def real_place(path: Path) -> Path:
    """Return the path of a file with its folder's links resolved, its own not.

    Raises
    ------
    OSError
        `path` names a folder, or its folder is not there.
    """
    folder = os.path.realpath(path.parent)
    place = Path(folder, path.name)
    if path.name in ("", "..") or (place.is_dir() and not place.is_symlink()):
        raise IsADirectoryError(
            errno.EISDIR, "a file is to be written, and this is a folder", str(path)
        )
    if not os.path.isdir(folder):
        raise FileNotFoundError(
            errno.ENOENT, "there is no such folder to write in", str(path.parent)
        )
    return place


def hidden_name(name: str, end: str) -> str:
    """Return the name of a hidden companion of a file, ``.NAME.END``.

    Instead of a long name stands its digest, so that the companion's name is never too long.
    """
    if len(os.fsencode(name)) + 1 + 32 + len(".partial") + 2 > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()
    return f".{name}.{end}"


def lock(descriptor: int) -> bool:
    """Lock an open file or folder unless someone else has; return whether it is locked now.

    The operating system frees the lock when the file is closed, also by the end of the process.

    Raises
    ------
    OSError
        The file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file or folder is the one at `path` now; links are not followed."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except FileNotFoundError:
        return False


def new_partial(place: Path, partials: list[Path]) -> IO[bytes]:
    """Make a partial file of a real place and lock it; add its path to `partials` before.

    Raises
    ------
    OSError
        It cannot be made; the error names the place.
    """
    for _ in range(_TRIES):
        partial = place.with_name(hidden_name(place.name, f"{secrets.token_hex(16)}.partial"))
        try:
            partials.append(partial)
            file = os.fdopen(_made(partial, place), "r+b")
        except FileExistsError:
            partials.pop()  # another's
            continue
        # Between these two lines another writer may have taken it for left behind.
        if lock_if_possible(file.fileno()) and is_at(file.fileno(), partial):
            return file
        file.close()
        partials.pop().unlink(missing_ok=True)
    raise FileExistsError(errno.EEXIST, "others keep taking the partial files of this", str(place))


def _made(partial: Path, place: Path) -> int:
    """Make a file where there is none; its permissions are those that the umask leaves."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(partial, flags, 0o666)
    except FileExistsError:
        raise
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place)) from None


def lock_if_possible(descriptor: int) -> bool:
    """Lock a file or folder; False if another process has, True where there are no locks."""
    try:
        return lock(descriptor)
    except OSError:
        return True  # a file system without locks, where nobody removes what is not locked either


def _remove_if_unlocked(partial: Path) -> None:
    # O_RDWR, for a lock over NFS is one for writing; a pipe must not be waited for.
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):
        descriptor = os.open(partial, flags)
        try:
            regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
            if regular and lock(descriptor) and is_at(descriptor, partial):
                partial.unlink()
        finally:
            os.close(descriptor)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Name the file in an error of the disk, which the system does not name in one of writing."""
    try:
        yield
    except OSError as error:
        if error.errno in _OF_THE_DISK and error.filename is None:
            error.filename = str(path)
        raise
