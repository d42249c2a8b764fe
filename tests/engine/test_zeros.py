# SPDX-License-Identifier: Apache-2.0
"""Rows with zeros skip their products: the same bits as among rows that have none."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from engine.checks import unchecked

Floats = npt.NDArray[np.float32]


def layer(depth: int, columns: int) -> torch.nn.Module:
    torch.manual_seed(depth + columns)
    hidden = torch.nn.Linear(depth, columns)
    return torch.nn.Sequential(hidden, torch.nn.ReLU(), torch.nn.Linear(columns, 3)).eval()


def rows(count: int, depth: int, share: float, seed: int) -> Floats:
    """Inputs of which about ``share`` are not zero; zeros of both signs."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1.0, 1.0, (count, depth)).astype(np.float32)
    zero = rng.random((count, depth)) >= share
    x[zero] = np.where(rng.random(zero.sum()) < 0.5, 0.0, -0.0)
    return x


# Around one and two masks of 64, and beyond the depth from which zeros are not looked for.
@pytest.mark.parametrize("depth", [1, 15, 63, 64, 65, 130, 4096, 4100])
@pytest.mark.parametrize("columns", [1, 17, 64, 70, 145])
def test_same_bits_with_and_without_neighbours_that_have_zeros(depth: int, columns: int) -> None:
    explainer = unchecked(layer(depth, columns), np.zeros((1, depth), np.float32), "gradient")
    seen = rows(5, depth, 0.3, seed=1)
    alone = [explainer(seen[i : i + 1]) for i in range(len(seen))]
    for share in (0.0, 0.2, 1.0):  # of a tile's other rows: its zeros are skipped, or are not
        whole = explainer(np.concatenate([seen, rows(7, depth, share, seed=2)]))
        for i, single in enumerate(alone):
            assert single.output.tobytes() == whole.output[i : i + 1].tobytes(), (share, i)
            assert single.relevance.tobytes() == whole.relevance[i : i + 1].tobytes(), (share, i)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.9, 1.0])
def test_agrees_with_double_precision(share: float) -> None:
    model, x = layer(200, 145), rows(31, 200, share, seed=3)
    e = unchecked(model, x, "gradient")(x)
    (w1, b1), (w2, b2) = ((m.weight, m.bias) for m in (model[0], model[2]))
    a, w1, b1, w2, b2 = (
        np.asarray(t.detach() if isinstance(t, torch.Tensor) else t, dtype=np.float64)
        for t in (x, w1, b1, w2, b2)
    )
    expected = np.maximum(a @ w1.T + b1, 0) @ w2.T + b2
    # γ of all roundings on the way of a term, times the sum of the terms' sizes (Higham 2002, 3.1).
    terms = (np.abs(a) @ np.abs(w1).T + np.abs(b1)) @ np.abs(w2).T + np.abs(b2)
    assert (np.abs(e.output - expected) <= (200 + 145 + 2) * 2.0**-24 * 1.01 * terms).all()


def test_nan_is_not_taken_for_zero() -> None:
    x = rows(13, 100, 0.2, seed=4)
    x[6, 50] = np.nan
    explainer = unchecked(layer(100, 33), x, "gradient", check_finite=False)
    assert np.isnan(explainer(x).output[6]).all()
    assert np.isfinite(explainer(np.delete(x, 6, axis=0)).output).all()


def test_zero_has_one_sign() -> None:
    """A product that is flushed leaves −0, to which a zero may add +0 or −0, or is skipped."""
    model = torch.nn.Sequential(torch.nn.Linear(64, 16, bias=False)).eval()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
        model[0].weight[:, 0] = -1e-30
    x = np.zeros((13, 64), np.float32)
    x[:, 0] = 1e-30
    x[1:, 1:] = 1.0
    explainer = unchecked(model, x, "gradient")
    alone, whole = explainer(x[:1]).output, explainer(x).output
    assert not np.signbit(alone).any()
    assert alone.tobytes() == whole[:1].tobytes()
