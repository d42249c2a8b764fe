# SPDX-License-Identifier: Apache-2.0
"""Settings of a run, and the learning rate that follows from them."""

import json
import math

import pytest
import torch

from pyrel.training import TrainingConfig
from pyrel.training.config import resolve_device
from pyrel.training.schedule import rate


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ({"epochs": 0}, ValueError, "epochs must be at least 1, not 0"),
        ({"epochs": 2.0}, TypeError, "epochs must be a whole number, not 2.0"),
        ({"batch_size": True}, TypeError, "batch_size must be a whole number"),
        ({"batch_size": -1}, ValueError, "batch_size must be at least 1"),
        ({"learning_rate": 0.0}, ValueError, "learning_rate must be a number above 0, not 0.0"),
        ({"learning_rate": math.nan}, ValueError, "learning_rate must be a number above 0"),
        ({"learning_rate": math.inf}, ValueError, "learning_rate must be a number above 0"),
        ({"learning_rate": "1e-3"}, TypeError, "learning_rate must be a number, not '1e-3'"),
        ({"warmup": 1.0}, ValueError, "warmup must be a number above 0 and at most 1"),
        ({"decay_epochs": 0}, ValueError, "decay_epochs must be at least 1"),
        (
            {"schedule": "step", "epochs": 10},
            ValueError,
            "decay_epochs must be below the 10 epochs",
        ),
        ({"decay_factor": 1.5}, ValueError, "decay_factor must be .* at most 1, not 1.5"),
        ({"threads": 0}, ValueError, "threads must be at least 1, not 0"),
        ({"seed": -1}, ValueError, "seed must be at least 0"),
        ({"seed": 2**63}, ValueError, r"seed must be below 2\*\*63"),
        ({"target_accuracy": 98}, ValueError, "target_accuracy must be .* at most 1, not 98"),
        ({"schedule": "linear"}, ValueError, "schedule must be one of .*one-cycle.* not 'linear'"),
        ({"keep": "first"}, ValueError, "keep must be one of last, best, not 'first'"),
        ({"device": "gpu"}, ValueError, "device must be 'auto', 'cpu' or 'cuda', not 'gpu'"),
        ({"device": "meta"}, ValueError, "device must be 'auto', 'cpu' or 'cuda', not 'meta'"),
        ({"device": "cuda:99"}, ValueError, "device is 'cuda:99', but torch finds"),
    ],
)
def test_settings_are_refused_by_name(
    setting: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TrainingConfig(**setting)  # type: ignore[arg-type]


def test_settings_survive_json() -> None:
    config = TrainingConfig(epochs=3, target_accuracy=0.98, schedule="step", decay_epochs=2)
    assert TrainingConfig(**json.loads(json.dumps(config.to_dict()))) == config


def test_auto_takes_cuda_where_torch_has_it() -> None:
    expected = "cuda" if torch.cuda.is_available() else "cpu"
    assert resolve_device("auto").type == expected
    assert resolve_device("cpu") == torch.device("cpu")


def rates(config: TrainingConfig, batches: int) -> list[float]:
    return [rate(config, i, batches) for i in range(config.epochs * batches)]


def test_constant_schedule() -> None:
    config = TrainingConfig(epochs=2, learning_rate=0.25, schedule="constant")
    assert rates(config, 3) == [0.25] * 6


def test_one_cycle_rises_then_falls() -> None:
    config = TrainingConfig(epochs=10, learning_rate=0.5, schedule="one-cycle", warmup=0.4)
    values = rates(config, 101)
    top = values.index(max(values))
    # Ends and top as published; equal to rounding of a few cosines.
    assert values[0] == pytest.approx(0.5 / 25, rel=1e-12)
    assert values[-1] == pytest.approx(0.5e-4, rel=1e-9)
    assert max(values) == pytest.approx(0.5, rel=1e-5)
    assert top == round(0.4 * 1009)
    assert all(a < b for a, b in zip(values[:top], values[1 : top + 1], strict=True))
    assert all(a > b for a, b in zip(values[top:-1], values[top + 1 :], strict=True))


def test_cosine_falls_from_the_highest_rate() -> None:
    config = TrainingConfig(epochs=2, learning_rate=2.0, schedule="cosine")
    values = rates(config, 51)
    assert values[0] == 2.0
    assert values[-1] == pytest.approx(2e-4, rel=1e-9)
    assert rate(config, 50, 51) > 1 > rate(config, 51, 51)
    assert values == sorted(values, reverse=True)


def test_step_schedule_falls_after_every_so_many_epochs() -> None:
    config = TrainingConfig(
        epochs=5, learning_rate=8.0, schedule="step", decay_epochs=2, decay_factor=0.5
    )
    assert rates(config, 2) == [8.0] * 4 + [4.0] * 4 + [2.0] * 2


@pytest.mark.parametrize("schedule", ["constant", "one-cycle", "cosine"])
def test_a_run_of_one_batch_has_a_rate(schedule: str) -> None:
    config = TrainingConfig(epochs=1, schedule=schedule)  # type: ignore[arg-type]
    assert 0 < rate(config, 0, 1) <= config.learning_rate
