# SPDX-License-Identifier: Apache-2.0
"""Reader for IDX files of unsigned bytes, plain or gzipped: the format of MNIST and its relatives.

The format (http://yann.lecun.com/exdb/mnist/): two zero bytes, the type of the elements (8 is
unsigned byte), the number of dimensions, each dimension as a big-endian 32-bit integer, then the
elements, the last dimension fastest.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pyrel.data.errors import (
    CorruptFileError,
    CountMismatchError,
    MagicError,
    ShapeError,
    TrailingBytesError,
    TruncatedFileError,
)

_UNSIGNED_BYTE = 8
_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 20
_FETCH_AGAIN = "the file is damaged or incomplete: delete it, and fetch it again"


@dataclass(frozen=True)
class IdxContent:
    """The content of an IDX file.

    Attributes
    ----------
    array : array of uint8
        Of the shape that the header says; writable.
    sha256 : str
        Of the whole decompressed file, header included.
    """

    array: npt.NDArray[np.uint8]
    sha256: str


def read_idx(path: str | os.PathLike[str], dimensions: int) -> IdxContent:
    """Read an IDX file of unsigned bytes, plain or gzipped (told by its content, not its name).

    Parameters
    ----------
    path : path
    dimensions : int
        The number of dimensions that the array has to have.

    Returns
    -------
    IdxContent

    Raises
    ------
    pyrel.data.DataError
        `CorruptFileError`, `MagicError`, `TruncatedFileError` or `TrailingBytesError`.
    OSError
        If the file can't be opened or read.
    """
    with _decompressed(path) as file:
        digest = hashlib.sha256()
        shape = _read_header(path, file, dimensions, digest)
        wanted = math.prod(shape)
        elements = _read_elements(path, file, wanted)
        surplus = sum(len(chunk) for chunk in iter(lambda: file.read(_CHUNK), b""))
    if surplus:
        raise TrailingBytesError(
            path,
            f"{wanted} bytes of elements, as the header says {shape}",
            f"{wanted + surplus} bytes",
            _FETCH_AGAIN,
        )
    digest.update(elements)
    try:
        array = np.frombuffer(elements, np.uint8).reshape(shape)
    except ValueError:  # an empty array whose other dimensions overflow
        raise ShapeError(path, "a shape that an array can have", shape, _FETCH_AGAIN) from None
    return IdxContent(array, digest.hexdigest())


def read_pair(
    images_path: str | os.PathLike[str], labels_path: str | os.PathLike[str]
) -> tuple[IdxContent, IdxContent]:
    """Read a file of 28×28 images and the file of labels that belongs to it.

    Raises
    ------
    pyrel.data.DataError
        As `read_idx`, and `ShapeError` or `CountMismatchError` where the arrays don't fit.
    """
    images = read_idx(images_path, dimensions=3)
    if images.array.shape[1:] != (28, 28):
        raise ShapeError(
            images_path,
            "images of 28×28 pixels",
            f"an array of shape {images.array.shape}",
            "scale or crop them",
        )
    labels = read_idx(labels_path, dimensions=1)
    if len(labels.array) != len(images.array):
        raise CountMismatchError(
            labels_path,
            f"{len(images.array)} labels, one for each image of {os.fspath(images_path)}",
            f"{len(labels.array)} labels",
            "the two files do not belong together",
        )
    return images, labels


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


@contextmanager
def _decompressed(path: str | os.PathLike[str]) -> Iterator[_Readable]:
    """Open a file for reading, through gzip where its content is gzipped."""
    with open(path, "rb") as raw:
        if raw.read(2) != _GZIP_MAGIC:
            raw.seek(0)
            yield raw
            return
        raw.seek(0)
        try:
            with gzip.open(raw) as file:
                yield file
        except EOFError:
            raise TruncatedFileError(
                path,
                "the end of the gzip stream",
                f"the end of the file after {os.stat(path).st_size} bytes",
                _FETCH_AGAIN,
            ) from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise CorruptFileError(
                path, "a valid gzip stream and nothing after it", error, _FETCH_AGAIN
            ) from error


def _read_header(
    path: str | os.PathLike[str], file: _Readable, dimensions: int, digest: hashlib._Hash
) -> tuple[int, ...]:
    magic = file.read(4)
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    if magic != expected:
        raise MagicError(
            path,
            f"0x{expected.hex()}, the beginning of unsigned bytes in {dimensions} dimensions",
            f"0x{magic.hex()}" if magic else "an empty file",
            "this is another kind of file (a saved error page? images and labels exchanged?)",
        )
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise TruncatedFileError(
            path,
            f"a header of {4 + 4 * dimensions} bytes",
            f"{4 + len(sizes)} bytes",
            _FETCH_AGAIN,
        )
    digest.update(magic + sizes)
    return struct.unpack(f">{dimensions}I", sizes)


def _read_elements(path: str | os.PathLike[str], file: _Readable, wanted: int) -> bytearray:
    """Read in chunks: a false header must not claim memory that the file does not fill."""
    elements = bytearray()
    while len(elements) < wanted:
        chunk = file.read(min(_CHUNK, wanted - len(elements)))
        if not chunk:
            raise TruncatedFileError(
                path, f"{wanted} bytes of elements", f"{len(elements)} bytes", _FETCH_AGAIN
            )
        elements += chunk
    return elements
