# SPDX-License-Identifier: Apache-2.0
"""Downloads of data files: from the first mirror that gives the right content, with resume.

A download grows in ``NAME.gz.part`` and gets its name only when its content has been checked, so
what has the name is whole. The ``.part`` is locked while a process works on it: a second process
waits, and then finds the file there.
"""

from __future__ import annotations

import errno
import fcntl
import http.client
import logging
import os
import stat
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from pyrel.data._progress import DownloadLine
from pyrel.data.errors import DataError, DownloadError
from pyrel.data.idx import read_idx
from pyrel.data.sources import Source, SourceFile
from pyrel.files.atomic import is_at

_log = logging.getLogger("pyrel")

_TIMEOUT = 30.0  # seconds without a byte
_CHUNK = 1 << 16
_MOST_BYTES = (
    64 << 20
)  # more than any of the files: a mirror that never ends must not fill the disk


class _MirrorError(Exception):
    """A mirror does not give the file; the message says why."""


def download(source: Source, file: SourceFile, folder: Path) -> Path:
    """Download a file of a data set to `folder`, unless another process has just done it.

    Parameters
    ----------
    source, file
        Which file; ``source.mirrors`` are tried in their order.
    folder : Path
        Made where it does not exist. After an interruption it keeps ``NAME.gz.part``, which the
        next try continues.

    Returns
    -------
    Path
        The gzipped file, whose content has been checked.

    Raises
    ------
    pyrel.data.DownloadError
        If all mirrors fail, with the reason of each, or if the folder can't be written.
    """
    try:
        return _download(source, file, folder)
    except DownloadError:
        raise
    except OSError as error:
        raise DownloadError(
            f"{folder}: {file.name}.gz can't be written there ({error}). Set the environment "
            "variable XDG_CACHE_HOME to a folder that can be written, or PYREL_DATA_DIR to one "
            f"with the file {source.name}/{file.name}.gz."
        ) from error


def _download(source: Source, file: SourceFile, folder: Path) -> Path:
    target = folder / f"{file.name}.gz"
    part = folder / f"{file.name}.gz.part"
    folder.mkdir(parents=True, exist_ok=True)
    while not target.exists():
        with _locked(part) as stream:
            if not is_at(stream.fileno(), part):
                continue  # the process that had the lock renamed or removed it
            if target.exists():
                part.unlink()
                break
            try:
                _fetch(source, file, stream, part)
            finally:
                stream.flush()
                if part.stat().st_size == 0:
                    part.unlink()
            os.replace(part, target)
            _sync_folder(folder)
    return target


@contextmanager
def _locked(part: Path) -> Iterator[IO[bytes]]:
    """Open `part` for appending, as its only user; a link at its place is not followed."""
    with open(part, "a+b", opener=_own_file) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.warning("%s: another process downloads this file, waiting for it", part)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def _own_file(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise FileExistsError(errno.EEXIST, "this is no download of pyrel; remove it", path)
    return descriptor


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fetch(source: Source, file: SourceFile, stream: IO[bytes], part: Path) -> None:
    """Fill `stream`, open on `part`, from the first mirror that gives the right content."""
    failures = []
    for mirror in source.mirrors:
        url = f"{mirror}{file.name}.gz"
        _log.info("downloading %s", url)
        try:
            _fetch_from(url, file, stream, part)
        except _MirrorError as failure:
            failures.append(f"{url}: {failure}")
        else:
            return
    raise DownloadError(
        f"{file.name} of {source.name}: no mirror gave the file. Tried\n  "
        + "\n  ".join(failures)
        + f"\nTry again later, or set the environment variable PYREL_DATA_DIR to a folder with the "
        f"file {source.name}/{file.name}.gz."
    )


def _fetch_from(url: str, file: SourceFile, stream: IO[bytes], part: Path) -> None:
    resumed = _transfer(url, stream, f"{file.name}.gz")
    problem = _problem(part, file)
    if problem and resumed:
        # The beginning may be another mirror's, which compressed the same content otherwise.
        stream.truncate(0)
        _transfer(url, stream, f"{file.name}.gz")
        problem = _problem(part, file)
    if problem:
        stream.truncate(0)
        raise _MirrorError(problem)


def _problem(part: Path, file: SourceFile) -> str:
    """Say what is wrong with the downloaded content; empty if nothing is."""
    try:
        found = read_idx(part, file.dimensions).sha256
    except DataError as error:
        return f"expected {error.expected}, found {error.found}"
    return "" if found == file.sha256 else f"expected sha256 {file.sha256}, found {found}"


def _transfer(url: str, stream: IO[bytes], label: str) -> bool:
    """Append what is missing to `stream`; return whether an earlier beginning was kept."""
    offset = stream.seek(0, os.SEEK_END)
    response = _open(url, offset)
    if response is None:
        return True
    with response, DownloadLine(label) as bar:
        if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the whole file: no ranges here
            stream.truncate(0)
            offset = 0
        elif not response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
            given = response.headers.get("Content-Range")
            raise _MirrorError(f"asked for the bytes from {offset}, got the range {given}")
        _append(response, stream, offset, bar)
    stream.flush()
    os.fsync(stream.fileno())
    return offset > 0


def _open(url: str, offset: int) -> http.client.HTTPResponse | None:
    """Ask for the bytes from `offset`; None if the server has nothing after it."""
    request = urllib.request.Request(url, headers={"User-Agent": "pyrel"})
    if offset:
        request.add_header("Range", f"bytes={offset}-")
    try:
        with _network():
            response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_TIMEOUT)
            return response
    except urllib.error.HTTPError as error:
        error.close()
        if offset and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None
        raise _MirrorError(f"HTTP {error.code} {error.reason}") from error


def _append(
    response: http.client.HTTPResponse, stream: IO[bytes], done: int, bar: DownloadLine
) -> None:
    length = response.headers.get("Content-Length", "")
    total = done + int(length) if length.isdecimal() else None
    while chunk := _read(response):
        stream.write(chunk)
        done += len(chunk)
        bar.show(done, total)
        if done > _MOST_BYTES:
            stream.truncate(0)
            raise _MirrorError(f"more than {_MOST_BYTES} bytes, the file is smaller")
    if total is not None and done != total:
        raise _MirrorError(f"the connection ended after {done} of {total} bytes")


def _read(response: http.client.HTTPResponse) -> bytes:
    with _network():
        return response.read(_CHUNK)


@contextmanager
def _network() -> Iterator[None]:
    """Turn a failure of the network into a reason to try the next mirror."""
    try:
        yield
    except urllib.error.HTTPError:
        raise  # an answer, not a failure
    except urllib.error.URLError as error:
        raise _MirrorError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _MirrorError(f"{type(error).__name__} {error}".rstrip()) from error
