# SPDX-License-Identifier: Apache-2.0
"""Arrays in .npy and .npz files: opened without trust, written whole or not at all."""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from pyrel.files.foreign import ForeignFileError, parsing, shown
from pyrel.files.samples import DAMAGED, SampleFile, check_size, header, unchanged

_NPY = b"\x93NUMPY"
_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second begins an archive without members
_ENCRYPTED = 1  # a flag of a member in an archive


def open_array(path: str | os.PathLike[str], key: str | None = None) -> SampleFile:
    """Open the array of an .npy file, to read piece by piece, or read one of an .npz file.

    What the file is is seen by its first bytes, not by its name. Pickled objects are refused, for
    reading them executes what the file says.

    Parameters
    ----------
    path
        The file.
    key
        Name of the array in an .npz file; not needed if it holds a single one.

    Raises
    ------
    OSError
        If the file cannot be read, or changes meanwhile.
    ValueError
        If it is no such file, is damaged or truncated, holds objects, or not the wanted array; the
        message names the file.
    """
    path = Path(path)
    with path.open("rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise ValueError(
                f"{shown(path)} is a pipe or a device, and arrays are read from regular files; "
                f"write it to a file first"
            )
        start = file.read(len(_NPY))
    if start == _NPY:
        return _open_npy(path, key)
    if start.startswith(_ZIP):
        return SampleFile(path, _read_npz(path, key))
    raise ValueError(
        f"{shown(path)} is neither an .npy nor an .npz file; write one with numpy.save or "
        f"numpy.savez"
    )


def read_array(path: str | os.PathLike[str], key: str | None = None) -> npt.NDArray[Any]:
    """Read the array of an .npy or .npz file; as `open_array`."""
    with open_array(path, key) as file:
        return file.whole()


def _open_npy(path: Path, key: str | None) -> SampleFile:
    if key is not None:
        raise ValueError(
            f"key: given {key!r}, but {shown(path)} is an .npy file, which holds one array"
        )
    return SampleFile(path)


def _read_npz(path: Path, key: str | None) -> npt.NDArray[Any]:
    with unchanged(path) as file, parsing(path, DAMAGED), zipfile.ZipFile(file) as archive:
        members = {m.filename.removesuffix(".npy"): m for m in archive.infolist()}
        name = _chosen(path, list(members), key)
        member = members[name]
        if member.flag_bits & _ENCRYPTED:
            raise ForeignFileError(
                f"{shown(path)} has an encrypted array {shown(name)}; write it without a password"
            )
        with archive.open(member) as content:
            shape, _, dtype = header(content, path)
            check_size(path, content.tell(), shape, dtype, member.file_size)
        with archive.open(member) as content:
            return _array(path, content)


def _array(path: Path, content: IO[bytes]) -> npt.NDArray[Any]:
    try:
        array: npt.NDArray[Any] = np.lib.format.read_array(content, allow_pickle=False)
    except MemoryError as error:
        raise ForeignFileError(
            f"{shown(path)} holds an array that does not fit in memory ({shown(error)}); an .npy "
            f"file is read part by part"
        ) from error
    return array


def _chosen(path: Path, names: list[str], key: str | None) -> str:
    if key is None and len(names) == 1:
        return names[0]
    there = shown(", ".join(names) or "none")
    if key is None:
        raise ForeignFileError(
            f"{shown(path)} holds {len(names)} arrays ({there}); say which one by its key"
        )
    if key not in names:
        raise ForeignFileError(f"key: {shown(path)} has no array {key!r}; its arrays: {there}")
    return key


class NpzWriter:
    """An .npz file in the making, one array after the other; see `npz_in`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive

    @contextmanager
    def parts(self, name: str, shape: tuple[int, ...], dtype: npt.DTypeLike) -> Iterator[IO[bytes]]:
        """Open an array of a known shape, to write its elements to in C order."""
        header = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(dtype)),
            "fortran_order": False,
            "shape": shape,
        }
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            yield member

    def add(self, name: str, array: npt.NDArray[Any]) -> None:
        """Write a whole array."""
        with self._archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, array, allow_pickle=False)


@contextmanager
def npz_in(file: IO[bytes]) -> Iterator[NpzWriter]:
    """Write an .npz file to an open file, from its start."""
    with zipfile.ZipFile(file, "w") as archive:
        yield NpzWriter(archive)
