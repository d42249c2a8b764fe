# SPDX-License-Identifier: Apache-2.0
"""Logs that outlast a run: a CSV file, and TensorBoard on request."""

from __future__ import annotations

import csv
import dataclasses
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pyrel.errors import part_of_extra
from pyrel.files.atomic import write_whole
from pyrel.training.result import EpochRecord

_COLUMNS = [field.name for field in dataclasses.fields(EpochRecord)]


class CsvLog:
    """One line for each epoch.

    At the start the file is written anew from the history of the checkpoint: a run that was killed
    between checkpoint and log, or in the middle of a line, leaves neither gap nor double line.

    Parameters
    ----------
    path : Path
    history : sequence of EpochRecord
        The epochs done so far.
    """

    def __init__(self, path: Path, history: Sequence[EpochRecord]) -> None:
        self._path = path
        rows: list[list[Any]] = [_COLUMNS, *(_row(record) for record in history)]
        write_whole(path, "".join(map(_line, rows)).encode())

    def add(self, record: EpochRecord) -> None:
        """Append the line of one epoch."""
        with open(self._path, "a", newline="", opener=_without_links) as file:
            file.write(_line(_row(record)))


class TensorBoardLog:
    """Losses, accuracies and learning rate for TensorBoard.

    Parameters
    ----------
    folder : Path
    epochs_done : int
        Later entries that an interrupted run left there are ignored.

    Raises
    ------
    MissingPackageError
        TensorBoard is not installed.
    """

    def __init__(self, folder: Path, epochs_done: int) -> None:
        with part_of_extra("tensorboard", "tensorboard=True", "tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=epochs_done + 1)

    def add(self, record: EpochRecord) -> None:
        """Write the numbers of one epoch."""
        for name, value in dataclasses.asdict(record).items():
            if name != "epoch" and value is not None:
                self._writer.add_scalar(name, value, record.epoch)

    def close(self) -> None:
        """Write out what is still in memory."""
        self._writer.close()


def _without_links(path: str, flags: int) -> int:
    """Open a file that is there; a link that somebody put in its place leads nowhere."""
    return os.open(path, (flags | os.O_NOFOLLOW) & ~os.O_CREAT)


def _row(record: EpochRecord) -> list[Any]:
    return ["" if value is None else value for value in dataclasses.astuple(record)]


def _line(row: list[Any]) -> str:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerow(row)
    return text.getvalue()
