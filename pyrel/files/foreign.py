# SPDX-License-Identifier: Apache-2.0
"""Errors of file readers: a damaged or foreign file is a ValueError that names the file.

The parsers of numpy, zipfile, json and safetensors raise whatever their code meets in a damaged
file, from SyntaxError to OverflowError, and repeat what it holds.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path

_LONGEST = 600  # characters of a text that is repeated

# Errors that tell of what is in a file: no number, or a place to read at that is none.
_OF_CONTENT = (None, errno.EINVAL, errno.EOVERFLOW)


def shown(text: object, longest: int = _LONGEST) -> str:
    """Return a text from a file such that it can be printed, on one line and on any terminal.

    Control characters, lone surrogates and what else is not printable are escaped, and what is long
    is cut off.
    """
    whole = str(text)
    some = "".join(c if c.isprintable() else _escaped(c) for c in whole[:longest])
    return some if len(whole) <= longest else f"{some}…"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode()


def read_whole(path: Path) -> bytes:
    """Return what a file holds.

    Raises
    ------
    OSError
        It cannot be read, or does not fit in memory.
    """
    try:
        return path.read_bytes()
    except MemoryError:
        raise too_large(path, path.stat().st_size) from None


def too_large(path: Path, size: int) -> OSError:
    """Return the error for a file of which so many bytes do not fit in memory."""
    told = f"there is no memory for {size:,} bytes of it"
    return OSError(errno.ENOMEM, told, str(path))


class ForeignFileError(ValueError):
    """A file is not what it should be, which the message says in full."""


@contextmanager
def parsing(path: str | PathLike[str], refusal: str) -> Iterator[None]:
    """Turn whatever a parser raises into a refusal of the file; what is said in full passes.

    Parameters
    ----------
    path : path
    refusal : str
        What the message says, with "{error}" where it repeats the parser's own.

    Raises
    ------
    ForeignFileError
        The file is damaged.
    OSError
        The system could not read it; the error has its name.
    """
    try:
        yield
    except ForeignFileError:
        raise
    except OSError as error:
        if error.filename is not None:
            raise
        if error.errno in _OF_CONTENT:
            raise _refusal(path, refusal, error) from error
        raise OSError(error.errno, error.strerror, fspath(path)) from error
    except Exception as error:  # of any type: see above
        raise _refusal(path, refusal, error) from error


def _refusal(path: str | PathLike[str], refusal: str, error: Exception) -> ForeignFileError:
    told = shown(error) or type(error).__name__
    return ForeignFileError(f"{shown(fspath(path))} {refusal.replace('{error}', told)}")
