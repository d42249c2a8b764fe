# SPDX-License-Identifier: Apache-2.0
"""Calls of `attribute` as they stand in code that was written for captum."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.operator_models import seeded
from engine.sequences import Last
from torch import Tensor, nn

import pyrel

SAMPLES, FEATURES, CLASSES = 4, 6, 5
# Terms of order 1, in float32, of a few dozen products.
FLOAT32 = 1e-5


@functools.cache
def net() -> nn.Module:
    return seeded(
        lambda: nn.Sequential(nn.Linear(FEATURES, 9), nn.Tanh(), nn.Linear(9, CLASSES)), 3
    )


@functools.cache
def explainer(method: str) -> pyrel.Explainer:
    return unchecked(net(), x(), method=method)


@functools.cache
def x() -> Tensor:
    return torch.rand(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(1)) - 0.3


def score(inputs: Tensor, target: Any) -> Tensor:
    with torch.no_grad():
        rows = torch.arange(len(inputs))
        return net().double()(inputs.double())[rows, torch.as_tensor(target)]


@pytest.fixture(autouse=True)
def in_float32() -> Any:
    yield
    net().float()


@pytest.mark.parametrize(
    ("given", "classes"),
    [
        (3, 3),
        ((3,), 3),
        (torch.tensor(3), 3),
        (torch.tensor([3]), 3),
        ([3, 0, 1, 4], [3, 0, 1, 4]),
        ([(3,), (0,), (1,), (4,)], [3, 0, 1, 4]),
        (torch.tensor([3, 0, 1, 4]), [3, 0, 1, 4]),
        (np.array([3, 0, 1, 4]), [3, 0, 1, 4]),
    ],
    ids=repr,
)
def test_targets(given: Any, classes: Any) -> None:
    wanted = explainer("lrp_epsilon")(x(), classes).relevance
    assert torch.equal(explainer("lrp_epsilon").attribute(x(), target=given), wanted)
    assert torch.equal(explainer("lrp_epsilon").attribute(x(), given), wanted)


@pytest.mark.parametrize("given", [(0, 3), [(0, 1)] * SAMPLES])
def test_a_target_of_two_dimensions_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match=r"^target: wanted an index of one dimension.*\(0, "):
        explainer("gradient").attribute(x(), target=given)


def test_a_tuple_of_inputs_gives_a_tuple() -> None:
    wanted = explainer("gradient").attribute(x(), target=1)
    given = x().clone().requires_grad_()
    attributions = explainer("gradient").attribute((given,), target=1)
    assert isinstance(attributions, tuple)
    (only,) = attributions
    assert torch.equal(only, wanted)
    assert not only.requires_grad
    with pytest.raises(TypeError, match="^inputs: .* got a tuple of 2"):
        explainer("gradient").attribute((x(), x()), target=1)


def test_integrated_gradients_as_captum_shows_it_first() -> None:
    """The example of captum's front page."""
    ig = explainer("integrated_gradients")
    input, baseline = x(), torch.full((SAMPLES, FEATURES), 0.25)
    attributions, delta = ig.attribute(input, baseline, target=0, return_convergence_delta=True)
    rise = score(input, [0] * SAMPLES) - score(baseline, [0] * SAMPLES)
    completeness = attributions.double().sum(1) - rise
    assert delta.shape == (SAMPLES,)
    assert float((delta - completeness).abs().max()) <= FLOAT32
    assert float(rise.abs().min()) > 100 * FLOAT32
    without = attributions.double().sum(1) - score(input, [0] * SAMPLES)
    assert float(without.abs().max()) > 100 * FLOAT32  # the baseline counts


@pytest.mark.parametrize(
    "given",
    [0.25, torch.full((1, FEATURES), 0.25), (torch.full((SAMPLES, FEATURES), 0.25),)],
    ids=["number", "one row", "tuple"],
)
def test_baselines(given: Any) -> None:
    other = unchecked(net().float(), x(), method="integrated_gradients", baseline=0.25, n_steps=7)
    wanted = other.attribute(x(), target=2)
    ig = explainer("integrated_gradients")
    named = dict(target=2, n_steps=7, internal_batch_size=8)
    assert torch.equal(ig.attribute(x(), baselines=given, **named), wanted)
    assert torch.equal(ig.attribute(x(), given, 2, n_steps=7), wanted)
    assert torch.equal(other.attribute(x(), baselines=None, target=2), wanted)
    assert not torch.equal(ig.attribute(x(), target=2, n_steps=7), wanted)  # nothing stays


def test_baselines_that_pyrel_does_not_take() -> None:
    ig = explainer("integrated_gradients")
    with pytest.raises(ValueError, match="^baselines: wanted one for all samples"):
        ig.attribute(x(), baselines=x() / 2, target=0)
    with pytest.raises(ValueError, match="^baseline: .* got .3,."):
        ig.attribute(x(), baselines=torch.zeros(3), target=0)
    with pytest.raises(TypeError, match="^baselines: .* got 2"):
        ig.attribute(x(), baselines=(0, 0), target=0)
    for zeros in (0, torch.zeros_like(x())):
        with pytest.raises(TypeError, match="^baselines: lrp_epsilon takes none"):
            explainer("lrp_epsilon").attribute(x(), baselines=zeros, target=0)
    explainer("lrp_epsilon").attribute(x(), baselines=None, target=0)


def test_convergence_delta_of_a_method_that_conserves() -> None:
    """It is what is lost beside what biases absorb, and of the form of the input."""
    lrp = explainer("lrp_epsilon")
    e = lrp(x().numpy(), 1)
    attributions, delta = lrp.attribute((x().numpy(),), (1,), return_convergence_delta=True)
    np.testing.assert_array_equal(attributions[0], e.relevance)
    lost = e.relevance.sum(1) + e.absorbed - score(x(), [1] * SAMPLES).numpy()
    assert type(delta) is np.ndarray
    np.testing.assert_allclose(delta, lost, rtol=0, atol=FLOAT32)
    assert np.abs(e.absorbed).min() > 100 * FLOAT32  # which the delta does not hold


@pytest.mark.parametrize("method", ["gradient", "gradient_x_input", "smoothgrad"])
def test_no_convergence_delta(method: str) -> None:
    with pytest.raises(TypeError, match=f"^return_convergence_delta: the relevance of {method} "):
        explainer(method).attribute(x(), target=0, return_convergence_delta=True)
    explainer(method).attribute(x(), target=0, return_convergence_delta=False)


def test_unknown_arguments_are_named() -> None:
    with pytest.raises(TypeError, match="^abs, show_progress: attribute takes inputs, target, "):
        explainer("gradient").attribute(x(), target=0, show_progress=True, abs=False)
    with pytest.raises(TypeError, match="^attribute: .* got 2 arguments"):
        explainer("gradient").attribute(x(), 0, False)
    with pytest.raises(TypeError, match="^target: given twice"):
        explainer("integrated_gradients").attribute(x(), 0, 1, target=1)
    with pytest.raises(TypeError, match="^n_steps: gradient takes none"):
        explainer("gradient").attribute(x(), 0, n_steps=20)


def test_lengths_are_the_additional_forward_arguments() -> None:
    sequences = torch.rand(3, 5, 4, generator=torch.Generator().manual_seed(2))
    lengths = torch.tensor([5, 2, 3])
    reading = unchecked(seeded(Last, 4), sequences, method="lrp_epsilon", lengths=True)
    wanted = reading(sequences, 1, lengths=lengths).relevance
    for given in (lengths, (lengths,)):
        found = reading.attribute(sequences, target=1, additional_forward_args=given)
        assert torch.equal(found, wanted)
    whole = reading(sequences, 1).relevance
    for nothing in (None, (), (None,)):
        found = reading.attribute(sequences, target=1, additional_forward_args=nothing)
        assert torch.equal(found, whole)
    assert not torch.equal(whole, wanted)
    with pytest.raises(TypeError, match="^additional_forward_args: .* a tuple of 2"):
        reading.attribute(sequences, target=1, additional_forward_args=(lengths, 3))
    with pytest.raises(TypeError, match="^additional_forward_args: .* lengths=True, .* got Tensor"):
        explainer("gradient").attribute(x(), 0, additional_forward_args=lengths)
