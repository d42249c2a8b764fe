# SPDX-License-Identifier: Apache-2.0
"""The peer of the benchmark must answer what the engine answers."""

import pytest
import torch
from by_hand import DeepTaylorByHand

import pyrel


@pytest.mark.parametrize("steps", [2, 5])
def test_same_relevance(steps: int) -> None:
    torch.manual_seed(steps)
    cell = pyrel.nn.Deep(steps, (3, 7), sizes=(33, 17, 9), recurrent=20).eval()
    x = torch.rand(13, steps, 3, 7)
    explainer = pyrel.Explainer(cell, x, low=0.0, high=1.0)
    with torch.inference_mode():
        theirs = DeepTaylorByHand(cell)(x)
    ours = explainer(x).relevance
    # Both in float32: each is within 1e-5 of the exact relevance, relative to its norm.
    error = (ours - theirs).flatten(1).norm(dim=1)
    assert (error <= 2e-5 * theirs.flatten(1).norm(dim=1)).all()
