# SPDX-License-Identifier: Apache-2.0
"""Results of a training run: a record for each epoch, the whole, and the errors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pyrel.training.config import TrainingConfig


@dataclass(frozen=True)
class EpochRecord:
    """Numbers of one epoch.

    Attributes
    ----------
    epoch : int
        From 1.
    learning_rate : float
        Of its last batch.
    loss, accuracy : float
        Mean over the training samples as they were seen, with dropout; accuracy in [0, 1].
    validation_loss, validation_accuracy : float or None
        After the epoch, without dropout; None where there are no validation data.
    seconds : float
        Wall time of training and validation.
    """

    epoch: int
    learning_rate: float
    loss: float
    accuracy: float
    validation_loss: float | None
    validation_accuracy: float | None
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """Outcome of a training run.

    Attributes
    ----------
    config : TrainingConfig
    history : tuple of EpochRecord
        Every epoch, those before a resume included.
    stopped : {"epochs", "target"}
        Why the run ended: all epochs done, or the target accuracy reached.
    kept_epoch : int
        The epoch whose weights the model has.
    best_epoch : int or None
        The epoch of the best validation accuracy; None without validation data.
    checkpoint : Path or None
        The last checkpoint, where ``out`` was given.
    """

    config: TrainingConfig
    history: tuple[EpochRecord, ...]
    stopped: Literal["epochs", "target"]
    kept_epoch: int
    best_epoch: int | None
    checkpoint: Path | None

    @property
    def seconds(self) -> float:
        """Wall time of all epochs."""
        return sum(record.seconds for record in self.history)

    @property
    def kept(self) -> EpochRecord:
        """The record of the epoch whose weights the model has."""
        return self.history[self.kept_epoch - 1]

    def summary(self) -> dict[str, Any]:
        """Return the settings and the numbers that matter; JSON can hold them."""
        return {
            "config": self.config.to_dict(),
            "epochs": len(self.history),
            "stopped": self.stopped,
            "best_epoch": self.best_epoch,
            "kept": dataclasses.asdict(self.kept),
            "seconds": self.seconds,
        }


class TrainingDivergedError(ArithmeticError):
    """The loss became NaN or infinite; the message says where and what to try."""


class TrainingInterrupted(KeyboardInterrupt):  # noqa: N818
    """Ctrl-C during training; the message says what is saved and how to go on.

    Attributes
    ----------
    epoch : int
        The epoch that was interrupted.
    checkpoint : Path or None
        The last whole checkpoint, None where there is none.
    """

    def __init__(self, epoch: int, checkpoint: Path | None, saved_epoch: int) -> None:
        self.epoch = epoch
        self.checkpoint = checkpoint if saved_epoch > 0 else None
        if checkpoint is None:
            kept = "nothing is saved, for no folder was given as out"
        elif saved_epoch == 0:
            kept = "nothing is saved yet: a checkpoint is written after each epoch"
        else:
            kept = (
                f"{checkpoint} holds everything up to the end of epoch {saved_epoch}, and the same "
                f"call with resume=True goes on from there"
            )
        super().__init__(f"training was interrupted in epoch {epoch}; {kept}")
