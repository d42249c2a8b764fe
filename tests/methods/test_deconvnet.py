# SPDX-License-Identifier: Apache-2.0
"""Deconvnet against the float64 reference, which tests/oracles compares with captum's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine.checks import assert_relevance, unchecked
from methods.copies import NAMED
from reference import explain
from torch import nn

import pyrel

MODELS = (
    *("max-pool", "average-pool", "conv2d-groups", "leaky-relu"),
    *("LSTM-plain-last", "GRU-plain-last", "GRUCellLoop"),
    *("Shallow-T2-17", "Deep-T4-16-15-17", "DeepV2-T4-15-7-31-32", "ConvDeep-T3-4-3-17-8"),
    *("ConvDeepPlus-T4-3-5-9-7", "RLSTM-T5-17-9"),
)


@pytest.mark.parametrize("name", MODELS)
def test_agrees_with_the_reference(name: str) -> None:
    exhibit = NAMED[name]
    wanted = explain(exhibit.graph, exhibit.inputs, "deconvnet")
    e = exhibit.compiled("deconvnet")(exhibit.inputs, target=wanted.target)
    assert assert_relevance(e, wanted, "deconvnet") <= 0.1 * len(exhibit.inputs)


def test_an_inactive_unit_hands_on_what_is_positive() -> None:
    """Of two units the first is never active; a gradient, guided or not, stops there."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[-1.0, 0.5], [2.0, 0.0]]))
        model[2].weight.copy_(torch.tensor([[3.0, -1.0]]))
    x = np.ones((1, 2), np.float32)
    signed = unchecked(model, x, method="deconvnet", squared=False)
    np.testing.assert_array_equal(signed(x).relevance, [[-3.0, 1.5]])
    np.testing.assert_array_equal(unchecked(model, x, method="deconvnet")(x).relevance, [[9, 2.25]])
    np.testing.assert_array_equal(
        unchecked(model, x, method="guided_backprop")(x).relevance, [[0, 0]]
    )
    assert repr(pyrel.methods.get("deconvnet")) == "Deconvnet(squared=True)"
