# SPDX-License-Identifier: Apache-2.0
"""Everything that a run carries from one epoch to the next, and its way to and from a file."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pyrel.files.foreign import parsing
from pyrel.files.tensors import read_tensors, write_tensors
from pyrel.training.config import TrainingConfig
from pyrel.training.result import EpochRecord

_LOGGER = logging.getLogger("pyrel")
# Settings that checkpoints from before there was a choice do not name.
_BEFORE = {"optimizer": "adam", "momentum": 0.9}
# What each optimiser keeps of a parameter, under its name in a checkpoint.
_KEPT = {"adam": ("step", "exp_avg", "exp_avg_sq"), "sgd": ("momentum_buffer",)}


@dataclass
class TrainingState:
    """Model, optimiser, random generator, history and best weights of a run.

    The scheduler needs no state of its own: the learning rate follows from the number of epochs
    done. The generator draws each epoch's batch order and the seed of its dropout masks, so its
    state between two epochs is the whole random state of the run.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    history: list[EpochRecord] = field(default_factory=list)
    best: dict[str, Tensor] = field(default_factory=dict)
    best_epoch: int | None = None

    @classmethod
    def fresh(cls, model: nn.Module, config: TrainingConfig) -> TrainingState:
        """Return the state before the first epoch."""
        return cls(model, _optimizer(model, config), torch.Generator().manual_seed(config.seed))

    @property
    def _optimizer_name(self) -> str:
        return type(self.optimizer).__name__.lower()

    @property
    def epoch(self) -> int:
        """Number of epochs done."""
        return len(self.history)

    def add(self, record: EpochRecord) -> None:
        """Take in a finished epoch; keep its weights if it is the best so far."""
        self.history.append(record)
        if record.validation_accuracy is None:
            return
        if self.best_epoch is None or _goodness(record) > _goodness(self.best_record()):
            self.best_epoch = record.epoch
            self.best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}

    def best_record(self) -> EpochRecord:
        """Return the record of the best epoch, which there must be."""
        assert self.best_epoch is not None
        return self.history[self.best_epoch - 1]

    def save(self, path: Path, identity: dict[str, Any]) -> None:
        """Write a checkpoint.

        Parameters
        ----------
        path : Path
        identity : dict
            What must be the same for the run to go on; see :meth:`restore`.
        """
        tensors = {f"model/{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"best/{k}": v for k, v in self.best.items()}
        tensors["generator"] = self.generator.get_state()
        for name, parameter in self.model.named_parameters():
            for key, value in self.optimizer.state[parameter].items():
                if value is not None:  # of descent without momentum
                    tensors[f"{self._optimizer_name}/{key}/{name}"] = value
        content = {
            "identity": identity,
            "environment": _environment(),
            "history": [dataclasses.asdict(record) for record in self.history],
            "best_epoch": self.best_epoch,
        }
        write_tensors(path, "checkpoint", tensors, content)

    def restore(self, path: Path, identity: dict[str, Any]) -> None:
        """Take up a checkpoint in place of the present state.

        Raises
        ------
        ValueError
            The file is no whole checkpoint, or of a run with another identity.
        """
        tensors, content = read_tensors(path, "checkpoint")
        refusal = "does not describe a run that this pyrel knows: {error}"
        with parsing(path, refusal):
            saved = _BEFORE | dict(content["identity"])
            environment = dict(content["environment"])
            history = [_record(record) for record in content["history"]]
            best_epoch = content["best_epoch"]
            if best_epoch is not None and best_epoch not in range(1, len(history) + 1):
                raise ValueError(f"its best epoch is {best_epoch!r} of {len(history)}")
        _check_identity(path, saved, identity)
        _warn_of_environment(path, environment)
        with parsing(path, refusal):
            self._take(tensors)
        self.history, self.best_epoch = history, best_epoch

    def _take(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(_part(tensors, "model/"))
        self.generator.set_state(tensors["generator"])
        for name, parameter in self.model.named_parameters():
            # What the optimiser had not seen yet has no state: a parameter without a gradient.
            for key in _KEPT[self._optimizer_name]:
                kept = tensors.get(f"{self._optimizer_name}/{key}/{name}")
                if kept is not None:
                    self.optimizer.state[parameter][key] = kept.to(parameter.device)
        device = next(self.model.parameters()).device
        self.best = {k: v.to(device) for k, v in _part(tensors, "best/").items()}


def _optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return the optimiser of the settings; the fused form, which is the fastest on a CPU."""
    if config.optimizer == "sgd":
        rate, momentum = config.learning_rate, config.momentum
        return torch.optim.SGD(model.parameters(), lr=rate, momentum=momentum, fused=True)
    return torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)


def _record(entries: dict[str, Any]) -> EpochRecord:
    record = EpochRecord(**entries)
    for name, value in entries.items():
        may_be_none = name.startswith("validation_")
        if type(value) not in (int, float) and not (may_be_none and value is None):
            raise TypeError(f"{name} of an epoch is {value!r}")
    return record


def _goodness(record: EpochRecord) -> tuple[float, float]:
    assert record.validation_accuracy is not None and record.validation_loss is not None
    return record.validation_accuracy, -record.validation_loss


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _environment() -> dict[str, Any]:
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def _warn_of_environment(path: Path, saved: dict[str, Any]) -> None:
    for name, now in _environment().items():
        if saved.get(name) != now:
            _LOGGER.warning(
                "%s was written with %s %s, this is %s: the run goes on, but its weights may "
                "differ in the last bits from those of an uninterrupted run",
                *(path, name, saved.get(name), now),
            )


def _check_identity(path: Path, saved: dict[str, Any], now: dict[str, Any]) -> None:
    differences = [
        f"{name} was {saved.get(name)!r} and is {now.get(name)!r}"
        for name in sorted(saved.keys() | now.keys())
        if saved.get(name) != now.get(name)
    ]
    if differences:
        raise ValueError(
            f"{path} belongs to another run ({'; '.join(differences)}): resume with the arguments "
            f"of that run, or choose another out"
        )
