# SPDX-License-Identifier: Apache-2.0
"""A line on the progress of downloads that take longer than a moment."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_PATIENCE = 2.0  # seconds without a line
_EVERY = 0.1  # seconds between two lines
_ERASE = "\r\x1b[K"


class DownloadLine:
    """Bytes and speed on standard error, if that is a terminal, once the work takes long."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._start = time.monotonic()
        self._next = self._start + _PATIENCE
        self._bytes_before: int | None = None
        self._shown = False

    def __enter__(self) -> DownloadLine:
        """Return the line, still hidden."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        if self._shown:
            print(_ERASE, end="", file=sys.stderr, flush=True)

    def show(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes are there; None for an unknown total."""
        now = time.monotonic()
        if self._bytes_before is None:
            self._bytes_before = done
        if now < self._next or not sys.stderr.isatty():
            return
        self._next = now + _EVERY
        self._shown = True
        of = "" if total is None else f" of {total / 1e3:,.0f}"
        speed = (done - self._bytes_before) / max(now - self._start, 1e-3)
        line = f"{_ERASE}{self._label}  {done / 1e3:,.0f}{of} kB  {speed / 1e3:,.0f} kB/s"
        print(line, end="", file=sys.stderr, flush=True)
