# SPDX-License-Identifier: Apache-2.0
"""Programs as text. docs/architecture.md shows a whole one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import pyrel
from pyrel.compiler.lowering.lower import lower


def text(model: nn.Module, x: torch.Tensor, method: pyrel.methods.Method) -> str:
    graph = pyrel.capture(model, x)
    size = graph.input_size
    return str(lower(graph, method, np.full(size, -np.inf), np.full(size, np.inf)))


def test_a_layer_and_its_way_back() -> None:
    model = nn.Linear(3, 2, bias=False)
    model.weight.data[:] = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert text(model, torch.rand(2, 3), pyrel.methods.Gradient()).splitlines() == [
        "3 inputs, 2 outputs, 32 floats of working memory",
        "  0  gemm      arena[0..1] = input[0..2] @ m0 (3×2)",
        "  1  seed      arena[16..17] = arena[0..1] one",
        "  2  gemm      relevance[0..2] = arena[16..17] @ m1 (2×3)",
    ]


def test_rows_loops_and_absorbed_relevance() -> None:
    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(2, 3, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.lstm(x)[0][:, -1]

    lines = text(Reader(), torch.rand(2, 12, 2), pyrel.methods.LrpEpsilon()).splitlines()
    assert any(line.strip().startswith("repeat ") for line in lines)
    # The inputs of eleven steps are copied as one, and relevance goes back as one.
    assert any("= input[2..3 +2 × 11]" in line for line in lines)
    assert any("relevance[22..23 -2 × 11] =" in line for line in lines)
    assert any(" sigmoid" in line for line in lines) and any(" tanh" in line for line in lines)
    assert any("absorbed +=" in line and "stabiliser" in line for line in lines)
    numbers = [int(line[:3]) for line in lines[1:] if line[:3].strip().isdecimal()]
    assert numbers == [*range(len(numbers))]


@pytest.mark.parametrize("method", ["deep_taylor", "lrp_epsilon", "gradient"])
def test_every_instruction_of_a_model_has_a_line(method: str) -> None:
    model = nn.Sequential(
        nn.Conv1d(2, 3, 3), nn.ReLU(), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(9, 2)
    )
    graph = pyrel.capture(model, torch.rand(2, 2, 8))
    low, high = np.full(16, -1.0), np.full(16, 1.0)
    program = lower(graph, pyrel.methods.get(method), low, high)
    lines = str(program).splitlines()[1:]
    kinds = [type(i.template).__name__.lower() for i in program.every_instruction()]
    assert [line.split()[1] for line in lines if line[:3].strip().isdecimal()] == kinds
