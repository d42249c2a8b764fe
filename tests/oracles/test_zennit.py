# SPDX-License-Identifier: Apache-2.0
"""Zennit's rules on feed-forward nets against the reference and the engine.

zennit's ZBox cancels the bias and its WSquare adds b², so the first layer has no bias here. Biases
of the layers above have both signs and take part in the z⁺ denominators of both.
"""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import RELATIVE, norms
from engine.layer_graphs import layer_graph
from oracles import feed_forward
from reference import explain
from reference_graph import Array, input_node
from torch import nn

import pyrel
from pyrel.benchmark.peers.packages import import_zennit

# Both sides are float64 and add the same terms in another order.
FLOAT64 = 1e-10


@pytest.fixture(scope="module")
def zennit() -> Any:
    if importlib.util.find_spec("zennit") is None:
        pytest.skip("zennit is not installed")
    return import_zennit()


def propagate(model: nn.Sequential, rules: list[Any], x: Array, seed: Array) -> Array:
    """Return zennit's relevance: a rule (or None) for each layer, `seed` (n, classes) put in."""
    pairs = zip(rules, model, strict=True)
    handles = [rule.register(layer) for rule, layer in pairs if rule is not None]
    try:
        tensor = torch.from_numpy(x).requires_grad_()
        model(tensor).backward(torch.from_numpy(seed))
    finally:
        for handle in handles:
            handle.remove()
    assert tensor.grad is not None
    relevance: Array = tensor.grad.numpy()
    return relevance


def start(model: nn.Sequential, x: Array) -> tuple[Array, Array]:
    scores = model(torch.from_numpy(x)).detach().numpy()
    target = scores.argmax(axis=1)
    seed = np.zeros_like(scores)
    rows = np.arange(len(x))
    seed[rows, target] = np.maximum(scores[rows, target], 0)
    return target, seed


def assert_all_agree(
    model: nn.Sequential, x: Array, theirs: Array, target: Array, **domain: Any
) -> None:
    bounds = (domain.get("low", -np.inf), domain.get("high", np.inf))
    ours = explain(feed_forward.graph(model, *bounds), x, "deep_taylor", target)
    assert (ours.start > 0).mean() > 0.8
    assert (norms(ours.relevance - theirs) <= FLOAT64 * norms(theirs)).all()
    single = x.astype(np.float32)
    e = pyrel.Explainer(model.float(), single, method="deep_taylor", **domain)(single, target)
    bound = RELATIVE + ours.uncertainty[np.arange(len(x)), target] / np.maximum(ours.start, 1e-30)
    assert (norms(e.relevance - theirs) <= bound * norms(theirs)).all()


@pytest.mark.parametrize("bounds", [(0.0, 1.0), (-0.5, 1.5), (-1.0, 0.0)])
def test_box_rule_below_plus_rules(zennit: Any, bounds: tuple[float, float]) -> None:
    low, high = bounds
    model, x = feed_forward.net(first_bias=False), feed_forward.inputs(low, high)
    target, seed = start(model, x)
    rules = zennit.rules
    plus, passing = rules.ZPlus(stabilizer=1e-30), rules.Pass()
    box = rules.ZBox(low, high, stabilizer=1e-30)
    chain = [box, passing, plus.copy(), passing.copy(), plus.copy()]
    assert_all_agree(model, x, propagate(model, chain, x, seed), target, low=low, high=high)


def test_square_rule_below_plus_rules(zennit: Any) -> None:
    model, x = feed_forward.net(first_bias=False), feed_forward.inputs(-2.0, 2.0)
    target, seed = start(model, x)
    rules = zennit.rules
    plus, passing = rules.ZPlus(stabilizer=1e-30), rules.Pass()
    chain = [rules.WSquare(stabilizer=1e-30), passing, plus.copy(), passing.copy(), plus.copy()]
    assert_all_agree(model, x, propagate(model, chain, x, seed), target)


def test_guided_backprop(zennit: Any) -> None:
    model, x = feed_forward.net(first_bias=True), feed_forward.inputs(-1.0, 1.0)
    target, _ = start(model, x)
    seed = np.eye(feed_forward.WIDTHS[-1])[target]
    guided = zennit.rules.ReLUGuidedBackprop
    chain = [guided() if isinstance(layer, nn.ReLU) else None for layer in model]
    theirs = propagate(model, chain, x, seed) ** 2
    ours = explain(feed_forward.graph(model, -1.0, 1.0), x, "guided_backprop", target)
    assert (norms(ours.relevance - theirs) <= FLOAT64 * norms(theirs)).all()
    single = x.astype(np.float32)
    e = pyrel.Explainer(model.float(), single, method="guided_backprop")(single, target)
    safe = ours.margin > 1
    assert safe.mean() > 0.95
    assert (norms(e.relevance - theirs)[safe] <= RELATIVE * norms(theirs)[safe]).all()


@pytest.mark.parametrize("relu_first", [True, False])
def test_epsilon_rule_with_max_pools(zennit: Any, relu_first: bool) -> None:
    """zennit leaves a pool to its gradient, which goes to the winner."""
    torch.manual_seed(0)
    pair = [nn.ReLU(), nn.MaxPool2d(2)]
    layers = [nn.Conv2d(2, 5, 3), *(pair if relu_first else pair[::-1]), nn.Flatten()]
    model = nn.Sequential(*layers, nn.Linear(5 * 3 * 2, 3)).eval()
    x = np.random.default_rng(0).normal(size=(20, 2, 8, 6)).astype(np.float32)
    exact, doubles = copy.deepcopy(model).double(), x.astype(np.float64)
    scores = exact(torch.from_numpy(doubles)).detach().numpy()
    target = scores.argmax(axis=1)
    seed = np.eye(3)[target] * scores
    epsilon, passing = zennit.rules.Epsilon, zennit.rules.Pass
    rules = [passing() if isinstance(layer, nn.ReLU) else None for layer in model]
    rules[0], rules[-1] = epsilon(epsilon=1e-3), epsilon(epsilon=1e-3)
    theirs = propagate(exact, rules, doubles, seed)
    graph = layer_graph(model, input_node(x.shape[1:]))
    ours = explain(graph, doubles, "lrp_epsilon", target, epsilon=1e-3)
    assert (norms(ours.relevance - theirs) <= FLOAT64 * norms(theirs)).all()
    e = pyrel.Explainer(model, x, method="lrp_epsilon", epsilon=1e-3)(x, target)
    assert (norms(e.relevance - theirs) <= RELATIVE * ours.peak).all()
