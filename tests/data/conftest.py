# SPDX-License-Identifier: Apache-2.0
"""Tests of pyrel.data: no network but the machine's own, no data but what a test puts there."""

from __future__ import annotations

import gzip
import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import pyrel.data.images
from pyrel.data.sources import Source, SourceFile

PATIENCE = 20.0  # seconds until a server that hangs on purpose gives up


@pytest.fixture(autouse=True)
def isolated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test see the data of this machine, or reach another one."""
    monkeypatch.delenv("PYREL_DATA_DIR", raising=False)
    for kind in ("http", "https", "all", "no"):
        for name in (f"{kind}_proxy", f"{kind}_proxy".upper()):
            monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(pyrel.data.images, "_SYSTEM_FOLDER", tmp_path / "system")
    connect = socket.socket.connect

    def connect_here(self: socket.socket, address: tuple[str, int]) -> None:
        if address[0] != "127.0.0.1":
            raise AssertionError(f"a test tried to reach {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_here)


def idx_bytes(array: np.ndarray) -> bytes:
    """Write an array as IDX, from the description of the format."""
    header = bytes([0, 0, 8, array.ndim])
    return header + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


class Files:
    """A data set of two small files, named as those of MNIST's training split."""

    def __init__(self, name: str, count: int, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.images = rng.integers(0, 256, (count, 28, 28), np.uint8)
        self.labels = rng.integers(0, 10, count, np.uint8)
        self.plain = {
            "train-images-idx3-ubyte": idx_bytes(self.images),
            "train-labels-idx1-ubyte": idx_bytes(self.labels),
        }
        self.gzipped = {f"{k}.gz": gzip.compress(v, mtime=0) for k, v in self.plain.items()}
        self.pair = tuple(
            SourceFile(key, dimensions, hashlib.sha256(self.plain[key]).hexdigest())
            for key, dimensions in zip(self.plain, (3, 1), strict=True)
        )
        self.name = name

    def source(self, *mirrors: str) -> Source:
        return Source(self.name, {"train": self.pair}, mirrors)

    def put(self, folder: Path, gzipped: bool = True) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in (self.gzipped if gzipped else self.plain).items():
            (folder / name).write_bytes(content)


@pytest.fixture(scope="session")
def small() -> Files:
    """Give a data set whose images, 150 KB of noise, take several chunks to transfer."""
    return Files("mnist", 200, seed=1)


@pytest.fixture(scope="session")
def other() -> Files:
    """Give a second, smaller data set with files of the same names."""
    return Files("fashion-mnist", 5, seed=2)


class Mirror:
    """A server on this machine that can misbehave: set `answer` to one of the methods."""

    def __init__(self, url: str, files: dict[str, bytes]) -> None:
        self.url = url
        self.files = files
        self.ranges: list[str | None] = []  # the Range header of each request
        self.answer: Callable[[BaseHTTPRequestHandler, bytes], None] = self.well
        self.go_on = threading.Event()  # ends the wait of `in_halves`

    def well(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        """Answer with the whole file, or the range that was asked for, or 416."""
        given = handler.headers["Range"]
        start = int(given.removeprefix("bytes=").removesuffix("-")) if given else 0
        if not given:
            self.without_ranges(handler, content)
        elif start >= len(content):
            handler.send_error(416)
        else:
            self.range_from(start)(handler, content)

    @staticmethod
    def range_from(start: int) -> Callable[[BaseHTTPRequestHandler, bytes], None]:
        """Answer with the bytes from `start`, whatever was asked for."""

        def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
            handler.send_response(206)
            span = f"bytes {start}-{len(content) - 1}/{len(content)}"
            handler.send_header("Content-Range", span)
            handler.send_header("Content-Length", str(len(content) - start))
            handler.end_headers()
            handler.wfile.write(content[start:])

        return answer

    @staticmethod
    def without_ranges(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        """Answer with the whole file, whatever was asked for."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    @staticmethod
    def without_length(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        """Answer with the whole file, and do not say how long it is."""
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    @staticmethod
    def cut_off(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        """Announce the whole file, send half of it, close."""
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content[: len(content) // 2])

    def in_halves(self, handler: BaseHTTPRequestHandler, content: bytes) -> None:
        """Send half of the file, the other half when `go_on` is set."""
        self.cut_off(handler, content)
        if self.go_on.wait(PATIENCE):
            handler.wfile.write(content[len(content) // 2 :])


@pytest.fixture
def new_mirror() -> Iterator[Callable[[dict[str, bytes]], Mirror]]:
    """Give a function that starts a mirror of some files."""
    servers: list[tuple[ThreadingHTTPServer, threading.Thread, Mirror]] = []

    def start(files: dict[str, bytes]) -> Mirror:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.ranges.append(self.headers["Range"])
                mirror.answer(self, mirror.files[self.path.lstrip("/")])

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.handle_error = lambda *_: None  # type: ignore[method-assign] # clients that go away
        mirror = Mirror(f"http://127.0.0.1:{server.server_port}/", files)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        servers.append((server, thread, mirror))
        return mirror

    yield start
    for server, thread, mirror in servers:
        mirror.go_on.set()
        server.shutdown()
        server.server_close()
        thread.join(PATIENCE)
