# SPDX-License-Identifier: Apache-2.0
"""Explaining a file: inputs that change, any order of memory, going on after a kill."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from unittest import TestCase

import numpy as np
import pytest
import torch

import pyrel
from pyrel import explain_file as module
from pyrel.explain_file import explain_file
from pyrel.files import samples
from pyrel.files.arrays import open_array, read_array

COUNT = 20


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "small.program"
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 5), torch.nn.ReLU())
    pyrel.Explainer(model, np.ones((1, 3, 2), np.float32), "lrp_epsilon").save(path)
    return path


@pytest.fixture(scope="module")
def explainer(program: Path) -> pyrel.Explainer:
    return pyrel.Explainer.load(program)


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(COUNT, 3, 2)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART_SAMPLES", 3)


def changed_after_two_parts(change: Callable[[], None]) -> Callable[[int, int], None]:
    def progress(done: int, _: int) -> None:
        if done == 6:
            change()

    return progress


def cut_off(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def overwrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"1234")


def overwrite_unseen(path: Path) -> None:
    """Overwrite, and set the time of the last change back, as copying programs do."""
    before = path.stat()
    overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"1")


def test_an_input_that_is_cut_off_is_refused(program: Path, x: np.ndarray, tmp_path: Path) -> None:
    # In a process of its own, which a memory map of a cut file would end.
    source, out = tmp_path / "x.npy", tmp_path / "r.npz"
    np.save(source, x)
    script = (
        "import sys, pyrel, test_explain_file as here; from pathlib import Path\n"
        "here.module._PART_SAMPLES = 3\n"
        "program, source, out = sys.argv[1:]\n"
        "here.explain_file(pyrel.Explainer.load(program), source, out,\n"
        "    progress=here.changed_after_two_parts(lambda: here.cut_off(Path(source))))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, program, source, out],
        cwd=Path(__file__).parent, stderr=subprocess.PIPE, text=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stderr
    told = ended.stderr.splitlines()[-1]
    assert told.startswith("OSError: ")
    assert "it changed while it was read" in told
    assert str(source) in told
    assert os.listdir(tmp_path) == ["x.npy"]


@pytest.mark.parametrize("change", [overwrite, overwrite_unseen, append, cut_off])
@pytest.mark.parametrize("order", ["C", "F"])
def test_an_input_that_changes_is_refused(
    explainer: pyrel.Explainer,
    x: np.ndarray,
    tmp_path: Path,
    order: str,
    change: Callable[[Path], None],
) -> None:
    source, out = tmp_path / "x.npy", tmp_path / "r.npz"
    np.save(source, np.asarray(x, order=order))
    progress = changed_after_two_parts(lambda: change(source))
    with pytest.raises(OSError, match=r"it changed while it was read.*x\.npy"):
        explain_file(explainer, source, out, progress=progress)
    assert os.listdir(tmp_path) == ["x.npy"]


def test_a_change_after_the_last_part_is_seen_too(
    explainer: pyrel.Explainer, x: np.ndarray, tmp_path: Path
) -> None:
    source = tmp_path / "x.npy"
    np.save(source, x)

    def progress(done: int, _: int) -> None:
        if done == COUNT:
            overwrite(source)

    with pytest.raises(OSError, match="it changed while it was read"):
        explain_file(explainer, source, tmp_path / "r.npz", progress=progress)
    assert os.listdir(tmp_path) == ["x.npy"]


def test_a_change_right_before_is_waited_for_to_become_old(tmp_path: Path) -> None:
    # Times of files come from a coarse clock: a second change within one tick does not show.
    path = tmp_path / "x"
    path.write_bytes(b"1")
    with path.open("rb") as file:
        state = samples.settled_state_of(file)
        assert time.time_ns() - max(state[1:]) >= samples._TICK
        assert state == samples.state_of(file)
        path.write_bytes(b"2")
        assert state != samples.state_of(file)


def test_an_archive_that_changes_while_it_is_read_is_refused(
    x: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tmp_path / "x.npz"
    np.savez(source, x=x)
    archive = zipfile.ZipFile

    def cut_before(*args: object) -> object:
        cut_off(source)
        return archive(*args)

    monkeypatch.setattr(zipfile, "ZipFile", cut_before)
    with pytest.raises(OSError, match="it changed while it was read.*x.npz"):
        open_array(source)


def test_a_pipe_is_no_array(tmp_path: Path) -> None:
    pipe = tmp_path / "x.npy"
    os.mkfifo(pipe)
    holder = os.open(pipe, os.O_RDWR)  # or opening it would wait
    with pytest.raises(ValueError, match=r"x\.npy is a pipe or a device"):
        open_array(pipe)
    os.close(holder)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", ">f8"])
def test_any_order_and_type_is_read(
    explainer: pyrel.Explainer, x: np.ndarray, tmp_path: Path, order: str, dtype: str
) -> None:
    source, out = tmp_path / "x.npy", tmp_path / "r.npz"
    given = np.asarray(x.astype(dtype), order=order)
    np.save(source, given)
    explain_file(explainer, source, out)
    with np.load(out) as file:
        np.testing.assert_array_equal(file["relevance"], explainer(given).relevance)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (7,), (0, 3), (7, 0, 2), (7, 1), (1, 5), (7, 2, 3, 4)])
def test_pieces_are_those_of_the_array(tmp_path: Path, shape: tuple[int, ...], order: str) -> None:
    source = tmp_path / "x.npy"
    x = np.asarray(np.random.default_rng(0).integers(9, size=shape), order=order)
    np.save(source, x)
    np.testing.assert_array_equal(read_array(source), x)
    with open_array(source) as file:
        assert (file.shape, file.dtype, file.like.shape) == (x.shape, x.dtype, x.shape)
        if x.shape:
            assert len(file) == len(x)
            for first in range(len(x)):
                for last in range(first, len(x) + 1):
                    piece = file.piece(slice(first, last))
                    np.testing.assert_array_equal(piece, x[first:last])
                    assert piece.dtype == x.dtype


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000000000000,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (100000000000000000000, 0)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s)}" % ("1, " * 99),
        "{'descr': ',', 'fortran_order': False, 'shape': (1,)}",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (%s1,)}" % ("-" * 9000),
    ],
)  # fmt: skip
def test_headers_of_no_array_are_refused(tmp_path: Path, header: str) -> None:
    source, text = tmp_path / "x.npy", header.encode() + b"\n"
    source.write_bytes(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8))
    with pytest.raises(ValueError, match=r"x\.npy is damaged or cut off"):
        open_array(source)


class Killed:
    """Explains a file as far as some samples, and is then gone, with its files left as they are."""

    def __init__(self, folder: Path, explainer: pyrel.Explainer, x: np.ndarray) -> None:
        self.folder, self.explainer = folder, explainer
        self.source, self.out = folder / "x.npy", folder / "r.npz"
        np.save(self.source, x)

    def leave(self, samples: int, **options: object) -> None:
        class Gone(BaseException):
            pass

        kept = self.folder / "kept"

        def progress(done: int, _: int) -> None:
            if done == samples:
                kept.mkdir()
                for path in self.folder.glob(".r.npz.*"):
                    shutil.copy(path, kept)
                raise Gone

        with pytest.raises(Gone):
            self.go_on(progress=progress, **options)
        assert self.names() == ["kept", "x.npy"]
        for path in kept.iterdir():
            path.rename(self.folder / path.name)
        kept.rmdir()
        assert len(self.names()) == 3

    def go_on(self, resume: str | None = "model", **options: object) -> module.FileSummary:
        return explain_file(self.explainer, self.source, self.out, resume=resume, **options)

    def names(self) -> list[str]:
        return sorted(os.listdir(self.folder))

    def left(self, end: str) -> Path:
        (path,) = self.folder.glob(f".r.npz*{end}")
        return path

    def check(self, resumed: int, **options: object) -> None:
        """Go on, and compare with a run that nobody killed."""
        assert self.go_on(**options).resumed == resumed
        assert self.names() == ["r.npz", "x.npy"]
        result = self.out.read_bytes()
        self.out.unlink()
        assert explain_file(self.explainer, self.source, self.out, **options).resumed == 0
        assert self.out.read_bytes() == result


@pytest.fixture
def killed(explainer: pyrel.Explainer, x: np.ndarray, tmp_path: Path) -> Killed:
    return Killed(tmp_path, explainer, x)


@pytest.mark.parametrize("samples", [3, 12, 18, COUNT])
def test_a_killed_run_is_gone_on_with(
    killed: Killed, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed.leave(samples)
    explain, explained = pyrel.Explainer.__call__, []

    def count(self: pyrel.Explainer, x: np.ndarray, *args: object, **kwargs: object) -> object:
        explained.append(len(x))
        return explain(self, x, *args, **kwargs)

    with monkeypatch.context() as during:
        during.setattr(pyrel.Explainer, "__call__", count)
        summary = killed.go_on()
    assert summary.resumed == samples
    assert sum(explained) == COUNT - samples
    again = killed.out.read_bytes()
    assert killed.names() == ["r.npz", "x.npy"]
    assert killed.go_on(None) == module.FileSummary(COUNT, summary.empty, summary.error, 0)
    assert killed.out.read_bytes() == again


def test_a_run_that_is_killed_twice(killed: Killed) -> None:
    killed.leave(6)
    killed.leave(15)
    killed.check(15)


def test_another_model_starts_anew(killed: Killed) -> None:
    killed.leave(6)
    assert killed.go_on("another model").resumed == 0
    assert killed.names() == ["r.npz", "x.npy"]


def test_another_method_starts_anew(killed: Killed, x: np.ndarray) -> None:
    killed.leave(6)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 5), torch.nn.ReLU())
    killed.explainer = pyrel.Explainer(model, x[:1], "lrp_epsilon", epsilon=0.25)
    killed.check(0)


def test_another_input_is_explained_from_where_it_differs(killed: Killed, x: np.ndarray) -> None:
    for changed, resumed in ((0, 0), (4, 3), (11, 9), (19, 12)):
        np.save(killed.source, x)
        killed.leave(12)
        other = x.copy()
        other[changed] += 1
        before = killed.source.stat()
        np.save(killed.source, other)
        os.utime(killed.source, ns=(before.st_atime_ns, before.st_mtime_ns))
        killed.check(resumed)
        killed.out.unlink()


def test_more_or_other_samples_start_anew(killed: Killed, x: np.ndarray) -> None:
    for other in (x[:15], np.concatenate([x, x]), x.astype(np.float64)):
        np.save(killed.source, x)
        killed.leave(12)
        np.save(killed.source, other)
        killed.check(0)
        killed.out.unlink()


def test_other_targets_are_explained(killed: Killed) -> None:
    target = np.arange(COUNT) % 5
    killed.leave(9, target=target)
    target[7] = 0
    killed.check(6, target=target)
    killed.out.unlink()
    killed.leave(9)
    killed.check(0, target=3)


def test_no_journal_is_left_where_none_is_wanted(killed: Killed) -> None:
    killed.leave(6)
    assert killed.go_on(None).resumed == 0
    assert killed.names() == ["r.npz", "x.npy"]


def cut_journal(killed: Killed) -> None:
    path = killed.left(".unfinished")
    path.write_bytes(path.read_bytes()[:-7])


def change_journal(killed: Killed) -> None:
    path = killed.left(".unfinished")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[4] = lines[4].replace(b"A", b"B")
    path.write_bytes(b"".join(lines))


def empty_journal(killed: Killed) -> None:
    killed.left(".unfinished").write_bytes(b"")


def cut_content(killed: Killed) -> None:
    cut_off(killed.left(".partial"))


def change_content(killed: Killed) -> None:
    content = bytearray(killed.left(".partial").read_bytes())
    content[-1] ^= 1
    killed.left(".partial").write_bytes(content)


def lengthen_content(killed: Killed) -> None:
    append(killed.left(".partial"))


def no_content(killed: Killed) -> None:
    killed.left(".partial").unlink()


@pytest.mark.parametrize(
    ("damage", "resumed"),
    [
        (cut_journal, 9), (change_journal, 9), (empty_journal, 0), (cut_content, 9),
        (change_content, 9), (lengthen_content, 12), (no_content, 0),
    ],
)  # fmt: skip
def test_what_was_left_is_damaged(
    killed: Killed, damage: Callable[[Killed], None], resumed: int
) -> None:
    killed.leave(12)
    damage(killed)
    killed.check(resumed)


@pytest.mark.parametrize("resumed", [0, 3])
def test_a_second_process_that_explains_to_one_file_is_refused(
    killed: Killed, resumed: int
) -> None:
    refused = []

    def progress(done: int, _: int) -> None:
        if done == 9:  # as another process would
            with pytest.raises(BlockingIOError, match="another process is writing this file") as no:
                killed.go_on()
            refused.append(no.value.filename)

    if resumed:
        killed.leave(resumed)
    assert killed.go_on(progress=progress).resumed == resumed
    assert refused == [str(killed.out)]
    assert killed.names() == ["r.npz", "x.npy"]
    killed.check(0)


def test_a_file_system_without_locks_has_no_journal(
    killed: Killed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    seen = []
    killed.go_on(progress=lambda done, count: seen.append(killed.names()))
    assert not any(".r.npz.unfinished" in names for names in seen)
    assert killed.names() == ["r.npz", "x.npy"]


@pytest.mark.parametrize("plant", [os.symlink, os.link, "file", "folder"])
def test_a_planted_journal_is_left_alone(
    killed: Killed, plant: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    victim = tmp_path_factory.mktemp("elsewhere") / "victim"
    victim.write_text("precious")
    planted = killed.folder / ".r.npz.unfinished"
    if plant == "file":
        planted.write_text("precious")
        planted.chmod(0o666)
    elif plant == "folder":
        planted.mkdir()
    else:
        assert callable(plant)
        plant(victim, planted)
    with TestCase().assertLogs("pyrel", "WARNING") as seen:
        killed.go_on()
    assert f"{planted} was not made by pyrel for you" in seen.output[0]
    assert victim.read_text() == "precious"
    assert killed.names() == [planted.name, "r.npz", "x.npy"]
