# SPDX-License-Identifier: Apache-2.0
"""Arrays in .npy files, read piece by piece; a file that changes meanwhile is refused.

A memory map would end the process where the file is cut off, and mix old and new samples where it
is overwritten. So pieces are read, and what the system knows of the file is compared before and
after each.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Literal, Self

import numpy as np
import numpy.typing as npt

from pyrel.files.foreign import ForeignFileError, parsing, shown, too_large

DAMAGED = "is damaged or cut off ({error}); copy it again or write it anew"

_NUMBERS = "biufc"  # kinds of dtypes; an element of others may take no byte

_TICK = 20_000_000  # nanoseconds, more than a tick of the clock of usual file systems
_TICKS = 50  # a file that somebody writes to all the time is not waited for longer

State = tuple[int, int, int]


class SampleFile:
    """An array of a file: of an .npy file opened, of an .npz file in memory.

    Parameters
    ----------
    path : Path
    values : ndarray, optional
        The array, where it has been read; else `path` is an .npy file.

    Attributes
    ----------
    shape : tuple of int
    dtype : numpy.dtype

    Raises
    ------
    OSError
        The file cannot be read.
    ValueError
        It is damaged or cut off, or holds Python objects; the message names it.
    """

    def __init__(self, path: Path, values: npt.NDArray[Any] | None = None) -> None:
        self._path, self._values = path, values
        self._file: IO[bytes] | None = None
        if values is not None:
            self.shape, self.dtype = values.shape, values.dtype
            return
        self._file = path.open("rb", buffering=0)
        try:
            self._before = settled_state_of(self._file)
            self.shape, self._by_column, self.dtype = header(self._file, path)
            self._start = self._file.tell()
            self._check_size()
            self._like = self._placeholder()
        except BaseException:
            self._file.close()
            raise

    def __len__(self) -> int:
        """Return the number of samples, which is the first number of the shape."""
        return int(self.shape[0])

    def __enter__(self) -> Self:
        """Return the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    @property
    def like(self) -> npt.NDArray[Any]:
        """An array of this shape and type that takes no memory, and whose values mean nothing."""
        return self._like if self._values is None else self._values

    @property
    def sample_bytes(self) -> int:
        """Size of one sample."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def piece(self, part: slice) -> npt.NDArray[Any]:
        """Read the samples from ``part.start`` to ``part.stop``.

        Raises
        ------
        OSError
            They cannot be read, have no room in memory, or the file is not as it was when it was
            opened.
        """
        if self._values is not None:
            return self._values[part]
        self.check_unchanged()
        count = part.stop - part.start
        if self._by_column and count < len(self):
            values = self._some_of_each_column(part)
        else:
            values = self._room((count, *self.shape[1:]), "F" if self._by_column else "C")
            self._read(values.reshape(-1, order="A"), part.start * self.sample_bytes)
        self.check_unchanged()
        return values

    def whole(self) -> npt.NDArray[Any]:
        """Read all; errors as of `piece`."""
        if self._values is not None:
            return self._values
        if self.shape:
            return self.piece(slice(0, len(self)))
        value = np.empty((), self.dtype)
        self._read(value.reshape(1), 0)
        self.check_unchanged()
        return value

    def check_unchanged(self) -> None:
        """Refuse a file that is not as it was when it was opened.

        Raises
        ------
        OSError
            Something was written to it, it was cut off, renamed, removed or linked to.
        """
        if self._file is not None and state_of(self._file) != self._before:
            raise changed(self._path)

    def _some_of_each_column(self, part: slice) -> npt.NDArray[Any]:
        """Read samples of an array in Fortran order, in which samples do not lie together."""
        count, rest = part.stop - part.start, math.prod(self.shape[1:])
        columns = self._room((rest, count))
        for i, column in enumerate(columns):
            self._read(column, (i * len(self) + part.start) * self.dtype.itemsize)
        return columns.T.reshape((count, *self.shape[1:]), order="F")

    def _room(self, shape: tuple[int, ...], order: Literal["C", "F"] = "C") -> npt.NDArray[Any]:
        """Make an array to read to."""
        try:
            return np.empty(shape, self.dtype, order)
        except MemoryError:
            raise too_large(self._path, math.prod(shape) * self.dtype.itemsize) from None

    def _read(self, values: npt.NDArray[Any], offset: int) -> None:
        """Fill an array of one axis with what lies at an offset into the array of the file."""
        assert self._file is not None
        if values.nbytes == 0:
            return
        left = values.view(np.uint8).data
        try:
            self._file.seek(self._start + offset)
            while left:
                read = self._file.readinto(left)  # type: ignore[attr-defined]
                if not read:
                    raise changed(self._path)
                left = left[read:]
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error

    def _check_size(self) -> None:
        assert self._file is not None
        there = os.fstat(self._file.fileno()).st_size
        check_size(self._path, self._start, self.shape, self.dtype, there)

    def _placeholder(self) -> npt.NDArray[Any]:
        with parsing(self._path, DAMAGED):  # it may have more axes or elements than numpy can
            return np.broadcast_to(np.empty((), self.dtype), self.shape)


@contextmanager
def unchanged(path: Path) -> Iterator[BufferedReader]:
    """Open a file to read, and refuse it in the end if it changed meanwhile.

    Raises
    ------
    OSError
        The file cannot be read, or changed; then whatever else went wrong is not told.
    """
    with path.open("rb") as file:
        before = settled_state_of(file)
        try:
            yield file
        except Exception as error:
            if state_of(file) != before:
                raise changed(path) from error
            raise
        if state_of(file) != before:
            raise changed(path)


def settled_state_of(file: IO[bytes]) -> State:
    """Return the state of a file such that every later change shows.

    Times of files come from a coarse clock: of two changes within one of its ticks the second does
    not show. So a change that is younger than that is waited for to become old.
    """
    for _ in range(_TICKS):
        state = state_of(file)
        age = time.time_ns() - max(state[1:])
        if not 0 <= age < _TICK:
            break
        time.sleep((_TICK - age) / 1e9)
    return state


def state_of(file: IO[bytes]) -> State:
    """Return what changes with a file: its size, and when it and its entry were last changed."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns


def changed(path: Path) -> OSError:
    """Return the error for a file that changed while it was read."""
    return OSError(
        errno.EIO,
        "it changed while it was read; leave it alone meanwhile, and try again",
        str(path),
    )


def check_size(
    path: Path, start: int, shape: tuple[int, ...], dtype: np.dtype[Any], there: int
) -> None:
    """Refuse a file, or member of one, with fewer bytes than its array needs from ``start`` on."""
    needed = start + math.prod(shape) * dtype.itemsize
    if there < needed:
        raise _refusal(
            path,
            f"its array, {dtype} of shape {shown(shape)}, needs {needed} bytes, and it has {there}",
        )


def header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Read the shape, whether the order is Fortran's, and the type; errors as of `SampleFile`."""
    with parsing(path, DAMAGED):
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0), (3, 0)):
            raise _refusal(path, f"it has version {version[0]}.{version[1]} of the .npy format")
        # Version 3 differs in the names of fields, and no array with fields is explained.
        first = version == (1, 0)
        read = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
        shape, by_column, dtype = read(file)
        if dtype.hasobject:
            raise ForeignFileError(
                f"{shown(path)} holds Python objects, which are not read because that could "
                f"execute code; save an array of numbers"
            )
        if dtype.kind not in _NUMBERS:
            raise ForeignFileError(f"{shown(path)} holds {shown(dtype)}; save an array of numbers")
        if not all(type(number) is int and number >= 0 for number in shape):
            raise _refusal(path, f"its shape is {shown(shape)}")
    return shape, by_column and len(shape) > 1, dtype


def _refusal(path: Path, why: str) -> ForeignFileError:
    return ForeignFileError(f"{shown(path)} {DAMAGED.replace('{error}', why)}")
