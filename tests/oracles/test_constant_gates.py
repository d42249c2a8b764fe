# SPDX-License-Identifier: Apache-2.0
"""LRP-ε on nn.RNN, nn.LSTM and nn.GRU against gradient × input with gates and slopes constant."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import reference_graph as ref
import torch
from engine.checks import RELATIVE, norms, rows
from engine.operator_models import seeded
from engine.recurrent_models import FEATURES, STEPS, VARIANTS, Classifier, Variant
from engine.zoo import ZOO, Exhibit
from oracles.constant_gates import gradient_times_input, unrolled
from reference import explain
from reference_graph import Array
from torch import Tensor


def inputs(count: int = 30) -> Array:
    """Return samples whose values float32 can hold."""
    rng = np.random.default_rng(3)
    shape = (count, STEPS, FEATURES)
    return rng.uniform(-1, 1, shape).astype(np.float32).astype(np.float64)


def classifier(variant: Variant) -> Classifier:
    """Return a module in float64, with weights that float32 can hold."""
    module = seeded(lambda: Classifier(variant), 8).double()
    assert isinstance(module, Classifier)
    return module


def constant_gates(module: Classifier, x: Tensor, half: bool) -> Tensor:
    """What the module computes, by the oracle."""
    states = [value.double() for value in module.states]
    return module.read(*unrolled(module.core, x, states, half))


def exhibited(variant: Variant) -> Exhibit:
    """Return the same module as the zoo has it."""
    (exhibit,) = (exhibit for exhibit in ZOO if exhibit.name == variant.name)
    return exhibit


every_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
both_options = pytest.mark.parametrize("gates", ["signal", "half"])


@every_variant
def test_forward_is_that_of_torch(variant: Variant) -> None:
    """The oracle computes what the module computes, at any ratio of gates."""
    module, x = classifier(variant), torch.from_numpy(inputs())
    wanted = module(x).detach().numpy()
    for half in (False, True):
        given = constant_gates(module, x, half).detach().numpy()
        np.testing.assert_allclose(given, wanted, rtol=1e-12, atol=1e-13)


@every_variant
@both_options
def test_reference_without_stabiliser(variant: Variant, gates: str) -> None:
    module, x = classifier(variant), inputs()
    ours = explain(
        module.graph(module, ref.input_node(x.shape[1:])),
        x,
        "lrp_epsilon",
        epsilon=0.0,
        gates=gates,
    )
    theirs, scores = gradient_times_input(
        lambda leaf: constant_gates(module, leaf, gates == "half"),
        torch.from_numpy(x),
        torch.from_numpy(ours.target),
    )
    np.testing.assert_allclose(ours.output, scores.numpy(), rtol=1e-12, atol=1e-13)
    # Both are float64; a unit with |z| near 0 loses as many digits as z has fewer than its terms.
    error = np.abs(ours.relevance - theirs.numpy()).reshape(len(x), -1).sum(axis=1)
    assert (error <= 1e-10 * ours.peak).all()
    total = ours.relevance.reshape(len(x), -1).sum(axis=1) + ours.absorbed
    assert (np.abs(total - ours.start) <= 1e-10 * ours.peak).all()


@every_variant
def test_stabiliser_goes_to_zero(variant: Variant) -> None:
    """The default ε differs from none by its share, which shrinks with ε."""
    module, x = classifier(variant), inputs()
    graph = module.graph(module, ref.input_node(x.shape[1:]))
    exact = explain(graph, x, "lrp_epsilon", epsilon=0.0)
    errors = []
    for epsilon in (1e-4, 1e-6, 1e-8):
        e = explain(graph, x, "lrp_epsilon", epsilon=epsilon)
        error = np.abs(e.relevance - exact.relevance).reshape(len(x), -1).sum(axis=1)
        errors.append(np.median(error / exact.peak))
    # The median sample has no unit with z as small as ε: the change is in proportion to ε.
    np.testing.assert_allclose(errors[0] / errors[1], 100, rtol=0.2)
    np.testing.assert_allclose(errors[1] / errors[2], 100, rtol=0.2)


@every_variant
@both_options
def test_compiled_with_a_small_stabiliser(variant: Variant, gates: str) -> None:
    exhibit = exhibited(variant)
    if gates == "half" and not exhibit.has_gates:
        return
    module, x = copy.deepcopy(exhibit.module).double(), exhibit.inputs
    assert isinstance(module, Classifier)
    bounds = explain(exhibit.graph, x, "lrp_epsilon", epsilon=1e-12, gates=gates)
    e = exhibit.compiled("lrp_epsilon", epsilon=1e-12, gates=gates)(x, target=bounds.target)
    theirs, _ = gradient_times_input(
        lambda leaf: constant_gates(module, leaf, gates == "half"),
        torch.from_numpy(x.astype(np.float64)),
        torch.from_numpy(bounds.target),
    )
    error = norms(rows(e.relevance) - rows(theirs.numpy()))
    allowed = np.maximum(RELATIVE * bounds.peak, norms(bounds.doubt))
    safe = bounds.margin > 1
    assert safe.mean() >= 0.9
    assert (error <= allowed)[safe].all()
