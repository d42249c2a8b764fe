# SPDX-License-Identifier: Apache-2.0
"""Outputs alone: the bits of the explained ones, without the work of the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import by_name, compiled, inputs
from engine.sequences import Last, Mean, batch, explainer

import pyrel

MODELS = ("Elman", "Deep-T7-3-32-9", "SlicedImage", "Residual")


@pytest.mark.parametrize("method", ["gradient", "deep_taylor", "lrp_epsilon"])
@pytest.mark.parametrize("name", MODELS)
def test_the_bits_of_the_explained_outputs(name: str, method: str) -> None:
    made, x = compiled(by_name(name), method), inputs(by_name(name))
    for count in (0, 1, 13, 100):
        np.testing.assert_array_equal(made.forward(x[:count]), made(x[:count]).output)


@pytest.mark.parametrize("in_lanes", [False, True])
def test_both_layouts(in_lanes: bool) -> None:
    case = by_name("Deep-T7-3-32-9")
    loaded = compiled(case, "deep_taylor")._programs.at(7)
    x = inputs(case).reshape(100, -1).copy()
    found = []
    for relevance in (None, np.empty_like(x)):
        output, target = np.empty((100, loaded.classes), np.float32), np.empty(100, np.int64)
        rest = [np.empty(100, np.float32) for _ in range(3)]
        bounds = loaded.low, loaded.high
        status = loaded.core.run(
            x, None, *bounds, True, 1, relevance, output, target, *rest, in_lanes=in_lanes
        )
        assert status.outcome == pyrel._core.Outcome.done
        found.append(output)
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("model", [Last, Mean])
def test_lengths(model: Any) -> None:
    made = explainer(model, "lrp_epsilon", lengths=True)
    x, lengths = batch(model, 9, 6), np.array([1, 6, 3, 3, 2, 6, 5, 1, 4])
    np.testing.assert_array_equal(made.forward(x, lengths=lengths), made(x, lengths=lengths).output)


def test_types_errors_and_saved_programs(tmp_path: Path) -> None:
    model, x = torch.nn.Linear(3, 2), torch.rand(5, 3)
    made = pyrel.Explainer(model, x, "gradient")
    outputs = made.forward(x)
    assert isinstance(outputs, torch.Tensor)
    torch.testing.assert_close(outputs, model(x).detach())
    with pytest.raises(ValueError, match="wanted finite float32 values"):
        made.forward(x * np.inf)
    with pytest.raises(ValueError, match="shape"):
        made.forward(x[:, :2])
    with pytest.raises(TypeError, match="lengths: this explainer takes none"):
        made.forward(x, lengths=[1] * 5)
    made.save(tmp_path / "p")
    assert torch.equal(pyrel.Explainer.load(tmp_path / "p").forward(x), outputs)
