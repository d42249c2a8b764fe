# SPDX-License-Identifier: Apache-2.0
"""Occlusion against loops over torch in float64, and against captum's where they share patches."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.sequences import VOCABULARY, Last, Tokens, batch, made
from engine.test_lengths import assert_as_alone
from methods.copies import FEW, MODELS, NAMED
from methods.copies import made as compiled
from reference import explain
from torch import nn

import pyrel

Sizes = tuple[int, ...]


def looped(
    model: nn.Module, x: Any, target: Any, patch: Sizes, stride: Sizes, baseline: Any = 0.0
) -> np.ndarray:
    """Occlude one patch after another: the mean of what the patches of an element take away."""
    double = copy.deepcopy(model).double()

    def score(values: Any) -> np.ndarray:
        with torch.no_grad():
            tensor = torch.from_numpy(values)
            output = double(tensor.double() if tensor.is_floating_point() else tensor)
        return output.reshape(len(values), -1).numpy()[np.arange(len(values)), target]

    shape = x.shape[1:]
    found, covered, full = np.zeros(x.shape), np.zeros(shape), np.broadcast_to(baseline, x.shape)
    starts = []
    for size, width, by in zip(shape, patch, stride, strict=True):
        here = [0]
        while here[-1] + width < size:  # something is left behind this patch
            here.append(here[-1] + by)
        starts.append(here)
    for corner in itertools.product(*starts):
        at = tuple(slice(s, s + w) for s, w in zip(corner, patch, strict=True))
        occluded = x.copy()
        occluded[:, *at] = full[:, *at]
        drop = score(x) - score(occluded)
        found[:, *at] += drop.reshape(-1, *(1 for _ in shape))
        covered[at] += 1
    return found / covered


@pytest.mark.parametrize("name", MODELS)
def test_steps_agree_with_float64(name: str) -> None:
    exhibit = NAMED[name]
    x = exhibit.inputs[:FEW].astype(np.float32)
    e = compiled(exhibit, "occlusion", baseline=0.25)(x)
    patch = (1, *exhibit.shape[1:])
    wanted = looped(exhibit.module, x, e.target, patch, patch, np.float32(0.25))
    # Both outputs of a difference are rounded; those of occluded samples are of the same sums.
    exact = explain(exhibit.graph, x, "gradient")
    assert np.abs(e.relevance - wanted).max() <= 4 * exact.uncertainty.max()
    assert np.abs(wanted).max() > 100 * exact.uncertainty.max()
    assert np.isnan(e.conservation).all()


def linear(*shape: int) -> tuple[nn.Module, np.ndarray]:
    """Return a model of small sums, of which outputs are known to 1e-5, and samples in [0, 1]."""
    torch.manual_seed(0)
    size = int(np.prod(shape))
    model = nn.Sequential(nn.Flatten(), nn.Linear(size, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, np.random.default_rng(0).uniform(0, 1, (4, *shape)).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "patch", "stride", "patch_of", "stride_of"),
    [
        ((3, 8, 6), 4, None, (1, 4, 4), (1, 4, 4)),
        ((3, 8, 6), 3, 2, (1, 3, 3), (1, 2, 2)),
        ((3, 8, 6), (2, 8, 5), (1, 8, 3), (2, 8, 5), (1, 8, 3)),
        ((3, 8, 6), 50, None, (1, 8, 6), (1, 8, 6)),
        ((7, 5), None, None, (1, 5), (1, 5)),
        ((9,), None, None, (1,), (1,)),
        ((9,), [4], [3], (4,), (3,)),
    ],
    ids=str,
)
def test_patches(shape: Sizes, patch: Any, stride: Any, patch_of: Sizes, stride_of: Sizes) -> None:
    model, x = linear(*shape)
    baseline = np.random.default_rng(1).uniform(-1, 0, shape).astype(np.float32)
    options = {"patch": patch, "stride": stride, "baseline": baseline}
    # The baseline lies outside the box.
    e = unchecked(model, x, "occlusion", low=0.0, high=1.0, **options)(x)
    wanted = looped(model, x, e.target, patch_of, stride_of, baseline)
    np.testing.assert_allclose(e.relevance, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("stride", [None, (1, 2, 2)])
def test_as_captum(stride: Any) -> None:
    captum = pytest.importorskip("captum.attr")
    model, x = linear(3, 8, 7)
    e = unchecked(model, x, "occlusion", patch=3, stride=stride)(x)
    theirs = captum.Occlusion(model).attribute(
        torch.from_numpy(x),
        sliding_window_shapes=(1, 3, 3),
        strides=stride or (1, 3, 3),
        target=torch.from_numpy(e.target),
    )
    np.testing.assert_allclose(e.relevance, theirs.numpy(), rtol=0, atol=2e-6)


def test_tokens() -> None:
    model, x = made(Tokens), batch(Tokens, 5, 6)
    explainer = unchecked(model, x, "occlusion", baseline=3)
    e = explainer(x)
    wanted = looped(model, x, e.target, (1,), (1,), 3)
    np.testing.assert_allclose(e.relevance, wanted, rtol=0, atol=1e-5)
    assert (e.relevance[x == 3] == 0).all()
    assert np.abs(e.relevance).max() > 1e-2
    with pytest.raises(ValueError, match="baseline: wanted the token id that stands for an"):
        unchecked(model, x, "occlusion")
    with pytest.raises(ValueError, match="baseline: wanted token ids, .* got floats"):
        unchecked(model, x, "occlusion", baseline=1.0)
    with pytest.raises(ValueError, match=f"ids from 0 to {VOCABULARY - 1}, got {VOCABULARY}"):
        unchecked(model, x, "occlusion", baseline=VOCABULARY)


def test_any_steps_lengths_and_files(tmp_path: Path) -> None:
    model, x = made(Last), batch(Last, 4, 7)
    explainer = unchecked(model, x, "occlusion", patch=(2, 4), stride=(1, 4), lengths=True)
    explainer.save(tmp_path / "occlusion.program")
    loaded = pyrel.Explainer.load(tmp_path / "occlusion.program")
    lengths = [7, 1, 4, 7]
    told: list[tuple[int, int]] = []
    e = explainer(x, lengths=lengths, progress=lambda *numbers: told.append(numbers))
    assert told[-1] == (2 * 7 + 1 * 2 + 1 * 4,) * 2
    np.testing.assert_array_equal(loaded(x, lengths=lengths).relevance, e.relevance)
    assert_as_alone(e, loaded, x, lengths)
    assert "it compares outputs" in str(explainer)


def test_a_model_without_a_gradient_is_explained() -> None:
    class Kept(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
            return gradient

    class Model(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return Kept.apply(x)

    x = np.eye(3, dtype=np.float32)
    with pytest.raises(pyrel.UnsupportedModelError):
        unchecked(Model(), x, "gradient")
    np.testing.assert_array_equal(unchecked(Model(), x, "occlusion")(x).relevance, 2 * x)


def test_what_is_refused() -> None:
    model, x = linear(3, 8, 6)
    for patch in (0, [1, 0, 1]):
        with pytest.raises(ValueError, match="patch: wanted 1 to"):
            pyrel.methods.Occlusion(patch=patch)
    for patch in (1.5, "3", [1.5, 2, 2], True):
        with pytest.raises(TypeError, match="patch: wanted a whole number"):
            pyrel.methods.Occlusion(patch=patch)
    with pytest.raises(ValueError, match=r"patch: wanted a size for each axis .*\(3, 8, 6\)"):
        unchecked(model, x, "occlusion", patch=(2, 2))
    with pytest.raises(ValueError, match="stride: wanted at most the size of a patch"):
        unchecked(model, x, "occlusion", patch=2, stride=3)
    with pytest.raises(ValueError, match="baseline: wanted a shape that broadcasts"):
        unchecked(model, x, "occlusion", baseline=np.zeros(5))
