# SPDX-License-Identifier: Apache-2.0
"""Images with labels, by the name of the data set or from files of your own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pyrel.data.download import download
from pyrel.data.errors import ChecksumError, DataError
from pyrel.data.idx import IdxContent, read_idx, read_pair
from pyrel.data.mini import load_mini
from pyrel.data.sources import SOURCES, Source, SourceFile

_SYSTEM_FOLDER = Path("/usr/share/datasets")  # Debian's package dataset-fashion-mnist
_SPLITS = ("train", "test")


def load_images(
    name: str, split: str = "train", root: str | os.PathLike[str] | None = None
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Load a split of a data set.

    ``mnist-mini`` (5,000 training and 1,000 test digits of MNIST, the same number of each class; CC
    BY-SA 3.0, as MNIST) is in the package. The files of ``mnist`` (LeCun, Cortes, Burges) and
    ``fashion-mnist`` (Xiao, Rasul, Vollgraf) are looked for in `root`, then in the folder that the
    environment variable ``PYREL_DATA_DIR`` names, then in the user's cache
    (``$XDG_CACHE_HOME/pyrel`` or ``~/.cache/pyrel``), then in ``/usr/share/datasets``: in each in a
    subfolder of the name of the data set, then in the folder itself, gzipped or plain. A file found
    nowhere is downloaded to the cache. Where the files come from makes no difference: the content
    is always checked against the known sha256.

    Parameters
    ----------
    name : str
        ``"mnist"``, ``"fashion-mnist"`` or ``"mnist-mini"``.
    split : str
        ``"train"`` or ``"test"``.
    root : path, optional
        The folder to look in first; has no effect on ``mnist-mini``.

    Returns
    -------
    images : array of uint8, shape (n, 28, 28)
    labels : array of int64, shape (n,)

    Raises
    ------
    ValueError
        If `name` or `split` is another one.
    pyrel.data.DataError
        If a file is damaged or another one than it should be. For data of your own, see
        `read_images`.
    pyrel.data.DownloadError
        If no mirror gave the file.

    Examples
    --------
    >>> images, labels = pyrel.data.load_images("mnist-mini")
    >>> images.shape, images.dtype, np.bincount(labels)[:3]
    ((5000, 28, 28), dtype('uint8'), array([500, 500, 500]))
    """
    _check_choice("split", split, _SPLITS)
    if name == "mnist-mini":
        return load_mini(split)
    _check_choice("name", name, (*SOURCES, "mnist-mini"))
    source = SOURCES[name]
    files = source.splits[split]
    paths = [_find(source, file, root) or download(source, file, _cache() / name) for file in files]
    contents = read_pair(paths[0], paths[1])
    for path, file, content in zip(paths, files, contents, strict=True):
        _check_sum(path, source, file, content)
    return _arrays(contents)


def read_images(
    images_path: str | os.PathLike[str], labels_path: str | os.PathLike[str]
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Read 28×28 images and their labels from IDX files of your own, gzipped or plain.

    Parameters
    ----------
    images_path, labels_path : path
        IDX files of unsigned bytes with 3 and with 1 dimensions.

    Returns
    -------
    images : array of uint8, shape (n, 28, 28)
    labels : array of int64, shape (n,)

    Raises
    ------
    pyrel.data.DataError
        If a file is damaged or another kind of file, or the two do not fit; the message has the
        file, what was expected and what was found.
    """
    return _arrays(read_pair(images_path, labels_path))


def _arrays(
    contents: tuple[IdxContent, IdxContent],
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    images, labels = contents
    return images.array, labels.array.astype(np.int64)


def _check_choice(argument: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        wanted = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"{argument}: got {value!r}, one of {wanted} is wanted")


def _cache() -> Path:
    """Return pyrel's folder in the user's cache."""
    # The XDG base directory specification: a relative path is to be ignored.
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "pyrel"


def _places(root: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Yield the folders to look in, in order."""
    if root is not None:
        yield Path(root)
    if os.environ.get("PYREL_DATA_DIR"):
        yield Path(os.environ["PYREL_DATA_DIR"])
    yield _cache()
    yield _SYSTEM_FOLDER


def _find(source: Source, file: SourceFile, root: str | os.PathLike[str] | None) -> Path | None:
    for place in _places(root):
        for folder in (place / source.name, place):
            for path in (folder / f"{file.name}.gz", folder / file.name):
                # A folder without the name of a set may hold any: pass over another known set.
                if path.is_file() and (folder != place or not _of_another_set(path, source, file)):
                    return path
    return None


def _of_another_set(path: Path, source: Source, file: SourceFile) -> bool:
    try:
        owner = _owner(read_idx(path, file.dimensions).sha256)
    except DataError:
        return False  # reported where the file is read for good
    return owner is not None and owner[0] is not source


def _owner(sha256: str) -> tuple[Source, SourceFile] | None:
    """Return the known file that has this checksum."""
    for source in SOURCES.values():
        for files in source.splits.values():
            for file in files:
                if file.sha256 == sha256:
                    return source, file
    return None


def _check_sum(path: Path, source: Source, file: SourceFile, content: IdxContent) -> None:
    if content.sha256 == file.sha256:
        return
    found = f"sha256 {content.sha256}"
    if owner := _owner(content.sha256):
        found += f", which is {owner[1].name} of {owner[0].name}"
    if path.is_relative_to(_cache()):
        advice = "delete the file, and it will be downloaded again"
    else:
        advice = "move the file away; for data of your own there is pyrel.data.read_images"
    raise ChecksumError(
        path,
        f"{file.name} of {source.name} with sha256 {file.sha256} (decompressed)",
        found,
        advice,
    )
