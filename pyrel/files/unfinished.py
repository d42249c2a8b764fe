# SPDX-License-Identifier: Apache-2.0
"""A file that takes long to write, and what a killed process left of it.

Its partial file has a journal beside it, ``.NAME.unfinished``, which says what the file is made of
and which pieces are done. After an error, Ctrl-C or SIGTERM both are removed; only what nobody can
catch leaves them, such as SIGKILL. The next writer of the same content then takes over the pieces
that are whole.

The journal is its owner's alone, and locked while a process works: another one that is to write the
same file meanwhile is refused. Where there can be no journal, the file is written without one, as
`pyrel.files.atomic.replacing` does, and nothing can be taken over: because somebody else put a file
there, or the file system has no locks.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import logging
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pyrel.files.atomic import (
    hidden_name,
    is_at,
    is_partial,
    lock,
    naming,
    new_partial,
    real_place,
    remove_stale,
    replacing,
)

_LOGGER = logging.getLogger("pyrel")
_FORMAT = 1
_TRIES = 100


@dataclass(frozen=True)
class Piece:
    """A piece that is done.

    Attributes
    ----------
    key : str
        Digest of what it was made of.
    checksum : int
        CRC-32 of its bytes in the file.
    columns : dict of ndarray
        Small arrays that belong to it, for the end of the file.
    """

    key: str
    checksum: int
    columns: dict[str, npt.NDArray[Any]]


class Journal:
    """The pieces that are done, the first one first.

    Parameters
    ----------
    file : binary file, optional
        Open for reading and writing; without one nothing is kept.
    identity : str
        Digest of what is the same for all pieces; a journal of another one is not looked at.

    Attributes
    ----------
    content : str
        Name of the partial file that has the pieces; empty if there is none.
    """

    def __init__(self, file: IO[bytes] | None = None, identity: str = "") -> None:
        self._file, self._identity = file, identity
        self._pieces: list[Piece] = []
        self._ends = [0]  # in the journal, of the head and of each piece
        self.content = ""
        if file is not None:
            self._read(file)

    def start(self, content: str) -> None:
        """Begin a journal without pieces, of a partial file of this name."""
        if self._file is not None:
            self.content, self._pieces, self._ends = content, [], [0]
            self.keep(0)
            head = {"format": _FORMAT, "identity": self._identity, "content": content}
            self._file.write(_line(head))
            self._file.flush()
            self._ends = [self._file.tell()]

    @property
    def kept(self) -> bool:
        """True if there is a journal."""
        return self._file is not None

    def __len__(self) -> int:
        """Return the number of pieces that are done."""
        return len(self._pieces)

    def piece(self, number: int, key: str) -> Piece | None:
        """Return a piece if it is done, and was made of the same."""
        if number < len(self._pieces) and self._pieces[number].key == key:
            return self._pieces[number]
        return None

    def keep(self, count: int) -> None:
        """Forget all pieces but the first ones."""
        if self._file is not None:
            del self._pieces[count:], self._ends[count + 1 :]
            self._file.seek(self._ends[-1])
            self._file.truncate()
            self._file.flush()

    def add(self, piece: Piece) -> None:
        """Write down that the next piece is done; its bytes have to be in the file already."""
        if self._file is not None:
            self._file.write(_line(_encoded(piece)))
            self._file.flush()
            self._pieces.append(piece)
            self._ends.append(self._file.tell())

    def _read(self, file: IO[bytes]) -> None:
        line = file.readline()
        head = _checked(line)
        if head is None or [head.get("format"), head.get("identity")] != [_FORMAT, self._identity]:
            return
        self.content, self._ends = head["content"], [len(line)]
        for line in file:
            content = _checked(line)
            if content is None:
                break  # the writer was killed in the middle of it
            self._pieces.append(_decoded(content))
            self._ends.append(self._ends[-1] + len(line))
        self.keep(len(self._pieces))


@contextmanager
def resumable(path: Path, identity: str) -> Iterator[tuple[IO[bytes], Journal]]:
    """Open a file that takes its place when it is complete, and what a killed process left of it.

    Parameters
    ----------
    path : Path
        A file that may or may not exist, in a folder that does.
    identity : str
        Digest of all that the content depends on beside the keys of the pieces.

    Yields
    ------
    file : binary file
        Open for reading and writing, from the start. It may have the bytes of an earlier writer,
        which are to be written again; what lies behind the last byte written is cut off.
    journal : Journal

    Raises
    ------
    OSError
        A file cannot be written, or another process is writing it.
    """
    place = real_place(path)
    hidden = _hidden(place)
    try:
        log = _taken(hidden, os.O_CREAT)
    except BlockingIOError as error:
        told = "another process is writing this file; wait for its end, or write to another one"
        raise BlockingIOError(error.errno, told, str(path)) from None
    if log is None:
        with replacing(path) as (file,):
            yield file, Journal()
        return
    partials: list[Path] = []
    try:
        with naming(path):
            journal = Journal(log, identity)
            with _content(journal, place, partials) as file:
                remove_stale(place)
                yield file, journal
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
                os.replace(partials[0], place)
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
        _remove(hidden, log)


def remove_unfinished(path: Path) -> None:
    """Remove the journal that a killed process left of a file; not one that is in use."""
    hidden = _hidden(real_place(path))
    with contextlib.suppress(BlockingIOError):
        log = _taken(hidden, 0)
        if log is not None:
            _remove(hidden, log)


def _hidden(place: Path) -> Path:
    return place.with_name(hidden_name(place.name, "unfinished"))


def _taken(hidden: Path, make: int) -> IO[bytes] | None:
    """Open the journal and lock it; None if it is not to be used, or there is none.

    Raises
    ------
    BlockingIOError
        Another process has locked it.
    """
    for _ in range(_TRIES):
        file = _opened(hidden, make)
        if file is None:
            return None
        try:
            free, there = lock(file.fileno()), is_at(file.fileno(), hidden)
        except BaseException as error:
            if os.fstat(file.fileno()).st_size == 0:
                _remove(hidden, file)
            file.close()
            if isinstance(error, OSError):
                return None  # there are no locks
            raise
        if free and there:
            return file
        file.close()
        if there:
            raise BlockingIOError(errno.EAGAIN, "another process has locked it", str(hidden))
        # Another process has just removed it.
    return None


def _opened(hidden: Path, make: int) -> IO[bytes] | None:
    """Open the journal; None if there is none, or it is not this user's alone."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        file = os.fdopen(os.open(hidden, flags | make, 0o600), "r+b")
    except FileNotFoundError:
        return None
    except OSError as error:
        if os.path.lexists(hidden):
            _say_foreign(hidden, str(error.strerror))
        return None  # where it cannot be made, the file itself cannot either, and that is told
    if _is_own(file.fileno(), 0o077):
        return file
    _say_foreign(hidden, "others may have written to it")
    file.close()
    return None


def _content(journal: Journal, place: Path, partials: list[Path]) -> IO[bytes]:
    """Open the partial file of the journal, or make one for it."""
    if is_partial(journal.content, place.name):
        partial = place.with_name(journal.content)
        with contextlib.suppress(OSError):
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            file: IO[bytes] = os.fdopen(os.open(partial, flags), "r+b")
            own = _is_own(file.fileno(), 0) and lock(file.fileno())
            if own and is_at(file.fileno(), partial):
                partials.append(partial)
                return file
            file.close()
    made = new_partial(place, partials)
    journal.start(partials[0].name)
    return made


def _is_own(descriptor: int, without: int) -> bool:
    """Return whether a file is a regular one of this user alone, without some permissions."""
    status = os.fstat(descriptor)
    own = status.st_uid == os.geteuid() and status.st_nlink <= 1  # 0 where it was just removed
    return own and stat.S_ISREG(status.st_mode) and not status.st_mode & without


def _say_foreign(hidden: Path, why: str) -> None:
    _LOGGER.warning(
        "%s was not made by pyrel for you (%s) and is left alone: if this process is killed, the "
        "next one starts anew",
        *(hidden, why),
    )


def _remove(hidden: Path, log: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        if is_at(log.fileno(), hidden):
            hidden.unlink()
    with contextlib.suppress(OSError):
        log.close()  # it may have something left to write to a full disk


def _line(content: dict[str, Any]) -> bytes:
    text = json.dumps(content).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _checked(line: bytes) -> dict[str, Any] | None:
    """Return the content of a line; None if it is not whole."""
    checksum, _, text = line.rstrip(b"\n").partition(b" ")
    if not line.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(text):
        return None
    content: dict[str, Any] = json.loads(text)
    return content


def _encoded(piece: Piece) -> dict[str, Any]:
    columns = {
        name: [str(array.dtype), list(array.shape), base64.b64encode(array.tobytes()).decode()]
        for name, array in piece.columns.items()
    }
    return {"key": piece.key, "checksum": piece.checksum, "columns": columns}


def _decoded(content: dict[str, Any]) -> Piece:
    columns = {
        name: np.frombuffer(base64.b64decode(data), dtype).reshape(shape)
        for name, (dtype, shape, data) in content["columns"].items()
    }
    return Piece(content["key"], content["checksum"], columns)
