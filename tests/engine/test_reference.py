# SPDX-License-Identifier: Apache-2.0
"""The reference against torch, finite differences, loops over single terms, and itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from engine.cases import ALL_CASES, Case, by_name, sample
from engine.cells import CellCase
from engine.checks import norms, torch_gradient
from reference import explain
from torch import nn


def both(case: Case | CellCase, count: int = 20) -> tuple[nn.Module, ref.Node, np.ndarray]:
    module = case.module()
    x = sample(case.shape, count, case.low, case.high).astype(np.float64)
    return module.double(), case.graph(module), x


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_forward_and_gradient_equal_torch(case: Case | CellCase) -> None:
    module, graph, x = both(case)
    expected = explain(graph, x, "gradient")
    output, gradient = torch_gradient(module, x, expected.target)
    # Both are float64: sums of at most a few hundred terms of order 1.
    np.testing.assert_allclose(expected.output, output, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(expected.relevance, gradient, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_deep_taylor_is_positive_and_conserves(case: Case | CellCase) -> None:
    _, graph, x = both(case)
    expected = explain(graph, x)
    total = expected.relevance.reshape(len(x), -1).sum(axis=1)
    # z^β is a difference of sums of up to a few hundred terms in float64.
    assert (expected.relevance >= -1e-13).all()
    np.testing.assert_allclose(total + expected.absorbed, expected.start, rtol=1e-12, atol=1e-14)
    assert (expected.start > 0).any()


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
def test_rounding_bound_holds_for_torch_float32(case: Case | CellCase) -> None:
    """Float32 torch stays inside the bound of the outputs, and flips no ReLU with margin > 1."""
    module, graph, x = both(case, 100)
    expected = explain(graph, x, "gradient")
    output, gradient = torch_gradient(module.float(), x.astype(np.float32), expected.target)
    assert (np.abs(output - expected.output) <= expected.uncertainty).all()
    safe = expected.margin > 1
    error = norms(gradient - expected.relevance)
    # A flip moves the gradient by a whole path's weight, rounding by a few eps.
    assert (error[safe] <= 1e-5 * norms(expected.relevance)[safe]).all()
    assert safe.mean() >= 0.95


def test_gradient_equals_finite_differences() -> None:
    case = by_name("Elman")
    _, graph, x = both(case, 3)
    expected = explain(graph, x, "gradient")
    step = 1e-6
    for feature in np.ndindex(case.shape):
        shifted = x.copy()
        shifted[(slice(None), *feature)] += step
        after = explain(graph, shifted, "gradient", expected.target).output
        rise = (after - expected.output)[np.arange(3), expected.target] / step
        # The network is piecewise linear: rounding of f over the step, f < 10.
        np.testing.assert_allclose(
            rise, expected.relevance[(slice(None), *feature)], atol=10 * 1e-15 / step
        )


def test_guided_backprop_and_deconvnet_let_positive_signals_pass() -> None:
    x = ref.input_node((2,))
    hidden = ref.relu(ref.linear(x, [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]))
    output = ref.linear(hidden, [[2.0, -3.0, 0.5]])
    e = explain(output, [[1.0, 1.0], [1.0, -2.0]], "guided_backprop")
    np.testing.assert_allclose(e.relevance, [[6.25, 0.25], [4.0, 0.0]])
    rectified = explain(output, [[1.0, 1.0], [1.0, -2.0]], "deconvnet")
    np.testing.assert_allclose(rectified.relevance, [[6.25, 0.25], [6.25, 0.25]])
    plain = explain(output, [[1.0, 1.0]], "sensitivity")
    np.testing.assert_allclose(plain.relevance, [[6.25, 6.25]])
    times = explain(output, [[3.0, 1.0]], "gradient_x_input")
    np.testing.assert_allclose(times.relevance, [[7.5, -2.5]])


def test_one_linear_node_against_loops_over_single_terms() -> None:
    """Features of every domain in one node, written term by term from the formulas."""
    rng = np.random.default_rng(5)
    low = np.array([-1.0, 0.0, 0.0, -0.25, 0.0])
    high = np.array([2.0, np.inf, 1.0, 0.5, 0.0])
    weight, bias = rng.normal(size=(3, 5)), np.array([0.7, -0.4, 0.1])
    node = ref.input_node((5,), low, high)
    a = np.array([[0.5, 1.5, 0.25, -0.25, 0.0], [-1.0, 0.0, 1.0, 0.5, 0.0]])
    for target in range(3):
        e = explain(ref.linear(node, weight, bias), a, "deep_taylor", target)
        for row in range(2):
            quotas = []
            for j in range(5):
                w = weight[target, j]
                up, down = max(w, 0.0), min(w, 0.0)
                box = a[row, j] * w - low[j] * up - (high[j] * down if down else 0.0)
                quotas.append(a[row, j] * up if np.isinf(high[j]) else box)
            total = sum(quotas) + max(bias[target], 0.0)
            expected = [quota / total * e.start[row] for quota in quotas]
            np.testing.assert_allclose(e.relevance[row], expected, atol=1e-14)
            kept = max(bias[target], 0.0) / total * e.start[row]
            np.testing.assert_allclose(e.absorbed[row], kept, atol=1e-14)


def test_square_rule_ignores_bias_and_activation() -> None:
    node = ref.linear(ref.input_node((2,)), [[1.0, -2.0], [0.0, 0.0]], [5.0, 3.0])
    e = explain(node, [[1.0, -1.0]], "deep_taylor", 0)
    np.testing.assert_allclose(e.relevance, [[1.6, 6.4]])
    assert e.absorbed == 0
    no_weights = explain(node, [[1.0, -1.0]], "deep_taylor", 1)
    np.testing.assert_allclose(no_weights.relevance, 0)
    np.testing.assert_allclose(no_weights.absorbed, 3)


def test_box_with_high_at_the_activation_is_z_plus() -> None:
    rng = np.random.default_rng(6)
    weight, a = rng.normal(size=(4, 6)), rng.uniform(0, 2, 6)
    box = ref.linear(ref.input_node((6,), 0.0, a), weight)
    plus = ref.linear(ref.input_node((6,), 0.0, np.inf), weight)
    np.testing.assert_allclose(
        explain(box, a[None]).relevance, explain(plus, a[None]).relevance, atol=1e-14
    )


def test_sum_of_preactivations_is_one_node_and_makes_no_negative_relevance() -> None:
    """z = 3a − 2b with a = b = 1: all of R goes to a, where a signed split would give b −2."""
    x = ref.input_node((2,), 0.0, np.inf)
    first = ref.linear(ref.take(x, slice(0, 1)), [[3.0]])
    second = ref.linear(ref.take(x, slice(1, 2)), [[-2.0]])
    e = explain(ref.add(first, second), [[1.0, 1.0]])
    np.testing.assert_allclose(e.relevance, [[1.0, 0.0]])


def test_sum_of_activations_splits_in_proportion() -> None:
    x = ref.input_node((2,), 0.0, 4.0)
    a = ref.relu(ref.linear(ref.take(x, slice(0, 1)), [[2.0]]))
    b = ref.relu(ref.linear(ref.take(x, slice(1, 2)), [[1.0]]))
    e = explain(ref.add(a, b), [[1.0, 3.0], [0.0, 0.0]])
    np.testing.assert_allclose(e.relevance, [[2.0, 3.0], [0.0, 0.0]])


def test_zero_states_get_nothing_and_given_states_absorb() -> None:
    x = ref.input_node((1,), 0.0, 1.0)
    weight = [[1.0, 1.0, -1.0]]
    zero = explain(ref.linear(ref.concat([x, ref.zeros(2)]), weight), [[0.5]])
    np.testing.assert_allclose([zero.relevance[0, 0], zero.absorbed[0]], [0.5, 0.0])
    given = ref.constant([0.5, -1.0])
    e = explain(ref.linear(ref.concat([x, given]), weight), [[0.5]])
    np.testing.assert_allclose([e.relevance[0, 0], e.absorbed[0]], [0.5, 1.5])


def test_real_inputs_beside_hidden_units_are_refused() -> None:
    x = ref.input_node((2,))
    hidden = ref.relu(ref.linear(x, np.eye(2)))
    with pytest.raises(ref.MixedDomainError):
        explain(ref.linear(ref.concat([x, hidden]), np.ones((1, 4))), [[1.0, 1.0]])


def test_linear_after_linear_is_one_node() -> None:
    rng = np.random.default_rng(7)
    first, second = rng.normal(size=(3, 5)), rng.normal(size=(2, 3))
    b1, b2 = rng.normal(size=3), rng.normal(size=2)
    x = ref.input_node((5,), -1.0, 1.0)
    a = rng.uniform(-1, 1, (4, 5))
    apart = explain(ref.linear(ref.linear(x, first, b1), second, b2), a)
    folded = explain(ref.linear(x, second @ first, second @ b1 + b2), a)
    np.testing.assert_allclose(apart.relevance, folded.relevance, atol=1e-13)
    np.testing.assert_allclose(apart.absorbed, folded.absorbed, atol=1e-13)


def test_sample_on_a_kink_is_found_and_left_out() -> None:
    """A bias is moved so that one unit is at 0 for one sample: only that sample is uncertain."""
    case = by_name("Residual")
    module: Any = case.module()
    x = sample(case.shape, 50, case.low, case.high)
    assert (explain(case.graph(module), x, "gradient").margin > 1).all()
    with torch.no_grad():
        module.inward.bias[3] -= module.inward(torch.from_numpy(x))[17, 3]
    margin = explain(case.graph(module), x, "gradient").margin
    assert margin[17] <= 1
    assert (np.delete(margin, 17) > 1).all()
