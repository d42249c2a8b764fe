# SPDX-License-Identifier: Apache-2.0
"""Writing files whole or not at all."""

import os
from pathlib import Path

import pytest

from pyrel.files.atomic import replacing, write_whole


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    return tmp_path / "a", tmp_path / "b"


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in folder.iterdir()}


def test_files_take_their_places_together(pair: tuple[Path, Path]) -> None:
    with replacing(*pair) as files:
        for file in files:
            file.write(b"new")
            file.flush()
        assert [path.read_text() for path in pair] == ["old", "old"]
    assert contents(pair[0].parent) == {"a": "new", "b": "new"}


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_while_writing_leaves_the_old_files(
    pair: tuple[Path, Path], error: BaseException
) -> None:
    with pytest.raises(type(error)), replacing(*pair) as (first, _):
        first.write(b"new")
        raise error
    assert contents(pair[0].parent) == {"a": "old", "b": "old"}


@pytest.mark.parametrize("kind", [OSError, KeyboardInterrupt])
def test_a_disk_that_fills_with_the_second_file_leaves_both(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, kind: type[BaseException]
) -> None:
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise kind

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(kind), replacing(*pair) as files:
        for file in files:
            file.write(b"new")
    assert contents(pair[0].parent) == {"a": "old", "b": "old"}


def test_a_place_that_cannot_be_taken_leaves_no_partial_file(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path / "a", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        write_whole(tmp_path / "nowhere" / "a", b"new")
