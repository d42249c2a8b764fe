# SPDX-License-Identifier: Apache-2.0
"""The same training on a CUDA device, where there is one."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from pyrel.training import (
    TrainingConfig,
    TrainingInterrupted,
    evaluate,
    load_model,
    save_model,
    train,
)

if TYPE_CHECKING:
    from conftest import Problem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def test_training_and_resuming_on_cuda(problem: "Problem", tmp_path: Path) -> None:
    config = TrainingConfig(epochs=12, batch_size=20, learning_rate=0.01, device="cuda")
    options: dict[str, Any] = {"config": config, "validation": problem.validation}
    whole, killed, resumed = problem.model(), problem.model(), problem.model()
    result = train(whole, problem.x, problem.y, out=tmp_path / "whole", **options)
    assert result.kept.validation_accuracy == 1.0
    assert next(whole.parameters()).is_cuda

    calls = itertools.count(1)

    def interrupt(module: nn.Module, args: object) -> None:
        if module.training and next(calls) == 27:  # six batches an epoch: in the fifth
            raise KeyboardInterrupt

    killed.register_forward_pre_hook(interrupt)
    out = tmp_path / "killed"
    with pytest.raises(TrainingInterrupted) as caught:
        train(killed, problem.x, problem.y, out=out, **options)
    assert caught.value.epoch == 5
    again = train(resumed, problem.x, problem.y, out=out, resume=True, **options)
    assert [r.loss for r in again.history] == [r.loss for r in result.history]
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value), name

    save_model(tmp_path / "model.safetensors", resumed)
    loaded, _ = load_model(tmp_path / "model.safetensors")
    assert evaluate(loaded, *problem.validation).accuracy == 1.0
