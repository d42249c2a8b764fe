# SPDX-License-Identifier: Apache-2.0
"""The training loop."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from pyrel.files.atomic import remove_stale
from pyrel.files.lock import locked
from pyrel.training.config import TrainingConfig, resolve_device
from pyrel.training.epoch import run_epoch
from pyrel.training.evaluation import evaluating, score
from pyrel.training.log import CsvLog, TensorBoardLog
from pyrel.training.progress import Reporter
from pyrel.training.result import EpochRecord, TrainingInterrupted, TrainingResult
from pyrel.training.samples import FloatInput, IntInput, Samples, checked_samples
from pyrel.training.state import TrainingState

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.csv"
LOCK = ".train.lock"
TENSORBOARD = "tensorboard"


def train(
    model: nn.Module,
    x: FloatInput,
    y: IntInput,
    *,
    config: TrainingConfig | None = None,
    validation: tuple[FloatInput, IntInput] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    progress: bool = True,
    tensorboard: bool = False,
) -> TrainingResult:
    """Train a classifier on the softmax cross-entropy of its outputs.

    The first weights are those that the model has; random numbers come from ``config.seed`` alone.
    The same call gives bitwise the same weights on one machine at one number of threads, also when
    it was killed in between and resumed. Torch's own random state is left as it was.

    Parameters
    ----------
    model : nn.Module
        Maps x to raw scores (n, classes). Trained in place, left on its device in eval mode.
    x, y : floats of shape (n, …), integers of shape (n,)
    config : TrainingConfig, optional
    validation : (x, y), optional
        Evaluated after each epoch.
    out : path, optional
        Folder for ``checkpoint.safetensors`` (replaced after each epoch) and ``log.csv``.
    resume : bool
        Go on from the checkpoint in ``out``, if there is one, of a run with the same arguments.
    progress : bool
        Show a bar on standard error; lines where that is no terminal. Needs the package rich.
    tensorboard : bool
        Write ``out/tensorboard`` too; needs the package tensorboard.

    Raises
    ------
    TypeError, ValueError
        An argument has another kind, shape or range; the checkpoint is damaged or of another run.
    OSError
        A file cannot be read or written; FileExistsError where ``out`` has a checkpoint and
        ``resume`` is False, BlockingIOError where another process trains in ``out`` now.
    MissingPackageError
        What ``progress`` or ``tensorboard`` needs is not installed.
    TrainingDivergedError, TrainingInterrupted
        The loss became NaN or infinite; Ctrl-C, after which the last whole checkpoint stays.
    """
    config = config or TrainingConfig()
    device = resolve_device(config.device)
    samples = checked_samples("x", x, "y", y)
    held_out = _held_out(validation, config)
    with _run_folder(out, resume, tensorboard) as folder, _torch_settings(config, device):
        run = _Run(model.to(device), config, device, samples, held_out, folder)
        try:
            return run.complete(progress, tensorboard)
        except KeyboardInterrupt:
            begun = run.state.epoch + 1
            raise TrainingInterrupted(begun, run.checkpoint, run.saved_epoch) from None
        finally:
            model.eval()


def _held_out(given: tuple[FloatInput, IntInput] | None, config: TrainingConfig) -> Samples | None:
    if given is not None:
        return checked_samples("validation[0]", given[0], "validation[1]", given[1])
    if config.target_accuracy is not None or config.keep == "best":
        raise ValueError("target_accuracy and keep='best' need validation data: give validation")
    return None


class _Run:
    """One call of :func:`train`: the state, what it works on and where it is kept."""

    def __init__(
        self,
        model: nn.Module,
        config: TrainingConfig,
        device: torch.device,
        samples: Samples,
        held_out: Samples | None,
        folder: Path | None,
    ) -> None:
        self.config = config
        self.folder = folder
        self.checkpoint = None if folder is None else folder / CHECKPOINT
        self.identity = {} if folder is None else _identity(model, config, samples, held_out)
        self.samples = samples.to(device)
        self.held_out = None if held_out is None else held_out.to(device)
        _check_classes(model, self.samples, "y")
        if self.held_out is not None:
            _check_classes(model, self.held_out, "validation[1]")
        self.state = TrainingState.fresh(model, config)
        self.saved_epoch = 0
        if self.checkpoint is not None and self.checkpoint.exists():
            self.state.restore(self.checkpoint, self.identity)
            self.saved_epoch = self.state.epoch

    def complete(self, progress: bool, tensorboard: bool) -> TrainingResult:
        """Train until the run is done; leave in the model the weights that are asked for."""
        state, config = self.state, self.config
        with ExitStack() as stack:
            logs = self._open_logs(stack, tensorboard)
            batches = -(-len(self.samples.y) // config.batch_size)
            reporter = Reporter(config.epochs, batches, state.history, shown=progress)
            stack.enter_context(reporter)
            while (stopped := self._stopped()) is None:
                record = self._epoch(reporter)
                for log in logs:
                    log.add(record)
                reporter.epoch(record)
        kept = state.epoch
        if config.keep == "best" and state.best_epoch is not None:
            kept = state.best_epoch
            state.model.load_state_dict(state.best)
        result = TrainingResult(
            config, tuple(state.history), stopped, kept, state.best_epoch, self.checkpoint
        )
        reporter.end(result)
        return result

    def _epoch(self, reporter: Reporter) -> EpochRecord:
        """Train and validate for one epoch, and save it."""
        start = time.perf_counter()
        means = run_epoch(self.state, self.config, self.samples, reporter)
        validation = None if self.held_out is None else score(self.state.model, *self.held_out)
        record = EpochRecord(
            epoch=self.state.epoch + 1,
            learning_rate=means.learning_rate,
            loss=means.loss,
            accuracy=means.accuracy,
            validation_loss=None if validation is None else validation.loss,
            validation_accuracy=None if validation is None else validation.accuracy,
            seconds=time.perf_counter() - start,
        )
        self.state.add(record)
        if self.checkpoint is not None:
            self.state.save(self.checkpoint, self.identity)
            self.saved_epoch = record.epoch
        return record

    def _stopped(self) -> Literal["epochs", "target"] | None:
        history, target = self.state.history, self.config.target_accuracy
        if target is not None and history:
            accuracy = history[-1].validation_accuracy
            if accuracy is not None and accuracy >= target:
                return "target"
        return "epochs" if len(history) == self.config.epochs else None

    def _open_logs(self, stack: ExitStack, tensorboard: bool) -> list[CsvLog | TensorBoardLog]:
        if self.folder is None:
            return []
        logs: list[CsvLog | TensorBoardLog] = [CsvLog(self.folder / LOG, self.state.history)]
        if tensorboard:
            board = TensorBoardLog(self.folder / TENSORBOARD, self.state.epoch)
            logs.append(stack.enter_context(closing(board)))
        return logs


@contextmanager
def _run_folder(
    out: str | os.PathLike[str] | None, resume: bool, tensorboard: bool
) -> Iterator[Path | None]:
    """Yield the folder of a run, ready to write to and locked."""
    if out is None:
        if resume or tensorboard:
            raise ValueError("resume and tensorboard need the folder of the run: give out")
        yield None
        return
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / LOCK, f"the training run in {folder}"):
        if (folder / CHECKPOINT).exists() and not resume:
            raise FileExistsError(
                f"{folder / CHECKPOINT} exists: give resume=True to go on with that run, or "
                f"another out"
            )
        for name in (CHECKPOINT, LOG):
            remove_stale(folder / name)
        yield folder


def _identity(
    model: nn.Module, config: TrainingConfig, samples: Samples, held_out: Samples | None
) -> dict[str, Any]:
    """Return what must be the same for a run to go on where it was left."""
    device = resolve_device(config.device)
    shapes = {name: list(value.shape) for name, value in model.state_dict().items()}
    describe = getattr(model, "config", None)
    return config.to_dict() | {
        "device": device.type,
        "model": describe() if callable(describe) else {type(model).__name__: shapes},
        "data": samples.fingerprint(),
        "validation data": None if held_out is None else held_out.fingerprint(),
    }


def _check_classes(model: nn.Module, samples: Samples, name: str) -> None:
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"model must have parameters to train; {type(model).__name__} has none")
    with evaluating(model):
        shape = tuple(model(samples.x[:2]).shape)
    if len(shape) != 2 or shape[0] != len(samples.x[:2]):
        raise ValueError(f"model must map x to scores of shape (n, classes), not {shape}")
    highest = int(samples.y.max())
    if highest >= shape[1]:
        raise ValueError(f"{name} has class {highest}; the model knows 0 to {shape[1] - 1}")


@contextmanager
def _torch_settings(config: TrainingConfig, device: torch.device) -> Iterator[None]:
    """Set the threads of a run; afterwards leave them and torch's random state as they were."""
    threads = torch.get_num_threads()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.set_num_threads(config.threads or threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
