# SPDX-License-Identifier: Apache-2.0
"""Quantus's measures against ours, on one small torch model in float64.

Quantus has no replacement of a patch by its mean, no comprehensiveness, sufficiency and log-odds of
ERASER, and of the deep Taylor paper's definitions the first alone, as completeness: the others are
compared with references written from their formulas, in tests/metrics.

The last tests give Quantus an explainer as its `explain_func`.
"""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import pyrel
from pyrel import metrics
from pyrel.benchmark.peers.packages import import_zennit
from pyrel.experiment import randomisation_check

SAMPLES, SIDE, CLASSES = 6, 6, 3
# Sums of 36 terms and of 12, in float64 on both sides and in another order.
FLOAT64 = 1e-12
PLAIN = dict(normalise=False, disable_warnings=True)
BOX = dict(low=0.0, high=1.0)


@pytest.fixture(scope="module")
def quantus() -> Any:
    if importlib.util.find_spec("quantus") is None:
        pytest.skip("quantus is not installed")
    import_zennit()  # which quantus imports where it is installed, and which asks for torchvision
    return importlib.import_module("quantus")


class Doubled(nn.Module):
    """Compute in float64, though Quantus hands over float32."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    hidden, output = nn.Linear(SIDE**2, 12), nn.Linear(12, CLASSES)
    return nn.Sequential(Doubled(), nn.Flatten(), hidden, nn.ReLU(), output).double().eval()


@pytest.fixture
def case() -> tuple[Any, Any, Any]:
    """Make inputs that float32 holds, signed maps without ties, and classes."""
    rng = np.random.default_rng(1)
    x = rng.random((SAMPLES, 1, SIDE, SIDE), dtype=np.float32).astype(np.float64)
    return x, rng.normal(size=x.shape), rng.integers(0, CLASSES, SAMPLES)


def forward_of(model: nn.Module) -> Any:
    def forward(x: Any) -> Any:
        with torch.no_grad():
            return model(torch.from_numpy(x)).numpy()

    return forward


def squared(model: nn.Module, inputs: Any, targets: Any, **unused: Any) -> Any:
    """Explain by gradient × input, squared."""
    x = torch.as_tensor(inputs, dtype=torch.float64).requires_grad_()
    rows = torch.arange(len(x))
    (gradient,) = torch.autograd.grad(model(x)[rows, torch.as_tensor(targets)].sum(), x)
    return ((gradient * x) ** 2).detach().numpy()


def given(model: nn.Module | None, case: tuple[Any, Any, Any], **more: Any) -> dict[str, Any]:
    """Name the arguments of a call of Quantus."""
    x, relevance, target = case
    return (
        dict(
            model=model,
            x_batch=x.copy(),
            y_batch=target,
            a_batch=relevance.copy(),
            channel_first=True,
        )
        | more
    )


def test_pixel_flipping(quantus, model, case) -> None:
    x, relevance, target = case
    flipping = quantus.PixelFlipping(perturb_baseline=0.0, **PLAIN)
    theirs = flipping(**given(model, case, softmax=True))
    how = metrics.Perturbation(metrics.pixel_regions(x.shape[1:]), replacement=0.0)
    ours = metrics.degradation(forward_of(model), x, relevance, target, how=how)
    assert ours.removed[1] == 1
    np.testing.assert_allclose(ours.scores[:, 1:], theirs, rtol=0, atol=FLOAT64)


@pytest.mark.parametrize(
    ("theirs", "ours"), [("morf", "most_relevant"), ("lerf", "least_relevant")]
)
def test_region_perturbation(quantus, model, case, theirs, ours) -> None:
    x, relevance, target = case
    regions = metrics.patch_regions(x.shape[1:], 2, layout="channels")
    perturbation = quantus.RegionPerturbation(
        patch_size=2, regions_evaluation=regions.count, order=theirs, perturb_baseline=0.25, **PLAIN
    )
    falls = np.array(perturbation(**given(model, case, softmax=False)))
    how = metrics.Perturbation(regions, replacement=0.25, score="output")
    curve = metrics.degradation(forward_of(model), x, relevance, target, how=how, order=ours)
    np.testing.assert_allclose(curve.scores[:, :1] - curve.scores[:, 1:], falls, atol=FLOAT64)
    aopc = falls.sum(axis=1) / (regions.count + 1)
    np.testing.assert_allclose(curve.area_over(), aopc, atol=FLOAT64)


def test_mass_and_rank_accuracy(quantus, case) -> None:
    x, relevance, target = case
    positive = np.abs(relevance)
    mask = np.random.default_rng(2).random(x.shape) < 0.3
    arguments = given(None, (x, positive, target), s_batch=mask)
    mass = quantus.RelevanceMassAccuracy(**PLAIN)(**copy.deepcopy(arguments))
    rank = quantus.RelevanceRankAccuracy(**PLAIN)(**copy.deepcopy(arguments))
    np.testing.assert_allclose(metrics.relevance_mass_accuracy(positive, mask), mass, atol=FLOAT64)
    np.testing.assert_allclose(metrics.relevance_rank_accuracy(positive, mask), rank, atol=FLOAT64)


def test_conservation_is_completeness(quantus) -> None:
    """Whole numbers, of which sums are exact: Quantus asks for equality, and for f(x) − f(0)."""
    rng = np.random.default_rng(4)
    model = nn.Sequential(
        Doubled(), nn.Flatten(), nn.Linear(SIDE**2, 12, bias=False), nn.ReLU(),
        nn.Linear(12, CLASSES, bias=False),
    ).double().eval()  # fmt: skip
    with torch.no_grad():
        model[2].weight.copy_(torch.from_numpy(rng.integers(-3, 4, (12, SIDE**2))))
        model[4].weight.copy_(torch.from_numpy(rng.integers(0, 4, (CLASSES, 12))))
    x = rng.integers(0, 4, (SAMPLES, 1, SIDE, SIDE)).astype(np.float64)
    target = rng.integers(0, CLASSES, SAMPLES)
    rows = torch.arange(SAMPLES)
    inputs = torch.from_numpy(x).requires_grad_()
    output = model(inputs)[rows, torch.from_numpy(target)]
    (gradient,) = torch.autograd.grad(output.sum(), inputs)
    relevance = (gradient * inputs).detach().numpy()  # which conserves, there being no biases
    relevance[::2, 0, 0, 0] += 1
    theirs = quantus.Completeness(**PLAIN)(**given(model, (x, relevance, target)))
    ours = metrics.consistency(relevance, output.detach().numpy(), tolerance=0.0)
    assert float(output.detach().min()) > 0
    assert list(theirs) == ours.conservative.tolist() == [False, True] * (SAMPLES // 2)


def test_entropy_and_gini(quantus, case) -> None:
    _, relevance, _ = case
    complexity = quantus.Complexity(abs=True, **PLAIN)(**given(None, case))
    sparseness = quantus.Sparseness(abs=True, **PLAIN)(**given(None, case))
    # Quantus adds 1e-12 to each of 36 shares, and 1e-7 to each of 36 sizes of about 1.
    np.testing.assert_allclose(metrics.entropy(relevance), complexity, atol=1e-10)
    np.testing.assert_allclose(metrics.gini(relevance), sparseness, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "reduce"), [("MaxSensitivity", "max"), ("AvgSensitivity", "mean")]
)
def test_sensitivity_to_noise(quantus, model, case, name, reduce) -> None:
    x, _, target = case
    noise = metrics.Noise(radius=0.2, draws=5)
    noisy = iter([copies for _, copies in noise.batches(x)])

    def perturb(arr: Any, indices: Any, **unused: Any) -> Any:
        return next(noisy).reshape(arr.shape)

    sensitivity = getattr(quantus, name)(nr_samples=5, perturb_func=perturb, **PLAIN)
    maps = squared(model, x, target)
    arguments = given(model, (x, maps, target), explain_func=squared)
    theirs = sensitivity(**arguments)
    ours = metrics.noise_sensitivity(
        lambda x, target: squared(model, x, target), x, target, noise, reduce=reduce
    )
    np.testing.assert_allclose(ours, theirs, rtol=FLOAT64)


@pytest.mark.parametrize(
    ("order", "cascade", "layers"),
    [("top_down", True, ["4", "2"]), ("independent", False, ["2", "4"])],
)
def test_randomised_weights(quantus, model, case, order, cascade, layers) -> None:
    x, _, target = case

    def fresh() -> nn.Module:
        made = copy.deepcopy(model)
        for name, module in made.named_modules():
            if hasattr(module, "reset_parameters"):
                torch.manual_seed(43)  # as Quantus does for its seed 42, before every layer
                module.reset_parameters()
                assert name in {"2", "4"}
        return made

    maps = squared(model, x, target)
    test = quantus.MPRT(layer_order=order, abs=True, **PLAIN)
    theirs = test(**given(model, (x, maps, target), explain_func=squared))
    ours = randomisation_check(
        model, fresh, lambda m: lambda x, target: squared(m, x, target), x, target, cascade=cascade
    )
    assert [layer.name for layer in ours] == ["4", "2"]
    assert [name for name in theirs if name != "original"] == layers
    for layer in ours:
        wanted = theirs[layer.name]
        np.testing.assert_allclose(layer.absolute_rank.values, wanted, atol=FLOAT64)
        assert np.abs(wanted).max() < 0.99


def test_rank_correlation_with_ties(quantus) -> None:
    first, second = np.random.default_rng(3).integers(0, 4, (2, 8, 20)).astype(float)
    theirs = quantus.correlation_spearman(first, second, batched=True)
    np.testing.assert_allclose(metrics.rank_correlation(first, second), theirs, atol=FLOAT64)


@pytest.fixture(scope="module")
def plain() -> nn.Module:
    torch.manual_seed(0)
    hidden, output = nn.Linear(SIDE**2, 12), nn.Linear(12, CLASSES)
    nn.init.constant_(output.bias, 3.0)  # so that deep Taylor has scores above zero
    return nn.Sequential(nn.Flatten(), hidden, nn.ReLU(), output).eval()


@pytest.fixture
def batch() -> dict[str, Any]:
    """Make inputs that nearly fill the box, so that noise moves them out of it."""
    rng = np.random.default_rng(1)
    x = rng.choice([0.0, 0.5, 1.0], (SAMPLES, 1, SIDE, SIDE)).astype(np.float32)
    return dict(x_batch=x, y_batch=rng.integers(0, CLASSES, SAMPLES), channel_first=True)


def as_function(explainer: pyrel.Explainer) -> Any:
    """Write the function as the documentation does."""

    def explain(model: Any, inputs: Any, targets: Any, **kwargs: Any) -> Any:
        return explainer.attribute(inputs, target=targets)

    return explain


def test_sensitivity_leaves_the_box(quantus, plain, batch) -> None:
    measure = quantus.AvgSensitivity(nr_samples=3, lower_bound=0.3, **PLAIN)
    refusing = pyrel.Explainer(plain, batch["x_batch"], "deep_taylor", **BOX)
    with pytest.raises(ValueError, match=r"x: wanted values in \[low, high\]"):
        measure(model=plain, explain_func=as_function(refusing), **batch)
    clipping = pyrel.Explainer(plain, batch["x_batch"], "deep_taylor", out_of_range="clip", **BOX)
    scores = np.array(measure(model=plain, explain_func=as_function(clipping), **batch))
    assert scores.shape == (SAMPLES,)
    assert np.isfinite(scores).all()
    assert (scores > 0).any()


def test_maps_that_quantus_asks_for_are_those_that_it_is_given(quantus, plain, batch) -> None:
    explainer = pyrel.Explainer(plain, batch["x_batch"], "lrp_epsilon")
    measure = quantus.PixelFlipping(perturb_baseline=0.0, features_in_step=6, **PLAIN)
    asked = measure(model=plain, explain_func=as_function(explainer), **batch)
    maps = explainer(batch["x_batch"], batch["y_batch"]).relevance
    given = measure(model=plain, a_batch=maps, **batch)
    np.testing.assert_array_equal(asked, given)
