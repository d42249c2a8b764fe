# SPDX-License-Identifier: Apache-2.0
"""Whether two paths name one file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pyrel.files import places
from pyrel.files.places import refuse_shared, same_file


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "real").mkdir()
    (tmp_path / "linked").symlink_to("real")
    (tmp_path / "dangling").symlink_to("real/new")
    (tmp_path / "there").write_text("")
    (tmp_path / "other").write_text("")
    (tmp_path / "soft").symlink_to("there")
    os.link(tmp_path / "there", tmp_path / "hard")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("new", "new", True),
        ("new", "real/../new", True),
        ("new", "nowhere/../new", True),
        ("real/new", "linked/new", True),
        ("real/new", "dangling", True),
        ("there", "soft", True),
        ("soft", "hard", True),
        ("there", "hard", True),
        ("new", "new2", False),
        ("new", "real/new", False),
        ("there", "other", False),
        ("there", "new", False),
        ("dangling", "there", False),
    ],
)
def test_same_file(folder: Path, first: str, second: str, same: bool) -> None:
    for one in (Path(first), folder / first):
        for other in (Path(second), folder / second):
            assert same_file(one, other) == same_file(other, one) == same


def test_names_of_another_case(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = folder / "new.npz", folder / "New.npz"
    ignored = (folder / "THERE").exists()
    assert same_file(*paths) == ignored
    monkeypatch.setattr(places, "_ignores_case", lambda _: True)
    assert same_file(*paths)
    assert not same_file(folder / "new.npz", folder / "newer.npz")


def test_the_message_names_both(folder: Path) -> None:
    refuse_shared({"the output": Path("a"), "the program": Path("b"), "the table": Path("c")})
    with pytest.raises(ValueError, match=r"^a is named for the output and for the table \(x/\.\./"):
        refuse_shared(
            {"the output": Path("a"), "the program": Path("b"), "the table": Path("x/../a")}
        )
