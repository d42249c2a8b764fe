# SPDX-License-Identifier: Apache-2.0
"""Writing files whole or not at all."""

import fcntl
import json
import os
import re
import secrets
import stat
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

import pyrel
from pyrel.files.atomic import remove_stale, replacing, write_whole
from pyrel.files.lock import locked
from pyrel.files.temporary import temporary_folder

PARTIAL = re.compile(r"\.a\.[0-9a-f]{32}\.partial")


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


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for path in (Path("."), tmp_path / "..", tmp_path / "folder"):
        with pytest.raises(IsADirectoryError, match="a file is to be written") as caught:
            write_whole(path, b"new")
        assert (caught.value.filename, caught.value.filename2) == (str(path), None)
    assert os.listdir(tmp_path) == ["folder"]


def test_a_long_name_has_a_partial_file_too(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 127)
    with replacing(path) as (file,):
        file.write(b"new")
        (partial,) = os.listdir(tmp_path)
        fcntl.flock(file, fcntl.LOCK_UN)
        remove_stale(path)
        assert os.listdir(tmp_path) == []
        (tmp_path / partial).write_bytes(b"new")
    assert contents(tmp_path) == {path.name: "new"}


def test_permissions_are_those_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_whole(tmp_path / "a", b"new")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device: '.*/a'"), replacing(tmp_path / "a"):
        raise OSError(28, "No space left on device")


def test_threads_that_save_to_one_path_never_tear_it(tmp_path: Path) -> None:
    path, x = tmp_path / "both.program", np.ones((1, 6), np.float32)
    torch.manual_seed(0)
    made = [torch.nn.Sequential(torch.nn.Linear(6, n), torch.nn.ReLU()) for n in (3, 40)]
    explainers = [pyrel.Explainer(model, x, "gradient") for model in made]
    wanted = [explainer(x).relevance.tobytes() for explainer in explainers]
    explainers[0].save(path)
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def save(number: int) -> None:
        try:
            start.wait()
            for _ in range(100):
                explainers[number % 2].save(path)
                assert pyrel.Explainer.load(path)(x).relevance.tobytes() in wanted
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=save, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert os.listdir(tmp_path) == ["both.program"]


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in (f".a.{os.getpid()}.partial", "a"):
        (tmp_path / name).symlink_to(victim)
    write_whole(tmp_path / "a", b"new")
    assert victim.read_text() == "precious"
    assert not (tmp_path / "a").is_symlink()
    assert (tmp_path / "a").read_text() == "new"


@pytest.mark.parametrize("plant", [os.symlink, os.link, "file"])
def test_a_partial_file_is_made_only_where_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plant: object
) -> None:
    victim, digits = tmp_path / "victim", iter(["0" * 32, "1" * 32])
    victim.write_text("precious")
    planted = tmp_path / f".a.{'0' * 32}.partial"
    if plant is os.symlink or plant is os.link:
        plant(victim, planted)
    holder = os.open(victim if plant != "file" else planted, os.O_RDWR | os.O_CREAT)
    fcntl.flock(holder, fcntl.LOCK_EX)  # as a writer that lives
    monkeypatch.setattr(secrets, "token_hex", lambda _: next(digits))
    write_whole(tmp_path / "a", b"new")
    os.close(holder)
    assert victim.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == sorted([planted.name, "a", "victim"])


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left = tmp_path / f".a.{'5' * 32}.partial"
    left.write_text("half")
    others = [
        f".ab.{'5' * 32}.partial", f".a.{'5' * 31}.partial", f".a.{'5' * 32}.partial.gz",
        f"a.{'5' * 32}.partial", f".a.{'g' * 32}.partial", "victim",
    ]  # fmt: skip
    for name in others:
        (tmp_path / name).write_text("precious")
    link = tmp_path / f".a.{'6' * 32}.partial"
    link.symlink_to(tmp_path / "victim")
    folder = tmp_path / f".a.{'7' * 32}.partial"
    folder.mkdir()
    pipe = tmp_path / f".a.{'8' * 32}.partial"
    os.mkfifo(pipe)
    write_whole(tmp_path / "a", b"new")
    there = [*others, link.name, folder.name, pipe.name, "a"]
    assert sorted(os.listdir(tmp_path)) == sorted(there)


def test_what_a_living_writer_writes_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with replacing(path) as (first,):
        first.write(b"first")
        write_whole(path, b"second")
        (partial,) = (name for name in os.listdir(tmp_path) if name != "a")
        assert PARTIAL.fullmatch(partial)
        assert path.read_text() == "second"
    assert contents(tmp_path) == {"a": "first"}


def test_a_writer_whose_file_was_taken_for_left_behind_makes_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flock, calls = fcntl.flock, []

    def removed_before_it_is_locked(descriptor: int, operation: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            monkeypatch.setattr(fcntl, "flock", flock)
            remove_stale(tmp_path / "a")
            assert os.listdir(tmp_path) == []
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_before_it_is_locked)
    write_whole(tmp_path / "a", b"new")
    assert calls
    assert contents(tmp_path) == {"a": "new"}


def test_a_file_system_without_locks_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with replacing(tmp_path / "a") as (file,):
        file.write(b"first")
        remove_stale(tmp_path / "a")  # nobody knows whether its writer lives
    assert contents(tmp_path) == {"a": "first"}


def test_a_lock_says_who_holds_it(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with locked(path, "the run"):
        since = json.loads(path.read_text())["since"]
        with pytest.raises(BlockingIOError) as caught, locked(path, "the run"):
            pass
        assert path.exists()
    assert isinstance(caught.value, OSError)
    assert f"the run is in use by process {os.getpid()} on " in str(caught.value)
    assert f"since {since}" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_lock_that_a_killed_process_left_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    path.write_text('{"process": 1}' + "x" * 5000)
    with locked(path, "the run"):
        assert json.loads(path.read_text())["process"] == os.getpid()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("plant", [os.symlink, os.link])
def test_a_planted_lock_overwrites_nothing(tmp_path: Path, plant: object) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    assert callable(plant)
    plant(victim, tmp_path / ".lock")
    with pytest.raises(OSError, match="lock"), locked(tmp_path / ".lock", "the run"):
        pass
    assert victim.read_text() == "precious"


def test_a_temporary_folder_that_a_killed_process_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    elsewhere = tmp_path / "elsewhere"
    for folder in (elsewhere, tmp_path / "ours-left", tmp_path / "other"):
        folder.mkdir()
        (folder / "file").write_text("")
    (tmp_path / "ours-link").symlink_to(elsewhere)
    with temporary_folder("ours-") as first:
        (first / "file").write_text("")
        with temporary_folder("ours-") as second:
            names = {"elsewhere", "other", "ours-link", first.name, second.name}
            assert set(os.listdir(tmp_path)) == names
    assert set(os.listdir(tmp_path)) == {"elsewhere", "other", "ours-link"}
    assert os.listdir(elsewhere) == ["file"]
