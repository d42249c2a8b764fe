# SPDX-License-Identifier: Apache-2.0
"""A problem that a tiny cell learns in a second."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from pyrel.nn import Deep


@dataclass
class Problem:
    """Which of three pixels is lit most often over four steps."""

    x: Tensor
    y: Tensor
    validation: tuple[Tensor, Tensor]

    def model(self, seed: int = 0, dropout: float = 0.1) -> Deep:
        state = torch.random.get_rng_state()
        torch.manual_seed(seed)
        model = Deep(
            4, step_shape=(3, 1), classes=3, sizes=(12, 16, 8), recurrent=8, dropout=dropout
        )
        torch.random.set_rng_state(state)
        # The thesis's weights are made for hundreds of inputs; a dozen would leave every unit dead.
        with torch.no_grad():
            for name, value in model.named_parameters():
                if name.endswith("weight"):
                    value.mul_(4)
        return model


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    y = torch.randint(3, (count,), generator=generator)
    x = torch.rand(count, 4, 3, 1, generator=generator) * 0.5
    x[torch.arange(count), :, y] += 0.5
    return x, y


@pytest.fixture
def problem() -> Problem:
    generator = torch.Generator().manual_seed(11)
    return Problem(*draw(120, generator), draw(60, generator))
