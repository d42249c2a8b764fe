# SPDX-License-Identifier: Apache-2.0
"""A progress bar for downloads that take longer than a moment."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

_PATIENCE = 2.0  # seconds without a bar


class DownloadBar:
    """Bytes, speed and time left on standard error, once the work takes long."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._visible_at = time.monotonic() + _PATIENCE
        self._progress: Progress | None = None

    def __enter__(self) -> DownloadBar:
        """Return the bar, still hidden."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.stop()

    def show(self, done: int, total: int | None) -> None:
        """Show that `done` of `total` bytes are there; None for an unknown total."""
        if self._progress is None:
            if time.monotonic() < self._visible_at:
                return
            self._progress = _new_progress()
            self._progress.add_task(self._label)
            self._progress.start()
        self._progress.update(self._progress.task_ids[0], completed=done, total=total)


def _new_progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),  # which shows nothing where that is no terminal
        transient=True,
    )
