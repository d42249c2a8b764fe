# SPDX-License-Identifier: Apache-2.0
"""Errors of data files: each message has the file, what it should hold, what it holds, advice."""

from __future__ import annotations

import os


class DataError(ValueError):
    """A data file is not what it should be.

    Attributes
    ----------
    path : str
        The file.
    expected, found : str
        What it should hold, and what it holds.
    """

    def __init__(
        self, path: str | os.PathLike[str], expected: object, found: object, advice: str
    ) -> None:
        self.path = os.fspath(path)
        self.expected = str(expected)
        self.found = str(found)
        super().__init__(f"{self.path}: expected {self.expected}, found {self.found}; {advice}")


class CorruptFileError(DataError):
    """The compressed data can't be decompressed whole: cut off, or damaged."""


class MagicError(DataError):
    """The file does not begin as an IDX file of unsigned bytes of the wanted dimensions."""


class TruncatedFileError(DataError):
    """The file ends before all the elements that its header announces."""


class TrailingBytesError(DataError):
    """The file goes on after all the elements that its header announces."""


class ShapeError(DataError):
    """The file holds a valid array, but not of the wanted shape."""


class CountMismatchError(DataError):
    """The file of labels has another number of entries than the file of images."""


class ChecksumError(DataError):
    """The file is valid, but its content is not that of the data set it is named for."""


class DownloadError(OSError):
    """No mirror could give the file; the message lists what each of them said."""
