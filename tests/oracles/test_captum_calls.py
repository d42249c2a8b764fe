# SPDX-License-Identifier: Apache-2.0
"""The same call of `attribute` as captum's own, argument by argument, and what it returns there."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from engine.checks import unchecked
from engine.operator_models import seeded
from torch import Tensor, nn

import pyrel

captum = pytest.importorskip("captum.attr")

# Captum computes in float64, pyrel in float32: terms of order 1, of a few dozen products.
FLOAT32 = 1e-5
SAMPLES, FEATURES, CLASSES = 4, 6, 5
TARGETS = torch.tensor([3, 0, 1, 4])
SIGNED = {"squared": False}

# Of some methods captum says at each call that it sets hooks, or that an input needs gradients.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Setting backward hooks:UserWarning", "ignore:Input Tensor:UserWarning"
)


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)) - 0.3


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Sequential(nn.Flatten(), nn.Linear(2 * 5 * 4, 7), nn.Tanh(), nn.Linear(7, 3))

    def forward(self, x: Tensor) -> Any:
        return self.out(x)


class Masked(nn.Module):
    """Two inputs that are explained, and what forward takes behind them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(FEATURES, 4), nn.Linear(FEATURES, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor, mask: Tensor) -> Any:
        return self.out(torch.tanh(self.a(a * mask)) * self.b(b))


class OneMasked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(FEATURES, 3)

    def forward(self, x: Tensor, mask: Tensor) -> Any:
        return self.out(torch.tanh(x) * mask)


def smooth(outputs: int) -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 9), nn.Tanh(), nn.Linear(9, outputs))


MODELS: dict[str, Any] = {
    "smooth": lambda: smooth(CLASSES),
    "one output": lambda: smooth(1),
    "rectified": lambda: nn.Sequential(nn.Linear(FEATURES, 9), nn.ReLU(), nn.Linear(9, CLASSES)),
    "image": Image,
    "masked": Masked,
    "one masked": OneMasked,
}
INPUTS: dict[str, Any] = {
    "image": (random(SAMPLES, 2, 5, 4),),
    "masked": (random(SAMPLES, FEATURES), random(SAMPLES, FEATURES, seed=2), torch.eye(4, 6) + 0.5),
    "one masked": (random(SAMPLES, FEATURES), torch.eye(SAMPLES, FEATURES) + 0.5),
}
PLAIN = (random(SAMPLES, FEATURES),)


@functools.cache
def model(name: str) -> nn.Module:
    return seeded(MODELS[name], 3)


@functools.cache
def in_float64(name: str) -> nn.Module:
    return seeded(MODELS[name], 3).double()


def doubled(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(doubled(each) for each in value)
    is_float = isinstance(value, Tensor) and value.is_floating_point()
    return value.double() if is_float else value


def assert_same(explainer: pyrel.Explainer, theirs: Any, *args: Any, **named: Any) -> None:
    """Compare a call with the same one of captum's, in float64."""
    ours = explainer.attribute(*args, **named)
    wanted = theirs.attribute(*doubled(args), **{name: doubled(v) for name, v in named.items()})
    assert isinstance(ours, tuple) == isinstance(wanted, tuple)
    if not isinstance(wanted, tuple):
        ours, wanted = (ours,), (wanted,)
    assert len(ours) == len(wanted)
    for one, other in zip(ours, wanted, strict=True):
        assert one.shape == other.shape
        assert float((one - other.detach()).abs().max()) <= FLOAT32


def call(*positional: Any, **named: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return positional, named


ROWS = random(SAMPLES, FEATURES, seed=5)
CALLS: list[tuple[str, str, dict[str, Any], str, Any]] = [
    ("Saliency", "gradient", {}, "smooth", call(2, abs=True)),
    ("Saliency", "gradient", {}, "smooth", call(TARGETS, False)),
    ("Saliency", "gradient", {}, "smooth", call(target=TARGETS.tolist(), abs=False)),
    ("InputXGradient", "gradient_x_input", {}, "smooth", call(2)),
    ("InputXGradient", "gradient_x_input", {}, "smooth", call(TARGETS, None)),
    ("GuidedBackprop", "guided_backprop", SIGNED, "rectified", call(TARGETS)),
    ("Deconvolution", "deconvnet", SIGNED, "rectified", call(TARGETS, None)),
    ("LRP", "lrp_epsilon", {"epsilon": 1e-9}, "rectified", call(TARGETS)),
    ("LRP", "lrp_epsilon", {"epsilon": 1e-9}, "rectified", call(2, None, False, False)),
    ("IntegratedGradients", "integrated_gradients", {}, "one output", call(0)),
    ("IntegratedGradients", "integrated_gradients", {}, "one output", call(1)),
    ("IntegratedGradients", "integrated_gradients", {}, "one output", call()),
    ("IntegratedGradients", "integrated_gradients", {}, "smooth", call(0, 2)),
    ("IntegratedGradients", "integrated_gradients", {}, "smooth", call(1, target=TARGETS)),
    ("IntegratedGradients", "integrated_gradients", {}, "smooth", call((1,), target=TARGETS)),
    ("IntegratedGradients", "integrated_gradients", {}, "smooth", call(ROWS[:1], 2, None, 7)),
    (
        "IntegratedGradients",
        "integrated_gradients",
        {},
        "smooth",
        call(ROWS, TARGETS, None, 3, "gausslegendre", 8, True),
    ),
    ("IntegratedGradients", "integrated_gradients", {}, "image", call(0.2, 1)),
    ("Occlusion", "occlusion", {}, "smooth", call((2,), target=0)),
    ("Occlusion", "occlusion", {}, "smooth", call(((3,),), (2,), 0.3, TARGETS, None, 2, False)),
    ("Occlusion", "occlusion", {}, "smooth", call((2,), 1, ROWS, 2)),
    ("Occlusion", "occlusion", {}, "smooth", call(sliding_window_shapes=(3,), strides=3, target=1)),
    ("Occlusion", "occlusion", {}, "one output", call((2,))),
    ("Occlusion", "occlusion", {"patch": 2}, "image", call((2, 3, 2), target=1)),
    ("Occlusion", "occlusion", {}, "image", call((2, 3, 3), 2, target=1)),
    ("Occlusion", "occlusion", {}, "image", call((2, 3, 3), (2,), target=1)),
    ("Occlusion", "occlusion", {}, "image", call((1, 2, 3), ((1, 2, 1),), target=1)),
]


@pytest.mark.parametrize(
    ("theirs", "method", "options", "net", "arguments"),
    CALLS,
    ids=[f"{each[0]}{number}" for number, each in enumerate(CALLS)],
)
def test_the_same_call(
    theirs: str, method: str, options: dict[str, Any], net: str, arguments: Any
) -> None:
    x = INPUTS.get(net, PLAIN)
    explainer = unchecked(model(net), x[0], method=method, **options)
    positional, named = arguments
    other = getattr(captum, theirs)(in_float64(net))
    assert_same(explainer, other, x[0], *positional, **named)
    if not named.get("return_convergence_delta") and len(positional) < 7:
        assert_same(explainer, other, x, *positional, **named)  # a tuple of one


@pytest.mark.parametrize(
    ("theirs", "method", "named"),
    [
        ("Saliency", "gradient", {"abs": False}),
        ("InputXGradient", "gradient_x_input", {}),
        ("IntegratedGradients", "integrated_gradients", {"baselines": (0.1, ROWS[:1])}),
        ("IntegratedGradients", "integrated_gradients", {"baselines": (ROWS, 0.2)}),
        ("Occlusion", "occlusion", {"sliding_window_shapes": ((2,), (2,)), "baselines": (0.2, 0)}),
        ("Occlusion", "occlusion", {"sliding_window_shapes": ((3,), (3,)), "strides": (2, (2,))}),
    ],
    ids=["saliency", "times", "paths", "rows", "occlusion", "strides"],
)
def test_forward_arguments_are_constant_inputs(
    theirs: str, method: str, named: dict[str, Any]
) -> None:
    a, b, mask = INPUTS["masked"]
    explainer = unchecked(model("masked"), (a, b, mask), method=method, constant=["mask"])
    other = getattr(captum, theirs)(in_float64("masked"))
    for extra in (mask, (mask,)):
        assert_same(explainer, other, (a, b), target=2, additional_forward_args=extra, **named)


@pytest.mark.parametrize("by_name", [False, True], ids=["tuple", "dictionary"])
@pytest.mark.parametrize(
    ("theirs", "method", "positional"),
    [
        ("Saliency", "gradient", (1, False)),
        ("InputXGradient", "gradient_x_input", (TARGETS % 3,)),
        ("IntegratedGradients", "integrated_gradients", (ROWS[:1], 1)),
        ("Occlusion", "occlusion", ((2,), None, ROWS, 1)),
    ],
    ids=["saliency", "times", "paths", "occlusion"],
)
def test_one_input_and_a_mask(theirs: str, method: str, positional: Any, by_name: bool) -> None:
    """With the mask in the place that captum has for it; one input, or a tuple of one."""
    x, mask = INPUTS["one masked"]
    example = {"mask": mask, "x": x} if by_name else (x, mask)
    explainer = unchecked(model("one masked"), example, method=method, constant="mask")
    other = getattr(captum, theirs)(in_float64("one masked"))
    assert_same(explainer, other, x, *positional, (mask,))
    assert_same(explainer, other, (x,), *positional, mask)


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq"])
def test_a_noise_tunnel_without_noise(nt_type: str) -> None:
    """What is drawn differs, so that only what is averaged can be compared call by call."""
    explainer = unchecked(model("smooth"), PLAIN[0], method="smoothgrad")
    other = captum.NoiseTunnel(captum.Saliency(in_float64("smooth")))
    positional = nt_type, 2, None, 0.0, False
    assert_same(explainer, other, PLAIN[0], *positional, target=TARGETS, abs=False)
    named = dict(nt_type=nt_type, nt_samples=2, stdevs=(0.0,), target=2, abs=False)
    assert_same(explainer, other, PLAIN, **named)


def test_the_standard_deviation_of_a_noise_tunnel() -> None:
    """The gradient of x³ / 3 is x², whose mean at x + σn, n normal, is x² + σ²."""

    class Cubic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x * x / 3

    x, sigma, count = torch.tensor([[1.0, -2.0]]), torch.tensor([[0.5]]), 10_000
    explainer = unchecked(Cubic(), x, method="smoothgrad", n_samples=2)
    ours = explainer.attribute(x, "smoothgrad", count, None, 0.5, target=0)
    wanted = float(x[0, 0] ** 2 + sigma**2)
    deviation = float((4 * x[0, 0] ** 2 * sigma**2 + 2 * sigma**4).sqrt())
    assert abs(float(ours[0, 0]) - wanted) <= 5 * deviation / count**0.5
    assert sigma.square() > 10 * deviation / count**0.5  # another size of noise would show


def test_two_answers_that_are_not_captums_are_told_apart() -> None:
    """Windows are no baselines, and baselines no target: what was answered before differs."""
    x = PLAIN[0]
    occlusion = unchecked(model("smooth"), x, method="occlusion")
    window = occlusion.attribute(x, (2,), target=0)
    steps = occlusion.attribute(x, baselines=2, target=0)
    assert float((window - steps).abs().max()) > 100 * FLOAT32
    ig = unchecked(model("one output"), x, method="integrated_gradients")
    assert float((ig.attribute(x, 1) - ig.attribute(x, 0)).abs().max()) > 100 * FLOAT32
    np.testing.assert_array_equal(ig.attribute(x, 0), ig.attribute(x, target=0))
