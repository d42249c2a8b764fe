# SPDX-License-Identifier: Apache-2.0
"""Progress of training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pyrel.errors import part_of_extra
from pyrel.training.result import EpochRecord, TrainingResult

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

_BAR_EVERY = 0.1  # seconds between two looks at the bar
_LINE_EVERY = 2.0  # seconds between two lines where there is no terminal


class Reporter:
    """Shows loss, accuracy and time left on standard error.

    Parameters
    ----------
    epochs : int
        Of the whole run.
    batches : int
        In one epoch.
    history : list of EpochRecord
        Epochs done before a resume.
    shown : bool
        False: nothing at all.
    console : rich.console.Console, optional
        Where to write instead.

    Raises
    ------
    MissingPackageError
        Something is to be shown and rich is not installed.
    """

    def __init__(
        self,
        epochs: int,
        batches: int,
        history: list[EpochRecord],
        *,
        shown: bool,
        console: Console | None = None,
    ) -> None:
        self._epochs = epochs
        self._batches = batches
        if shown and console is None:
            console = _standard_error()
        self._console = console
        self._seconds = [record.seconds for record in history]
        self._next = 0.0
        self._first_line = True
        self._accuracy = ""
        self._bar = None if console is None or not console.is_terminal else _new_bar(console)
        if self._bar is not None:
            self._task = self._bar.add_task(
                "", total=epochs * batches, completed=len(history) * batches, epoch="", numbers=""
            )

    def __enter__(self) -> Self:
        """Show the bar."""
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Leave the bar as it stands."""
        if self._bar is not None:
            self._bar.stop()

    def due(self) -> bool:
        """Return whether it is time to show a batch; asking costs well under a microsecond."""
        return self._bar is not None and time.monotonic() >= self._next

    def batch(self, epoch: int, done: int, loss: float) -> None:
        """Show how far an epoch is: batches done, and the mean loss over them."""
        if self._bar is None:
            return
        self._next = time.monotonic() + _BAR_EVERY
        self._bar.update(
            self._task,
            completed=(epoch - 1) * self._batches + done,
            epoch=f"{epoch}/{self._epochs}",
            numbers=f"loss {loss:.4f}{self._accuracy}",
        )

    def epoch(self, record: EpochRecord) -> None:
        """Show the numbers of a finished epoch."""
        self._seconds.append(record.seconds)
        self._accuracy = f"  accuracy {_percent(record)}"
        self.batch(record.epoch, self._batches, record.loss)
        if self._bar is None and self._line_due(record):
            self._print(self._line(record))

    def end(self, result: TrainingResult) -> None:
        """Say in a line how the run ended."""
        minutes, seconds = divmod(round(result.seconds), 60)
        epochs = "1 epoch" if len(result.history) == 1 else f"{len(result.history)} epochs"
        reason = "target accuracy reached" if result.stopped == "target" else "all done"
        self._print(
            f"{epochs} in {minutes} min {seconds:02d} s ({reason}); "
            f"model of epoch {result.kept_epoch}: loss {result.kept.loss:.4f}, "
            f"accuracy {_percent(result.kept)}"
        )

    def _print(self, line: str) -> None:
        if self._console is not None:
            self._console.print(line, highlight=False, soft_wrap=True)

    def _line_due(self, record: EpochRecord) -> bool:
        now = time.monotonic()
        due = self._first_line or now >= self._next or record.epoch == self._epochs
        if due:
            self._first_line = False
            self._next = now + _LINE_EVERY
        return due

    def _line(self, record: EpochRecord) -> str:
        # The pace of the last epochs tells more than that of the whole run on a shared machine.
        recent = self._seconds[-5:]
        left = (self._epochs - record.epoch) * sum(recent) / len(recent)
        minutes, seconds = divmod(round(left), 60)
        return (
            f"epoch {record.epoch}/{self._epochs}  loss {record.loss:.4f}  "
            f"accuracy {_percent(record)}  {minutes} min {seconds:02d} s left"
        )


def _percent(record: EpochRecord) -> str:
    if record.validation_accuracy is None:
        return f"{100 * record.accuracy:.2f} % in training"
    return f"{100 * record.validation_accuracy:.2f} %"


def _standard_error() -> Console:
    with part_of_extra("cli", "progress=True", "rich"):
        from rich.console import Console

    return Console(stderr=True)


def _new_bar(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("epoch {task.fields[epoch]}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %  {task.fields[numbers]}"),
        TimeRemainingColumn(),
        TextColumn("left"),
        console=console,
    )
