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
    with pytest.raises(ValueError, match="^baseline: .* got .3,."):
        ig.attribute(x(), baselines=torch.zeros(3), target=0)
    with pytest.raises(TypeError, match="^baselines: .* got 2"):
        ig.attribute(x(), baselines=(0, 0), target=0)
    for zeros in (0, torch.zeros_like(x())):
        with pytest.raises(TypeError, match="^baselines: lrp_epsilon takes none"):
            explainer("lrp_epsilon").attribute(x(), baselines=zeros, target=0)
    explainer("lrp_epsilon").attribute(x(), baselines=None, target=0)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
@pytest.mark.parametrize("targets", [None, 2, [3, 0, 1, 4]], ids=repr)
def test_a_baseline_for_each_sample(method: str, targets: Any) -> None:
    """Bit for bit what each sample gets in a call of its own; of arrays, arrays."""
    rows = x().flip(0) / 2
    found = explainer(method).attribute(x().numpy(), baselines=rows.numpy(), target=targets)
    assert type(found) is np.ndarray
    each = targets if isinstance(targets, list) else [targets] * SAMPLES
    for number, target in enumerate(each):
        own = slice(number, number + 1)
        alone = explainer(method).attribute(x()[own], baselines=rows[own], target=target)
        np.testing.assert_array_equal(found[own], alone)
    none = explainer(method).attribute(x()[:0], baselines=rows[:0], target=0)
    assert none.shape == (0, FEATURES)


def test_a_baseline_for_each_sample_is_refused_by_the_number_of_the_sample() -> None:
    rows = x().clone()
    rows[2, 1] = 9.0
    bounded = unchecked(net().float(), x(), method="integrated_gradients", low=-1.0, high=1.0)
    with pytest.raises(ValueError, match=r"^of sample 2, .* baseline: .* got 9"):
        bounded.attribute(x(), rows, 0)
    with pytest.raises(ValueError, match="^target: "):
        bounded.attribute(x(), x() / 2, target=[0] * (SAMPLES + 1))
    ids = torch.arange(SAMPLES * FEATURES).reshape(SAMPLES, FEATURES) % 7
    reading = seeded(lambda: nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(18, 2)), 5)
    tokens = unchecked(reading, ids, method="integrated_gradients")
    found = tokens.attribute(ids, baselines=ids.flip(0), target=1)
    last = unchecked(reading, ids, method="integrated_gradients", baseline=ids[0].numpy())
    assert torch.equal(found[-1], last(ids, 1).relevance[-1])


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
    with pytest.raises(
        TypeError, match="^show_progress, verbose: attribute of gradient takes inpu"
    ):
        explainer("gradient").attribute(x(), target=0, show_progress=True, verbose=False)
    with pytest.raises(TypeError, match="^attribute: of gradient takes target, abs, .*; got 4"):
        explainer("gradient").attribute(x(), 0, False, None, 1)
    with pytest.raises(TypeError, match="^target: given twice"):
        explainer("integrated_gradients").attribute(x(), 0, 1, target=1)
    with pytest.raises(TypeError, match="^target: given twice"):
        explainer("gradient").attribute(x(), 0, target=1)
    with pytest.raises(TypeError, match="^n_steps: gradient takes none"):
        explainer("gradient").attribute(x(), 0, n_steps=20)


AMBIGUOUS = ["integrated_gradients", "occlusion"]


@pytest.mark.parametrize("method", AMBIGUOUS)
@pytest.mark.parametrize("second", [3, torch.tensor(3), np.int64(3), (3,)], ids=repr)
def test_what_may_be_a_target_or_not_has_to_be_named(method: str, second: Any) -> None:
    name = {"integrated_gradients": "baselines", "occlusion": "sliding_window_shapes"}[method]
    with pytest.raises(TypeError, match=rf"^{name}: the second argument of .*, or a target\?"):
        explainer(method).attribute(x(), second)


@pytest.mark.parametrize("method", [*AMBIGUOUS, "smoothgrad"])
def test_what_captum_has_no_other_place_for_is_a_target(method: str) -> None:
    """As one writes it for Quantus, which hands over a class for each sample."""
    given: list[Any] = [[3, 0, 1, 4], np.array([3, 0, 1, 4]), torch.tensor([3, 0, 1, 4])]
    wanted = explainer(method)(x(), given[0]).relevance
    for each in given:
        assert torch.equal(explainer(method).attribute(x(), each), wanted)
    assert torch.equal(
        explainer("smoothgrad").attribute(x(), 3), explainer("smoothgrad")(x(), 3).relevance
    )


def test_windows_that_pyrel_does_not_take() -> None:
    occlusion = explainer("occlusion")
    for wrong in (2, [2], torch.full((FEATURES,), 0.5), "2"):
        with pytest.raises(TypeError, match="^sliding_window_shapes: wanted a tuple .* by name"):
            occlusion.attribute(x(), wrong, target=0)
    with pytest.raises(ValueError, match=r"^sliding_window_shapes: .* of a sample, \(6,\), got"):
        occlusion.attribute(x(), (2, 2), target=0)
    with pytest.raises(ValueError, match=r"^strides: .* of a sample, \(6,\), got \(1, 1\)"):
        occlusion.attribute(x(), (2,), (1, 1), target=0)
    with pytest.raises(TypeError, match="^sliding_window_shapes: wanted a whole number, got 2.0"):
        occlusion.attribute(x(), (2.0,), target=0)
    with pytest.raises(ValueError, match="^stride: wanted at most the size of a patch"):
        occlusion.attribute(x(), (2,), 3, target=0)
    with pytest.raises(TypeError, match="^strides: goes with sliding_window_shapes"):
        occlusion.attribute(x(), strides=2, target=0)


@pytest.mark.parametrize(
    ("method", "named", "message"),
    [
        ("integrated_gradients", {"method": "riemann_left"}, "^method: wanted .gausslegendre."),
        ("integrated_gradients", {"internal_batch_size": 0}, "^internal_batch_size: wanted 1"),
        ("smoothgrad", {"nt_type": "vargrad"}, '^nt_type: wanted "smoothgrad" or "smoothgrad_sq"'),
        ("smoothgrad", {"abs": True}, "^abs: wanted False; smoothgrad averages"),
        ("smoothgrad", {"draw_baseline_from_distrib": True}, "^draw_baseline_from_distrib: wanted"),
    ],
)
def test_values_that_pyrel_does_not_take(method: str, named: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        explainer(method).attribute(x(), target=0, **named)


def test_a_noise_tunnel_sets_the_options_of_smoothgrad() -> None:
    options = dict(n_samples=3, std=0.2, squared=True)
    wanted = unchecked(net().float(), x(), method="smoothgrad", **options)(x(), 1).relevance
    named = dict(nt_samples=3, nt_samples_batch_size=2, stdevs=0.2, target=1, abs=False)
    found = explainer("smoothgrad").attribute(x(), "smoothgrad_sq", **named)
    assert torch.equal(found, wanted)


def test_a_gradient_is_signed_unless_absolute_values_are_asked_for() -> None:
    signed = explainer("gradient").attribute(x(), 1)
    assert torch.equal(signed, explainer("gradient")(x(), 1).relevance)
    assert (signed < 0).any()
    assert torch.equal(explainer("gradient").attribute(x(), 1, True), signed.abs())


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


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor, other: Tensor, mask: Tensor) -> Any:
        return self.out(torch.tanh(x + other) * mask)


def test_forward_arguments_that_have_no_place_are_refused() -> None:
    """What they are for is compared in tests/oracles/test_captum_calls.py."""
    given = {"x": x(), "other": x().flip(0), "mask": torch.ones_like(x())}
    inputs = tuple(given.values())
    positions = unchecked(seeded(Masked, 6), inputs, method="gradient", constant=["mask"])
    with pytest.raises(TypeError, match=r"^additional_forward_args: other: not constant, .*other"):
        positions.attribute(x(), 0, additional_forward_args=inputs[1:])
    with pytest.raises(
        TypeError, match="^additional_forward_args: .* x, other, mask in all, got 1"
    ):
        positions.attribute(x(), 0, additional_forward_args=inputs[2])
    with pytest.raises(TypeError, match="^additional_forward_args: .* constant, as Explainer.*got"):
        positions.attribute(inputs, 0, additional_forward_args=3)
    names = unchecked(seeded(Masked, 6), given, method="gradient", constant=["mask"])
    with pytest.raises(TypeError, match="^additional_forward_args: .* have names, .* a dictionary"):
        names.attribute(inputs[:2], 0, additional_forward_args=inputs[2])
    wanted = names.attribute(given, 0)["x"]
    assert torch.equal(positions.attribute(inputs[:2], 0, False, inputs[2])[0], wanted)
    paths = unchecked(seeded(Masked, 6), inputs, method="integrated_gradients", constant=["mask"])
    with pytest.raises(TypeError, match="^baselines: wanted one for each of inputs, got 1"):
        paths.attribute(inputs[:2], x(), 0, inputs[2])
    occlusion = unchecked(seeded(Masked, 6), inputs, method="occlusion", constant=["mask"])
    with pytest.raises(ValueError, match="^sliding_window_shapes: wanted the same for all inputs"):
        occlusion.attribute(inputs[:2], ((2,), (3,)), target=0, additional_forward_args=inputs[2])
