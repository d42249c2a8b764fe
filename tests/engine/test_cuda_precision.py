# SPDX-License-Identifier: Apache-2.0
"""Precisions of the emulated device: within what rounding may do, of the map in float32."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from engine.on_cuda import emulated
from engine.sequences import Last, assert_same, batch, made
from torch import nn

import pyrel
from pyrel import _core

__all__ = ["emulated"]
pytestmark = pytest.mark.usefixtures("emulated")

# The largest relative error of a number that a product is formed of: of bfloat16, of 8 significant
# bits, of one number of TF32, of 11, and of two of them.
UNIT = {"bf16_all": 2.0**-8, "tf32": 2.0**-11, "tf32x3": 2.0**-22}
FLOAT32 = 1e-6  # of sums in float32
DEPTHS = (31, 17, 9, 4)

Doubles = npt.NDArray[np.float64]


def linear() -> nn.Module:
    """Layers without a ReLU: nothing flips, so that rounding alone is seen."""
    torch.manual_seed(1)
    sizes = zip(DEPTHS, DEPTHS[1:], strict=False)
    return nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in sizes)).eval()


def absolute(model: nn.Module) -> list[Doubles]:
    return [np.abs(each.weight.detach().double().numpy()) for each in model]  # type: ignore[union-attr]


def samples(count: int = 19) -> npt.NDArray[np.float32]:
    return np.random.default_rng(2).normal(size=(count, DEPTHS[0])).astype(np.float32)


@pytest.mark.parametrize("precision", UNIT)
def test_outputs_and_gradients_are_within_their_rounding(precision: str) -> None:
    """Each term of a way through n layers has 2n roundings; Σ|terms| bounds what they do."""
    model, x = linear(), samples()
    exact = pyrel.Explainer(model, x, "gradient", device="cpu")
    rounded = pyrel.Explainer(model, x, "gradient", device="cuda", precision=precision)
    wanted = exact(x, 1)
    found = rounded(x, 1)
    growth = (1 + UNIT[precision]) ** (2 * (len(DEPTHS) - 1)) - 1 + FLOAT32
    forward, back = np.abs(x).astype(np.float64), np.eye(DEPTHS[-1])[[1] * len(x)]
    for weight in absolute(model):
        forward = forward @ weight.T
    for weight in reversed(absolute(model)):
        back = back @ weight
    assert (np.abs(found.output.astype(float) - wanted.output) <= growth * forward).all()
    assert (np.abs(found.relevance.astype(float) - wanted.relevance) <= growth * back).all()
    if precision != "tf32x3":  # and something is rounded
        assert np.abs(found.output - wanted.output).max() > UNIT[precision] / 100


def test_bf16_rounds_relevance_alone() -> None:
    """The forward pass is as exact as float32, and the class is that of float32."""
    model, x = linear(), samples()
    wanted = pyrel.Explainer(model, x, "gradient", device="cpu")(x)
    found = pyrel.Explainer(model, x, "gradient", device="cuda", precision="bf16")(x)
    np.testing.assert_allclose(found.output, wanted.output, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found.target, wanted.target)
    error = np.abs(found.relevance - wanted.relevance).max()
    assert 1e-4 < error / np.abs(wanted.relevance).max() < 0.05


def test_bf16_all_decides_the_class_in_float32() -> None:
    """Outputs that differ by less than bfloat16 tells apart."""
    model = nn.Linear(4, 2, bias=False).eval()
    with torch.no_grad():
        model.weight[:] = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0 + 2**-12]])
    x = np.ones((9, 4), np.float32)
    found = pyrel.Explainer(model, x, "gradient", device="cuda", precision="bf16_all")(x)
    assert (found.target == 1).all()


@pytest.mark.skipif(
    "avx512_bf16" not in _core.instruction_sets(), reason="no products of bfloat16 here"
)
@pytest.mark.parametrize("precision", ["bf16", "bf16_all"])
def test_bfloat16_is_that_of_the_cpu(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same numbers are rounded; sums differ in their order alone."""
    model, x = made(Last), batch(Last, 5, 4)
    options: dict[str, Any] = {"low": None, "high": None, "check": None, "precision": precision}
    monkeypatch.setenv("PYREL_ISA", "avx512_bf16")
    wanted = pyrel.Explainer(model, x[:2], "lrp_epsilon", device="cpu", **options)(x, 0)
    found = pyrel.Explainer(model, x[:2], "lrp_epsilon", device="cuda", **options)(x, 0)
    size = np.abs(wanted.relevance).max()
    # Sums that differ by their last bit may round to the next number of bfloat16 further on.
    assert np.abs(found.relevance - wanted.relevance).max() <= 2.0**-8 * size


@pytest.mark.parametrize("precision", ["tf32x3", "tf32", "bf16"])
def test_recurrent_cells_stay_near_float32(precision: str) -> None:
    model, x = made(Last), batch(Last, 5, 4)
    wanted = pyrel.Explainer(model, x[:2], "lrp_epsilon", device="cpu")(x, 0)
    found = pyrel.Explainer(model, x[:2], "lrp_epsilon", device="cuda", precision=precision)(x, 0)
    cosine = torch.nn.functional.cosine_similarity(
        torch.as_tensor(found.relevance).flatten(1), torch.as_tensor(wanted.relevance).flatten(1)
    )
    assert cosine.min() > {"tf32x3": 1 - 1e-6, "tf32": 0.9999, "bf16": 0.999}[precision]


@pytest.mark.parametrize("precision", ["tf32x3", "tf32"])
def test_copies_keep_the_precision(precision: str, tmp_path: Path) -> None:
    """A pickle does; a file is the same for all, so that reading it says the precision."""
    x = samples()
    explainer = pyrel.Explainer(linear(), x, "gradient", device="cuda", precision=precision)
    assert f"cuda:0, products of {precision}" in repr(explainer)
    explainer.save(tmp_path / "program")
    read = pyrel.Explainer.load(tmp_path / "program", device="cuda", precision=precision)
    for other in (pickle.loads(pickle.dumps(explainer)), read):
        assert_same(other(x), explainer(x))
    plain = pyrel.Explainer.load(tmp_path / "program", device="cuda")(x)
    assert (plain.output != explainer(x).output).any()
