# SPDX-License-Identifier: Apache-2.0
"""Captum's attributions on feed-forward nets against the reference and the engine."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, norms
from oracles import feed_forward
from reference import explain
from reference_graph import Array
from torch import nn

import pyrel

captum = pytest.importorskip("captum.attr")

FLOAT64 = 1e-10


def captum_gradients(model: nn.Sequential, method: str) -> Any:
    """Return x, target ↦ captum's form of one of our gradient methods."""
    match method:
        case "sensitivity":
            return lambda x, target: captum.Saliency(model).attribute(x, target) ** 2
        case "gradient":
            return lambda x, target: captum.Saliency(model).attribute(x, target, abs=False)
        case "gradient_x_input":
            return lambda x, target: captum.InputXGradient(model).attribute(x, target)
        case "guided_backprop":
            return lambda x, target: captum.GuidedBackprop(model).attribute(x, target) ** 2
        case "deconvnet":
            return lambda x, target: captum.Deconvolution(model).attribute(x, target) ** 2
    raise ValueError(method)


# captum says at each call that it sets hooks on ReLU modules, which it removes again.
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU activations:UserWarning")
@pytest.mark.parametrize(
    "method", ["gradient", "sensitivity", "gradient_x_input", "guided_backprop", "deconvnet"]
)
def test_gradient_methods(method: str) -> None:
    model, x = feed_forward.net(first_bias=True), feed_forward.inputs(-1.0, 1.0)
    target = model(torch.from_numpy(x)).argmax(1)
    tensor = torch.from_numpy(x).requires_grad_()
    theirs = captum_gradients(model, method)(tensor, target).detach().numpy()
    ours = explain(feed_forward.graph(model, -1.0, 1.0), x, method, target.numpy())
    assert (norms(ours.relevance - theirs) <= FLOAT64 * norms(theirs)).all()
    single = x.astype(np.float32)
    e = pyrel.Explainer(model.float(), single, method=method)(single, target.numpy())
    safe = ours.margin > 1
    assert safe.mean() > 0.95
    assert (norms(e.relevance - theirs)[safe] <= RELATIVE * norms(theirs)[safe]).all()


@pytest.mark.parametrize("n_steps", [7, 50])
def test_integrated_gradients(n_steps: int) -> None:
    """With a baseline, and its completeness error; where no ReLU switches within rounding."""
    model, x = feed_forward.net(first_bias=True), feed_forward.inputs(-1.0, 1.0, 20)
    single, baseline = x.astype(np.float32), x[::2].mean(axis=0).astype(np.float32)
    tensor, zero = torch.from_numpy(x), torch.from_numpy(baseline.astype(np.float64))[None]
    target = model(tensor).argmax(1)
    attributed, delta = captum.IntegratedGradients(model).attribute(
        tensor, zero, target=target, n_steps=n_steps, return_convergence_delta=True
    )
    theirs = attributed.numpy()
    alphas = (np.polynomial.legendre.leggauss(n_steps)[0] + 1) / 2
    points = baseline + alphas[:, None, None] * (x - baseline)
    graph = feed_forward.graph(model, -1.0, 1.0)
    margins = explain(graph, points.reshape(-1, x.shape[1]), "gradient").margin
    safe = (margins.reshape(n_steps, -1) > 2).all(axis=0)  # 2: points are rounded, too
    assert safe.mean() > 0.7
    options = {"n_steps": n_steps, "baseline": baseline}
    ours = pyrel.Explainer(model.float(), single, method="integrated_gradients", **options)
    e = ours(single, target.numpy())
    assert (norms(e.relevance - theirs)[safe] <= RELATIVE * norms(theirs)[safe]).all()
    assert np.abs(e.conservation - delta.detach().numpy())[safe].max() <= RELATIVE
    assert np.abs(delta.detach().numpy()).max() > 100 * RELATIVE  # there is something to compare


def captum_deep_taylor(model: nn.Sequential, x: Array, target: int) -> Array:
    """Return captum's Alpha1_Beta0 rule in every layer, biases off."""
    from captum.attr._utils.lrp_rules import (  # type: ignore[import-untyped]
        Alpha1_Beta0_Rule,
    )

    for layer in model:
        if isinstance(layer, nn.Linear):
            layer.rule = Alpha1_Beta0_Rule(set_bias_to_zero=True)
    tensor = torch.from_numpy(x).requires_grad_()
    relevance: Array = captum.LRP(model).attribute(tensor, target).detach().numpy()
    return relevance


def test_plus_rule_in_every_layer() -> None:
    """Biases ≤ 0 keep nothing, as in captum without biases; z^β with high = x is z⁺."""
    model, x = feed_forward.net(first_bias=True, sign=-1.0), feed_forward.inputs(0.0, 1.0, 8)
    scores = model(torch.from_numpy(x)).detach().numpy()
    compared = 0
    for row in range(len(x)):
        target = int(scores[row].argmax())
        if scores[row, target] <= 0:
            continue
        compared += 1
        one = x[row : row + 1]
        theirs = captum_deep_taylor(model, one, target)
        graph = feed_forward.graph(model, 0.0, one[0])
        ours = explain(graph, one, "deep_taylor", target)
        # captum stabilises every denominator, of order 1 here, by 1e-9.
        assert norms(ours.relevance - theirs) <= 1e-7 * norms(theirs)
        single = one.astype(np.float32)
        explainer = pyrel.Explainer(model, single, method="deep_taylor", low=0.0, high=single[0])
        e = explainer(single, target)
        allowed = RELATIVE + ours.uncertainty[0, target] / ours.start
        assert norms(e.relevance - theirs) <= allowed * norms(theirs) + 1e-7 * norms(theirs)
    assert compared >= 4
