# SPDX-License-Identifier: Apache-2.0
"""Where a model follows no pattern over its steps, the logger says why, and what that costs."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from engine.logs import heard
from torch import Tensor, nn

import pyrel
from pyrel.compiler.capture import isolation

LONG = 18  # more steps than are lowered as they are


class Reading(nn.Module):
    """An RNN whose states are read in some way."""

    def __init__(self, read: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.read = nn.RNN(3, 4, batch_first=True), read
        self.register_buffer("table", torch.ones(64, 4))
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.read(self.layer(x)[0]))


def explainer(read: Callable[[Tensor], Tensor], **options: object) -> pyrel.Explainer:
    return pyrel.Explainer(
        Reading(read), np.zeros((2, 12, 3), np.float32), "lrp_epsilon", **options
    )


def sequences(steps: int) -> np.ndarray:
    return np.random.default_rng(steps).standard_normal((2, steps, 3)).astype(np.float32)


REASONS = {
    "multiple": (
        lambda h: h[:, ::16].mean(1),
        "has a size other than a multiple",
    ),
    "far": (lambda h: (h + h.roll(20, 1)).sum(1), "roll reads steps that are more than 8 apart"),
    "value": (lambda h: torch.relu(h + h.shape[1]).sum(1), "number of steps as a value"),
    "constants": (
        lambda h: (h * (torch.arange(h.shape[1]) < 20)[None, :, None]).sum(1),
        "constants that may differ from step to step",
    ),
    "few": (
        lambda h: h[:, -1] if h.shape[1] > 12 else h[:, 0],
        "does not take 10 steps, or not as it takes others",
    ),
}


@pytest.mark.parametrize(("read", "reason"), REASONS.values(), ids=REASONS)
def test_the_reason_is_said_once(
    read: Callable[[Tensor], Tensor], reason: str, tmp_path: Path
) -> None:
    with heard(logging.INFO) as texts:
        own = pyrel.Explainer(Reading(read), sequences(20), "lrp_epsilon")
        own(sequences(20))
        own(sequences(21))
        own(sequences(21))
    warning, *infos = texts
    assert warning.startswith("WARNING LrpEpsilon(")
    assert "no pattern over the number of steps: " in warning
    assert reason in warning
    prefix = f"INFO {own.method}: lowering the model anew for "
    assert infos == [f"{prefix}20 steps", f"{prefix}21 steps"]
    with pytest.raises(ValueError, match="no pattern over the number of steps") as error:
        own.save(tmp_path / "file")
    assert reason in str(error.value)


def test_bounds_that_differ_are_a_reason() -> None:
    low = np.linspace(-2, -1, LONG, dtype=np.float32)[:, None]
    with heard() as texts:
        model = Reading(lambda h: h[:, -1])
        pyrel.Explainer(model, sequences(LONG), "lrp_epsilon", low=low, high=1.0)
    assert "low and high differ from step to step" in texts[0]


def test_a_pattern_says_nothing() -> None:
    with heard(logging.INFO) as texts:
        own = explainer(lambda h: h.mean(1))
        for steps in (5, LONG, 40):
            own(sequences(steps))
    assert texts == []


def test_weights_that_differ_by_step_are_a_reason() -> None:
    """A constant that is the same at all steps, but of another size for each number of them."""

    class Table(Reading):
        def forward(self, x: Tensor) -> Tensor:
            states = self.layer(x)[0]
            return self.out((states * self.table[: x.shape[1]]).sum(1))

    with heard() as texts:
        pyrel.Explainer(Table(lambda h: h), sequences(LONG), "lrp_epsilon")
    assert "may differ from step to step" in texts[0]


def test_only_torch_is_silent_while_a_model_is_exported() -> None:
    """Others go on logging, in this thread and in another one, and levels come back."""
    own = logging.getLogger("torch.own")
    own.setLevel(logging.INFO)
    with heard() as pyrels, heard(name="elsewhere") as others, heard(name="torch") as torchs:
        with isolation.quiet():
            logging.getLogger("pyrel").warning("one")
            thread = threading.Thread(target=logging.getLogger("elsewhere").warning, args=("two",))
            thread.start()
            thread.join()
            own.error("three")
        own.error("four")
    assert (pyrels, others, torchs) == (["WARNING one"], ["WARNING two"], ["ERROR four"])
    assert own.level == logging.INFO
    own.setLevel(logging.NOTSET)


def test_only_the_thread_that_exports_a_model_prints_nothing(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with isolation.quiet():
        print("one")
        sys.stdout.writelines(["two"])
        print("three", file=sys.stderr)
        kept = sys.stdout
        thread = threading.Thread(target=print, args=("four",))
        thread.start()
        thread.join()
    print("five", file=kept)
    assert capsys.readouterr() == ("four\nfive\n", "")
