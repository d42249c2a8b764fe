# SPDX-License-Identifier: Apache-2.0
"""Variants of the cells that pyrel explains, beside the cells that are held to the reference."""

from typing import Any

import numpy as np
import pytest
import torch

import pyrel
from pyrel.nn import RLSTM, Cell, ConvDeep, ConvDeepPlus, Deep, DeepV2, Shallow

VARIANTS: dict[str, tuple[type[Cell], int, dict[str, Any]]] = {
    "ConvDeep-sum": (ConvDeep, 2, {"sizes": (2, 3, 6, 4), "recurrent": 5, "pooling": "sum"}),
    "ConvDeepPlus-sum": (
        ConvDeepPlus,
        2,
        {"sizes": (2, 3, 6, 4), "recurrent": 5, "pooling": "sum"},
    ),
    "ConvDeepPlus-one-step": (ConvDeepPlus, 1, {"sizes": (2, 3, 6, 4)}),
    "RLSTM-conv": (RLSTM, 2, {"sizes": (5, 6), "convolutions": (2, 3), "stationary": True}),
    "RLSTM-one-step": (RLSTM, 1, {"sizes": (5, 6)}),
}


def seeded(cell: type[Cell], steps: int, **options: Any) -> Cell:
    torch.manual_seed(3)
    model = cell(steps, step_shape=(5, 3), classes=3, **options).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("weight"):
                parameter.add_(0.1)  # so that no layer of few units is silent
    return model


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_explained(name: str) -> None:
    cell, steps, options = VARIANTS[name]
    model = seeded(cell, steps, **options)
    x = np.random.default_rng(0).random((4, steps, 5, 3), dtype=np.float32)
    graph = pyrel.capture(model, x)
    inputs = torch.tensor(x, requires_grad=True)
    scores = model(inputs)
    torch.autograd.backward(scores.max(dim=1).values.sum())
    # Sums of at most 100 terms in at most 10 layers, there and back: 2 * 1000 roundings of 2^-24.
    bound = 1.2e-4
    gradient = pyrel.Explainer(graph, method="gradient")(x)
    assert inputs.grad is not None
    scale = float(inputs.grad.abs().max())
    np.testing.assert_allclose(gradient.relevance, inputs.grad, rtol=0, atol=bound * scale)
    for method in ("deep_taylor", "lrp_epsilon"):
        e = pyrel.Explainer(graph, method=method, low=0.0, high=1.0)(x)
        assert e.output.max() > 0.1
        size = np.abs(e.relevance).sum(axis=(1, 2, 3)).max()
        np.testing.assert_allclose(e.conservation, -e.absorbed, rtol=0, atol=bound * size)
        if method == "deep_taylor":
            assert e.relevance.min() >= 0


@pytest.mark.parametrize(
    ("cell", "sizes"), [(Shallow, (6,)), (Deep, (6, 5, 4)), (DeepV2, (6, 5, 4, 4))]
)
def test_the_epsilon_rule_is_gradient_times_input_in_cells_of_relus(
    cell: type[Cell], sizes: tuple[int, ...]
) -> None:
    model = seeded(cell, 3, sizes=sizes, recurrent=5)
    x = np.random.default_rng(0).random((4, 3, 5, 3), dtype=np.float32)
    graph = pyrel.capture(model, x)
    wanted = pyrel.Explainer(graph, method="gradient_x_input")(x).relevance
    e = pyrel.Explainer(graph, method="lrp_epsilon", epsilon=1e-30)(x)
    assert np.abs(wanted).max() > 0.01
    # Sums of at most 20 terms in at most 15 layers, there and back: 2 * 300 roundings of 2^-24
    # for each of the two.
    np.testing.assert_allclose(e.relevance, wanted, rtol=0, atol=7.2e-5 * np.abs(wanted).max())
