# SPDX-License-Identifier: Apache-2.0
"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def replacing(*paths: Path) -> Iterator[tuple[IO[bytes], ...]]:
    """Open neighbours of files, which take their places when all of them are on the disk.

    Whatever goes wrong before, a full disk or Ctrl-C included, leaves the old files, all of them,
    and nothing else. The places are taken in the order of `paths`: only a machine that stops
    between two of these renamings leaves some files new and some old.

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
    partials = [path.with_name(f".{path.name}.{os.getpid()}.partial") for path in paths]
    try:
        with ExitStack() as stack:
            files = tuple(stack.enter_context(partial.open("wb")) for partial in partials)
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for partial, path in zip(partials, paths, strict=True):
            os.replace(partial, path)
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
