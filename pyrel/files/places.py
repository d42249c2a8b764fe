# SPDX-License-Identifier: Apache-2.0
"""Compares paths by the file that they lead to: no output replaces an input or another output."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path


def refuse_overwriting(out: Path, inputs: Mapping[str, Path]) -> None:
    """Refuse an output that is one of the files to read, by whatever name or link.

    Parameters
    ----------
    out
        Where the output is to be; it need not be there.
    inputs
        Files by what they are called in the message; they need not be there.

    Raises
    ------
    ValueError
        If they are one file.
    """
    for what, path in inputs.items():
        if same_file(out, path):
            raise ValueError(
                f"{out} is {what}, which the output would replace; give another name for the output"
            )


def refuse_shared(outputs: Mapping[str, Path]) -> None:
    """Refuse two outputs that would be one file, by whatever names or links.

    Parameters
    ----------
    outputs
        Files by what they are called in the message; they need not be there.

    Raises
    ------
    ValueError
        If two are one file.
    """
    for (what, path), (other, name) in combinations(outputs.items(), 2):
        if same_file(path, name):
            also = "" if path == name else f" ({name} is the same file)"
            raise ValueError(f"{path} is named for {what} and for {other}{also}; give two names")


def same_file(first: Path, second: Path) -> bool:
    """Return whether two paths name one file, or will when it is there."""
    if first.exists() and second.exists():
        return first.samefile(second)
    real = os.path.realpath(first), os.path.realpath(second)
    if real[0] == real[1]:
        return True
    alike = _without_case(real[0]) == _without_case(real[1])
    return alike and _ignores_case(os.path.dirname(real[0]))


def _without_case(path: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _ignores_case(folder: str) -> bool:
    """Return whether the file system of a folder takes names of another case for the same."""
    other = folder.swapcase()
    return other != folder and os.path.exists(other) and os.path.samefile(folder, other)
