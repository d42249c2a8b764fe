# SPDX-License-Identifier: Apache-2.0
"""SIGTERM and SIGHUP as exceptions, so that a command that is told to end cleans up."""

from __future__ import annotations

import signal
import time
from types import FrameType

_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
_CLEANING = 5.0  # seconds in which a second signal does not disturb the cleaning up after a first


class Stopped(SystemExit):  # noqa: N818
    """The process was told to end; the exit code is 128 plus the number, as of a shell.

    Attributes
    ----------
    text : str
        What to tell the user.
    """

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.name = signal.Signals(number).name
        self.text = f"stopped by {self.name}; nothing is left half-written"


def listen() -> None:
    """Raise `Stopped` where a signal comes; one that is ignored, as nohup does, stays so."""
    for number in _SIGNALS:
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _Listener())


class _Listener:
    def __init__(self) -> None:
        self._next = 0.0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _CLEANING
            raise Stopped(number)
