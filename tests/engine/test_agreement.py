# SPDX-License-Identifier: Apache-2.0
"""Every method on every model, cells at awkward sizes and users' modules, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from engine.cases import ALL_CASES, Case, by_name, captured, compiled, expected, inputs, sample
from engine.cells import CELL_CASES, CellCase
from engine.checks import (
    RELATIVE,
    assert_amplification,
    assert_deep_taylor,
    assert_gradient,
    assert_relevance,
    norms,
    torch_gradient,
)
from reference import GRADIENTS, METHODS, explain

import pyrel

every_model = pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)


@every_model
def test_deep_taylor(case: Case | CellCase) -> None:
    e = compiled(case, "deep_taylor")(inputs(case))
    assert e.relevance.shape == inputs(case).shape
    assert_deep_taylor(e, expected(case, "deep_taylor"))
    assert_amplification(e, expected(case, "deep_taylor"), "deep_taylor", case.name)


@every_model
def test_lrp_epsilon(case: Case | CellCase) -> None:
    e = compiled(case, "lrp_epsilon")(inputs(case))
    assert e.relevance.shape == inputs(case).shape
    left_out = assert_relevance(e, expected(case, "lrp_epsilon"), "lrp_epsilon")
    assert_amplification(e, expected(case, "lrp_epsilon"), "lrp_epsilon", case.name)
    assert left_out <= 0.05 * len(inputs(case))


@every_model
@pytest.mark.parametrize("method", GRADIENTS)
def test_gradient_methods(case: Case | CellCase, method: str) -> None:
    e = compiled(case, method)(inputs(case))
    assert e.relevance.shape == inputs(case).shape
    assert assert_gradient(e, expected(case, method)) <= 0.05 * len(inputs(case))


@every_model
def test_gradient_is_the_adjoint_in_torch(case: Case | CellCase) -> None:
    """The gradient is that of torch in float64, also for targets that are not predicted."""
    x = inputs(case)
    score = expected(case, "gradient")
    target = np.arange(len(x)) % score.output.shape[1]
    _, gradient = torch_gradient(case.module().double(), x.astype(np.float64), target)
    e = compiled(case, "gradient")(x, target=target)
    safe = score.margin > 1
    error = norms(e.relevance - gradient)
    assert (error[safe] <= RELATIVE * norms(gradient)[safe]).all()


@every_model
def test_any_target(case: Case | CellCase) -> None:
    module, _ = captured(case)
    x = inputs(case)
    classes = expected(case, "deep_taylor").output.shape[1]
    target = (np.arange(len(x)) * 3 + 1) % classes
    wanted = explain(case.graph(module), x, "deep_taylor", target)
    explainer = compiled(case, "deep_taylor")
    assert_deep_taylor(explainer(x, target=target), wanted)
    one = explain(case.graph(module), x, "deep_taylor", classes - 1)
    assert_deep_taylor(explainer(x, target=classes - 1), one)


@pytest.mark.parametrize(
    "case",
    [
        *(cell for cell in CELL_CASES if cell.steps == 1 or cell.cell != "Shallow"),
        *map(by_name, ("OneLinear", "EncodedAtOnce", "FoldedBatch")),
        *map(by_name, ("LinearAfterLinear", "Repeated", "SharedEncoder", "SeveralHeads")),
    ],
    ids=lambda case: case.name,
)
def test_square_rule_without_bounds(case: Case | CellCase) -> None:
    """No low and high: the input is real, and the first layer takes the w² rule."""
    e = compiled(case, "deep_taylor", bounded=False)(inputs(case) * 3 - 1)
    module, _ = captured(case)
    wanted = explain(case.graph(module, bounded=False), inputs(case) * 3 - 1)
    assert_deep_taylor(e, wanted)


@pytest.mark.parametrize("name", ["Shallow-T2-17", "SlicedImage", "InitialState"])
def test_real_inputs_beside_hidden_units_are_refused(name: str) -> None:
    case = by_name(name)
    with pytest.raises((pyrel.UnsupportedModelError, ValueError), match="low"):
        compiled(case, "deep_taylor", bounded=False)


def test_thesis_sizes() -> None:
    """Deep over 12 steps at the sizes of the thesis's majority experiment, initial weights."""
    torch.manual_seed(0)
    cell = pyrel.nn.Deep.for_majority(12).eval()
    case = CellCase("Deep", 12, (28, 7), (256, 128, 32), 256, 10)
    x = sample(case.shape, 24)
    graph, wanted_graph = pyrel.capture(cell, x[:1]), case.graph(cell)
    for method in METHODS:
        wanted = explain(wanted_graph, x, method)
        e = pyrel.Explainer(graph, x[:1], method=method, low=0.0, high=1.0)(x)
        if method == "deep_taylor":
            assert_deep_taylor(e, wanted)
        elif method == "lrp_epsilon":
            assert_relevance(e, wanted, method)
        else:
            assert assert_gradient(e, wanted) <= 0.25 * len(x)


@pytest.mark.parametrize("method", ["gradient", "sensitivity", "guided_backprop"])
def test_methods_that_do_not_propagate_have_no_conservation(method: str) -> None:
    e = compiled(by_name("Elman"), method)(inputs(by_name("Elman"), 5))
    assert np.isnan(e.conservation).all()


def test_predicted_class_is_the_lowest_of_equals() -> None:
    layer = torch.nn.Linear(3, 4, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 0, 1], [1, 2, 3], [1, 2, 3], [1, 2, 3]]))
    x = np.ones((2, 3), np.float32)
    e = pyrel.Explainer(layer, x, method="deep_taylor", low=0.0, high=1.0)(x)
    np.testing.assert_array_equal(e.target, [1, 1])
    assert e.target.dtype == np.int64
    np.testing.assert_array_equal(e.relevance, [[1, 2, 3], [1, 2, 3]])


def test_all_methods_are_named() -> None:
    assert set(METHODS) <= set(pyrel.methods.names())
