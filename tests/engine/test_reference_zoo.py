# SPDX-License-Identifier: Apache-2.0
"""The reference on every operator and recurrent layer: torch's autograd, conservation, rounding."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from engine.checks import norms, rows
from engine.zoo import ZOO, Exhibit, every_exhibit
from reference import CONSERVING, METHODS, Reference, explain
from torch import nn


def double_gradient(exhibit: Exhibit, target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Outputs, and the gradient in the input or in the embedding's rows, of torch in float64."""
    module = copy.deepcopy(exhibit.module).double()
    x = torch.from_numpy(exhibit.inputs)
    leaf = x if exhibit.vocabulary else x.double().requires_grad_()
    if exhibit.vocabulary:
        (table,) = (m for m in module.modules() if isinstance(m, nn.Embedding))
        leaf = table(x).detach().requires_grad_()
        table.register_forward_hook(lambda *_: leaf)
    output = module(x if exhibit.vocabulary else leaf)
    output[torch.arange(len(x)), torch.from_numpy(target)].sum().backward()
    assert leaf.grad is not None
    given = leaf.grad.sum(2) if exhibit.vocabulary else leaf.grad
    return output.detach().numpy(), given.numpy()


@every_exhibit
def test_forward_and_gradient_equal_torch(exhibit: Exhibit) -> None:
    ours = exhibit.expected("gradient")
    output, gradient = double_gradient(exhibit, ours.target)
    # Both are float64: sums of at most a few hundred terms of order 1.
    np.testing.assert_allclose(ours.output, output, rtol=1e-11, atol=1e-12)
    error = norms(ours.relevance - gradient)
    assert (error <= 1e-10 * norms(gradient) + 1e-13)[ours.margin > 1].all()
    assert (ours.margin > 1).mean() >= 0.9
    assert (norms(gradient) > 0).mean() >= 0.3


@every_exhibit
@pytest.mark.parametrize("gates", ["signal", "half"])
@pytest.mark.parametrize("method", CONSERVING)
def test_relevance_is_conserved(exhibit: Exhibit, method: str, gates: str) -> None:
    refused = method == "deep_taylor" and not exhibit.explained_by_deep_taylor
    if refused or (gates == "half" and not exhibit.has_gates):
        return
    ours = exhibit.expected(method, gates)
    total = rows(ours.relevance).sum(axis=1) + ours.absorbed
    # Each of a hundred nodes hands on at most the peak, in float64.
    assert (np.abs(total - ours.start) <= 1e-13 * np.maximum(ours.peak, 1)).all()
    assert (np.abs(ours.start) > 0).mean() >= 0.3


def allowed(ours: Reference) -> np.ndarray:
    return np.sqrt((rows(ours.doubt) ** 2).sum(axis=1))


@every_exhibit
@pytest.mark.parametrize("method", METHODS)
def test_rounding_bound_holds_in_single_precision(exhibit: Exhibit, method: str) -> None:
    """The reference itself, run in float32, stays inside the bound of its relevance."""
    if method == "deep_taylor" and not exhibit.explained_by_deep_taylor:
        return
    ours = exhibit.expected(method)
    single = explain(
        exhibit.graph, exhibit.inputs, method, target=ours.target, precision=np.float32
    )
    assert single.output.dtype == single.absorbed.dtype == np.float32
    assert (np.abs(single.output - ours.output) <= ours.uncertainty).all()
    safe = ours.margin > 1
    error = norms(single.relevance.astype(np.float64) - ours.relevance)
    assert (error <= allowed(ours))[safe].all()
    assert safe.mean() >= (1.0 if method in CONSERVING else 0.9)


def test_what_deep_taylor_refuses() -> None:
    """Linear layers after values that may be negative without bound, and layer norm."""
    refused = {exhibit.name for exhibit in ZOO if not exhibit.explained_by_deep_taylor}
    activations = {"elu", "elu-alpha", "gelu", "gelu-tanh", "silu", "leaky-relu"}
    norms = {"layer-norm", "layer-norm-first", "layer-norm-plain", "layer-norm-rows"}
    assert refused == activations | norms
