# SPDX-License-Identifier: Apache-2.0
"""Downloads: resume, bad mirrors, interruption, several processes; all on this machine."""

from __future__ import annotations

import gzip
import io
import signal
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import pytest
from processes import start

import pyrel.data
from pyrel.data import _progress
from pyrel.data import download as download_module
from pyrel.data.download import download

NAME = "train-images-idx3-ubyte.gz"
PART = f"{NAME}.part"
PATIENCE = 20.0

FETCH = """
import sys, pathlib
from pyrel.data.download import download
from pyrel.data.sources import Source, SourceFile
url, folder, sha256 = sys.argv[1:]
file = SourceFile("train-images-idx3-ubyte", 3, sha256)
download(Source("mnist", {}, (url,)), file, pathlib.Path(folder))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "mnist"


@pytest.fixture
def mirror(new_mirror, small):
    return new_mirror(small.gzipped)


@pytest.fixture
def half(small) -> bytes:
    """Give the first half of the file of images."""
    whole = small.gzipped[NAME]
    return whole[: len(whole) // 2]


def assert_whole(path: Path, small) -> None:
    """Check that the file is there, whole, and alone."""
    assert path.name == NAME
    assert gzip.decompress(path.read_bytes()) == small.plain["train-images-idx3-ubyte"]
    assert [p.name for p in path.parent.iterdir()] == [NAME]


def put_part(folder: Path, content: bytes) -> None:
    folder.mkdir(parents=True)
    (folder / PART).write_bytes(content)


def test_downloads(folder, small, mirror) -> None:
    assert_whole(download(small.source(mirror.url), small.pair[0], folder), small)
    assert mirror.ranges == [None]


def test_does_not_download_what_is_there(folder, small, mirror) -> None:
    for _ in range(2):
        download(small.source(mirror.url), small.pair[0], folder)
    assert len(mirror.ranges) == 1


def test_continues_a_part(folder, small, mirror, half) -> None:
    put_part(folder, half)
    assert_whole(download(small.source(mirror.url), small.pair[0], folder), small)
    assert mirror.ranges == [f"bytes={len(half)}-"]


def test_a_server_without_ranges_starts_again(folder, small, mirror, half) -> None:
    mirror.answer = mirror.without_ranges
    put_part(folder, half)
    assert_whole(download(small.source(mirror.url), small.pair[0], folder), small)
    assert len(mirror.ranges) == 1


def test_a_complete_part_meets_416(folder, small, mirror) -> None:
    put_part(folder, small.gzipped[NAME])
    assert_whole(download(small.source(mirror.url), small.pair[0], folder), small)
    assert mirror.ranges == [f"bytes={len(small.gzipped[NAME])}-"]


def test_a_part_that_is_too_long_starts_again_after_416(folder, small, mirror) -> None:
    put_part(folder, small.gzipped[NAME] + b"rubbish")
    assert_whole(download(small.source(mirror.url), small.pair[0], folder), small)
    assert mirror.ranges == [f"bytes={len(small.gzipped[NAME]) + 7}-", None]


def test_a_part_of_another_compression_starts_again(folder, small, mirror) -> None:
    # gzip headers differ between mirrors, and so does where the rest begins
    content = gzip.compress(small.plain["train-images-idx3-ubyte"], compresslevel=1, mtime=1)
    put_part(folder, content[:5000])
    assert_whole(download(small.source(mirror.url), small.pair[0], folder), small)
    assert mirror.ranges == ["bytes=5000-", None]


def test_416_without_a_range(folder, small, mirror) -> None:
    mirror.answer = lambda handler, _: handler.send_error(416)
    with pytest.raises(pyrel.data.DownloadError, match="HTTP 416"):
        download(small.source(mirror.url), small.pair[0], folder)
    assert mirror.ranges == [None]


def test_another_range_than_asked_for(folder, small, mirror, half) -> None:
    mirror.answer = mirror.range_from(3)
    put_part(folder, half)
    with pytest.raises(pyrel.data.DownloadError, match=f"from {len(half)}, got the range bytes 3-"):
        download(small.source(mirror.url), small.pair[0], folder)
    assert (folder / PART).read_bytes() == half


def test_a_connection_that_ends_early_leaves_a_part(folder, small, mirror, half) -> None:
    mirror.answer = mirror.cut_off
    whole = len(small.gzipped[NAME])
    with pytest.raises(pyrel.data.DownloadError, match=f"ended after {len(half)} of {whole} bytes"):
        download(small.source(mirror.url), small.pair[0], folder)
    assert [p.name for p in folder.iterdir()] == [PART]
    assert (folder / PART).read_bytes() == half


def test_the_next_mirror_continues(folder, small, new_mirror, half) -> None:
    first, second = new_mirror(small.gzipped), new_mirror(small.gzipped)
    first.answer = first.cut_off
    assert_whole(download(small.source(first.url, second.url), small.pair[0], folder), small)
    assert second.ranges == [f"bytes={len(half)}-"]


def test_a_response_without_length(folder, small, mirror) -> None:
    mirror.answer = mirror.without_length
    assert_whole(download(small.source(mirror.url), small.pair[0], folder), small)


def test_all_failures_are_listed(folder, small, other, new_mirror) -> None:
    missing = new_mirror(small.gzipped)
    missing.answer = lambda handler, _: handler.send_error(404)
    page = new_mirror({NAME: b"<html>Please log in</html>"})
    foreign = new_mirror(other.gzipped)
    silent = new_mirror(small.gzipped)
    silent.answer = lambda handler, _: handler.connection.close()
    mirrors = [missing.url, page.url, foreign.url, silent.url, "http://127.0.0.1:9/"]
    with pytest.raises(pyrel.data.DownloadError) as raised:
        download(small.source(*mirrors), small.pair[0], folder)
    lines = str(raised.value).splitlines()
    assert "train-images-idx3-ubyte of mnist" in lines[0]
    reasons = ["HTTP 404", "0x3c68746d", f"expected sha256 {small.pair[0].sha256}, found"]
    reasons += ["RemoteDisconnected", "refused"]
    for line, url, reason in zip(lines[1:-1], mirrors, reasons, strict=True):
        assert line.strip().startswith(f"{url}{NAME}: ")
        assert reason in line
    assert "PYREL_DATA_DIR" in lines[-1]
    assert list(folder.iterdir()) == [], "nothing worth continuing is left"


def test_a_good_mirror_after_bad_ones(folder, small, other, new_mirror) -> None:
    foreign, good = new_mirror(other.gzipped), new_mirror(small.gzipped)
    path = download(small.source(foreign.url, good.url), small.pair[0], folder)
    assert_whole(path, small)
    assert good.ranges == [None], "nothing of the foreign file is kept"


def test_a_mirror_that_never_ends(folder, small, mirror, monkeypatch) -> None:
    monkeypatch.setattr(download_module, "_MOST_BYTES", 100_000)
    with pytest.raises(pyrel.data.DownloadError, match="more than 100000 bytes"):
        download(small.source(mirror.url), small.pair[0], folder)
    assert list(folder.iterdir()) == []


def test_a_mirror_that_falls_silent(folder, small, mirror, half, monkeypatch) -> None:
    monkeypatch.setattr(download_module, "_TIMEOUT", 0.2)
    mirror.answer = mirror.in_halves
    with pytest.raises(pyrel.data.DownloadError, match="no mirror gave the file(.|\n)*timed out"):
        download(small.source(mirror.url), small.pair[0], folder)
    assert small.gzipped[NAME].startswith((folder / PART).read_bytes())


def test_a_folder_that_can_not_be_written(tmp_path, small, mirror) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(pyrel.data.DownloadError, match="XDG_CACHE_HOME") as raised:
        download(small.source(mirror.url), small.pair[0], tmp_path / "file" / "mnist")
    assert str(tmp_path / "file" / "mnist") in str(raised.value)
    assert mirror.ranges == []


def test_a_full_disk_is_no_fault_of_the_mirror(folder, small, new_mirror, monkeypatch) -> None:
    mirrors = [new_mirror(small.gzipped), new_mirror(small.gzipped)]

    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(download_module.os, "fsync", no_space)
    with pytest.raises(pyrel.data.DownloadError, match="No space left on device"):
        download(small.source(*(m.url for m in mirrors)), small.pair[0], folder)
    assert mirrors[1].ranges == []


@pytest.mark.parametrize("plant", [Path.symlink_to, Path.hardlink_to])
def test_a_planted_part_overwrites_nothing(folder, small, mirror, tmp_path, plant) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    folder.mkdir(parents=True)
    plant(folder / PART, victim)
    with pytest.raises(pyrel.data.DownloadError, match="can't be written there"):
        download(small.source(mirror.url), small.pair[0], folder)
    assert victim.read_text() == "precious"


@contextmanager
def fetching(count: int, url: str, folder: Path, small, log: Path):
    """Run processes that download the file; what they say goes to `log`."""
    command = ["-c", FETCH, url, folder, small.pair[0].sha256]
    with log.open("wb") as stderr:
        processes = [start(*command, stderr=stderr) for _ in range(count)]
        try:
            yield processes
        finally:
            for process in processes:
                process.kill()
                process.wait()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def has_a_chunk(part: Path) -> bool:
    return part.exists() and part.stat().st_size >= 1 << 16


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=lambda s: s.name)
def test_an_interrupted_download_is_continued(folder, small, new_mirror, tmp_path, end) -> None:
    hanging = new_mirror(small.gzipped)
    hanging.answer = hanging.in_halves
    log = tmp_path / "log"
    with fetching(1, hanging.url, folder, small, log) as (process,):
        wait_until(lambda: has_a_chunk(folder / PART))
        process.send_signal(end)
        assert process.wait(PATIENCE) != 0
    assert end != signal.SIGINT or "KeyboardInterrupt" in log.read_text()
    assert [p.name for p in folder.iterdir()] == [PART]
    begun = (folder / PART).read_bytes()
    assert small.gzipped[NAME].startswith(begun)

    good = new_mirror(small.gzipped)
    assert_whole(download(small.source(good.url), small.pair[0], folder), small)
    assert good.ranges == [f"bytes={len(begun)}-"]


def test_two_processes_download_once(folder, small, mirror, tmp_path) -> None:
    mirror.answer = mirror.in_halves
    log = tmp_path / "log"
    with fetching(2, mirror.url, folder, small, log) as processes:
        wait_until(lambda: "waiting for it" in log.read_text())
        mirror.go_on.set()
        assert [process.wait(PATIENCE) for process in processes] == [0, 0]
    assert len(mirror.ranges) == 1
    assert_whole(folder / NAME, small)


def test_a_process_takes_over_from_one_that_died(folder, small, mirror, tmp_path) -> None:
    mirror.answer = mirror.in_halves
    with fetching(1, mirror.url, folder, small, tmp_path / "log-1") as (first,):
        wait_until(lambda: has_a_chunk(folder / PART))
        with fetching(1, mirror.url, folder, small, tmp_path / "log-2") as (second,):
            wait_until(lambda: "waiting for it" in (tmp_path / "log-2").read_text())
            mirror.answer = mirror.well
            first.kill()
            assert second.wait(PATIENCE) == 0
    assert len(mirror.ranges) == 2
    assert_whole(folder / NAME, small)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "patience", "shown"),
    [(Terminal, 0.0, True), (Terminal, 60.0, False), (io.StringIO, 0.0, False)],
    ids=["terminal", "short work", "no terminal"],
)
def test_progress_bar(folder, small, mirror, monkeypatch, stream, patience, shown) -> None:
    stderr = stream()
    monkeypatch.setattr(sys, "stderr", stderr)
    monkeypatch.setattr(_progress, "_PATIENCE", patience)
    monkeypatch.setenv("TERM", "xterm")
    download(small.source(mirror.url), small.pair[0], folder)
    assert (NAME in stderr.getvalue()) == shown
    assert ("kB" in stderr.getvalue()) == shown
