# SPDX-License-Identifier: Apache-2.0
"""The same training on a CUDA device, where there is one."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch

from pyrel.training import TrainingConfig, evaluate, load_model, save_model, train

if TYPE_CHECKING:
    from conftest import Problem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device")


def test_training_and_resuming_on_cuda(problem: "Problem", tmp_path: Path) -> None:
    config = TrainingConfig(epochs=12, batch_size=20, learning_rate=0.01, device="cuda")
    model, again = problem.model(), problem.model()
    options = {"config": config, "validation": problem.validation, "out": tmp_path}
    result = train(model, problem.x, problem.y, **options)  # type: ignore[arg-type]
    assert result.kept.validation_accuracy == 1.0
    assert next(model.parameters()).is_cuda
    train(again, problem.x, problem.y, resume=True, **options)  # type: ignore[arg-type]
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value)
    save_model(tmp_path / "model.safetensors", model)
    loaded, _ = load_model(tmp_path / "model.safetensors")
    assert evaluate(loaded, *problem.validation).accuracy == 1.0
