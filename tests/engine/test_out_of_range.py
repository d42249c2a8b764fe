# SPDX-License-Identifier: Apache-2.0
"""Inputs that leave the range of an explainer: refused, or clipped where that is asked for."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.sequences import Last
from torch import nn

import pyrel

LOW = np.linspace(-0.5, -0.1, 9)
RANGE = dict(low=LOW, high=1.0)
METHODS = ["deep_taylor", "integrated_gradients", "occlusion"]


def net(sizes: tuple[int, ...]) -> nn.Module:
    """Make linear layers with ReLU between them."""
    torch.manual_seed(0)
    layers = [nn.Linear(*pair) for pair in itertools.pairwise(sizes)]
    return nn.Sequential(*[part for layer in layers for part in (nn.ReLU(), layer)][1:])


def moved() -> Any:
    """Make samples of which some elements lie beyond their range."""
    x = np.random.default_rng(0).normal(0.2, 1.0, (6, 9)).astype(np.float32)
    assert (x < LOW).any()
    assert (x > 1).any()
    return x


def inside(x: Any) -> Any:
    return np.clip(x, LOW.astype(np.float32), np.float32(1))


@pytest.mark.parametrize("method", METHODS)
def test_clipped_on_request(method: str) -> None:
    model = net((9, 17, 4))
    clipping = unchecked(model, moved(), method=method, out_of_range="clip", **RANGE)
    refusing = unchecked(model, moved(), method=method, **RANGE)
    x = moved()
    given = x.copy()
    e, wanted = clipping(given, 2), refusing(inside(x), 2)
    for field in ("relevance", "output", "conservation"):
        np.testing.assert_array_equal(getattr(e, field), getattr(wanted, field))
    np.testing.assert_array_equal(given, x)  # the user's array is as it was
    np.testing.assert_array_equal(clipping.forward(x), wanted.output)
    with pytest.raises(ValueError, match=r"x: wanted values in \[low, high\]"):
        refusing(x, 2)
    assert "clipped to its range" in repr(clipping)
    assert "clipped" not in repr(refusing)


def test_clipped_by_length() -> None:
    x = np.random.default_rng(1).normal(0.0, 1.0, (3, 5, 4)).astype(np.float32)
    x[1, 4] = np.nan  # beyond its length
    lengths = [5, 2, 3]
    torch.manual_seed(0)
    given = dict(method="lrp_epsilon", lengths=True, low=-0.5, high=0.5)
    model = Last()
    clipping = unchecked(model, x, out_of_range="clip", **given)
    wanted = unchecked(model, x, **given)(np.clip(x, -0.5, 0.5), 1, lengths=lengths)
    np.testing.assert_array_equal(clipping(x, 1, lengths=lengths).relevance, wanted.relevance)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_only_finite_values_are_clipped(value: float) -> None:
    x = moved()
    x[4, 2] = value
    bounds = dict(low=LOW, high=np.inf)
    clipping = unchecked(net((9, 4)), x, method="gradient", out_of_range="clip", **bounds)
    with pytest.raises(ValueError, match=r"wanted finite float32 values, got x\[4, 2\]"):
        clipping(x, 0)


def test_files_and_copies_clip_as_well(tmp_path: Path) -> None:
    clipping = unchecked(net((9, 4)), moved(), method="deep_taylor", out_of_range="clip", **RANGE)
    wanted = clipping(moved(), 1).relevance
    clipping.save(tmp_path / "program")
    for copy in (
        pyrel.Explainer.load(tmp_path / "program"),
        pickle.loads(pickle.dumps(clipping)),
    ):
        assert copy.inputs.out_of_range == "clip"
        np.testing.assert_array_equal(copy(moved(), 1).relevance, wanted)


def test_what_cannot_be_clipped() -> None:
    model, x = net((9, 4)), moved()
    with pytest.raises(ValueError, match="^out_of_range: .* needs low and high"):
        unchecked(model, x, method="gradient", out_of_range="clip")
    with pytest.raises(ValueError, match="^out_of_range: wanted 'raise' or 'clip', got 'clamp'"):
        unchecked(model, x, method="gradient", out_of_range="clamp", **RANGE)
    words = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(12, 2))
    with pytest.raises(ValueError, match="^out_of_range: .* token ids have no nearest"):
        ids = torch.zeros(2, 4, dtype=torch.long)
        unchecked(words, ids, method="gradient", out_of_range="clip")
