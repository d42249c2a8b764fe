# SPDX-License-Identifier: Apache-2.0
"""Products of every awkward width, and numbers at the ends of float32."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from engine.cases import sample
from engine.checks import assert_deep_taylor, assert_gradient, assert_relevance, unchecked
from engine.models import apply, apply_relu
from reference import METHODS, explain
from torch import nn

import pyrel

# (inputs, hidden, classes): one under, at and over vectors of 4, 8 and 16 floats and tiles of them.
WIDTHS = (
    (1, 1, 1),
    (2, 3, 2),
    (3, 4, 5),
    (7, 8, 9),
    (15, 16, 17),
    (16, 31, 32),
    (33, 47, 48),
    (49, 63, 64),
    (65, 95, 96),
    (97, 127, 128),
    (129, 191, 193),
    (255, 257, 10),
    (784, 300, 1),
    (5, 1025, 3),
)


def net(widths: tuple[int, int, int]) -> Any:
    torch.manual_seed(sum(widths))
    before, hidden, classes = widths
    return nn.Sequential(nn.Linear(before, hidden), nn.ReLU(), nn.Linear(hidden, classes)).eval()


def graph(model: Any, low: float, high: float) -> ref.Node:
    x = ref.input_node((model[0].in_features,), low, high)
    return apply(model[2], apply_relu(model[0], x))


@pytest.mark.parametrize("widths", WIDTHS, ids=lambda widths: "-".join(map(str, widths)))
def test_widths(widths: tuple[int, int, int]) -> None:
    model = net(widths)
    x = sample(widths[:1], 29, -1.0, 1.0)
    captured = pyrel.capture(model, x)
    for method in METHODS:
        e = unchecked(captured, x, method=method, low=-1.0, high=1.0)(x, target=0)
        wanted = explain(graph(model, -1.0, 1.0), x, method, 0)
        if method == "deep_taylor":
            assert_deep_taylor(e, wanted)
        elif method == "lrp_epsilon":
            assert_relevance(e, wanted, method)
        else:
            assert_gradient(e, wanted)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_relevance_scales_with_the_weights(scale: float) -> None:
    """A power of two would be exact; these only leave rounding, no stabiliser and no threshold."""
    model = net((9, 17, 4))
    with torch.no_grad():
        model[0].weight.mul_(scale)
        model[0].bias.mul_(scale)
        model[2].bias.zero_()
    x = sample((9,), 20, -1.0, 1.0)
    e = unchecked(model, x, method="deep_taylor", low=-1.0, high=1.0)(x)
    assert_deep_taylor(e, explain(graph(model, -1.0, 1.0), x))
    assert (e.relevance > 0).any()


def test_overflow_in_the_model_is_an_error() -> None:
    model = net((9, 17, 4))
    with torch.no_grad():
        model[0].weight.mul_(1e30)
        model[2].weight.mul_(1e30)
    x = sample((9,), 20, 0.0, 1.0)
    for method in ("gradient", "deep_taylor"):
        with pytest.raises(ValueError, match="output|overflow"):
            unchecked(model, x, method=method, low=0.0, high=1.0)(x)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("method", ["gradient", "deep_taylor"])
def test_weights_that_are_not_finite_are_refused(value: float, method: str) -> None:
    model = net((9, 17, 4))
    with torch.no_grad():
        model[2].weight[1, 3] = value
    x = sample((9,), 20, 0.0, 1.0)
    with pytest.raises((ValueError, pyrel.UnsupportedModelError)):
        unchecked(model, x, method=method, low=0.0, high=1.0)(x)


def test_denormals_work_as_before_after_an_explanation() -> None:
    """Threads flush denormals to zero while they run a program only."""
    x = sample((9,), 20)
    unchecked(net((9, 17, 4)), x, method="deep_taylor", low=0.0, high=1.0)(x)
    tiny = np.full(64, 1e-39, np.float32)
    assert (tiny * np.float32(0.5) > 0).all()
    assert (torch.from_numpy(tiny) * 0.5 > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_denormal_inputs_and_weights_keep_everything_finite(method: str) -> None:
    model = net((9, 17, 4))
    with torch.no_grad():
        model[0].weight[::2].mul_(1e-38)
        model[0].bias.zero_()
    x = sample((9,), 20)
    x[::3] *= np.float32(1e-38)
    e = unchecked(model, x, method=method, low=0.0, high=1.0)(x)
    assert np.isfinite(e.relevance).all()
    assert np.isfinite(e.absorbed).all()
    if method == "deep_taylor":
        total = e.relevance.sum(1) + e.absorbed
        start = np.maximum(e.output.max(1), 0)
        # What is below 1e-38 in float32 is lost, relative to outputs of order 0.1.
        np.testing.assert_allclose(total, start, rtol=1e-5, atol=1e-30)


def test_exported_program() -> None:
    model = net((9, 17, 4))
    x = sample((9,), 7, 0.0, 1.0)
    batch: Any = {0: torch.export.Dim("batch")}
    exported = torch.export.export(model, (torch.from_numpy(x),), dynamic_shapes=(batch,))
    e = unchecked(exported, x, method="deep_taylor", low=0.0, high=1.0)(x)
    wanted = unchecked(model, x, method="deep_taylor", low=0.0, high=1.0)(x)
    np.testing.assert_array_equal(e.relevance, wanted.relevance)


def test_exported_program_of_one_batch_size_is_right_or_refused() -> None:
    model = net((9, 17, 4))
    x = sample((9,), 7, 0.0, 1.0)
    exported = torch.export.export(model, (torch.from_numpy(x),))
    try:
        explainer = unchecked(exported, x, method="deep_taylor", low=0.0, high=1.0)
    except pyrel.UnsupportedModelError as error:
        assert "batch" in str(error)  # noqa: PT017
        return
    assert_deep_taylor(explainer(x[:3]), explain(graph(model, 0.0, 1.0), x[:3]))


def test_float64_model_is_right_or_refused() -> None:
    model = net((9, 17, 4)).double()
    x = sample((9,), 20, 0.0, 1.0)
    try:
        explainer = unchecked(model, x, method="deep_taylor", low=0.0, high=1.0)
    except pyrel.UnsupportedModelError as error:
        assert "float64" in str(error) or "double" in str(error).lower()  # noqa: PT017
        return
    assert_deep_taylor(explainer(x), explain(graph(model, 0.0, 1.0), x))


def test_guided_backprop_without_the_square() -> None:
    model = net((9, 17, 4))
    x = sample((9,), 20)
    plain = unchecked(model, x, method="guided_backprop", squared=False)(x)
    squared = unchecked(model, x, method="guided_backprop")(x)
    np.testing.assert_array_equal(plain.relevance**2, squared.relevance)
    assert (plain.relevance < 0).any()
    with pytest.raises(TypeError, match="squarred"):
        unchecked(model, x, method="guided_backprop", squarred=False)


def test_attribute_is_the_relevance() -> None:
    model = net((9, 17, 4))
    x = torch.from_numpy(sample((9,), 5))
    explainer = unchecked(model, x, method="gradient")
    target = torch.tensor([0, 1, 2, 3, 0])
    assert torch.equal(explainer.attribute(x, target=target), explainer(x, target).relevance)
    assert torch.equal(explainer.attribute(x), explainer(x).relevance)
