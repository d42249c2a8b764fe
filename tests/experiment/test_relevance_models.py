# SPDX-License-Identifier: Apache-2.0
"""Deep Taylor of detection-pooling networks, against the paper's formulas unit by unit."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import pyrel
from pyrel.experiment.relevance_models import (
    DeepTaylorMinMax,
    relevance_of_pools,
    training_free,
)
from pyrel.nn import DetectionPooling, MinMaxRelevance

LOW, HIGH = -0.5, 1.5
EPS = 2.0**-24


def network(
    pooling: str | float,
    layers=((12, 4), (10, 1)),
    made: type[DetectionPooling] = DetectionPooling,
) -> DetectionPooling:
    torch.manual_seed(3)
    net = made(15, layers, pooling)
    with torch.no_grad():
        for layer in net.linear:
            layer.weight.mul_(10)
            layer.bias.uniform_(-0.1, 0.02)
    net.clamp()
    return net


def inputs(count: int = 9) -> np.ndarray:
    rng = np.random.default_rng(5)
    return rng.uniform(LOW, HIGH, (count, 3, 5)).astype(np.float32)


def by_hand(net: DetectionPooling, x: np.ndarray, q: float) -> tuple[np.ndarray, float]:
    """Equations of section 5.2 for one sample, a unit at a time: relevance and output."""
    weights = [layer.weight.detach().numpy().astype(float) for layer in net.linear]
    biases = [layer.bias.detach().numpy().astype(float) for layer in net.linear]
    a, kept = x.ravel().astype(float), []
    for w, b, (units, pools) in zip(weights, biases, net.sizes, strict=True):
        detected = np.maximum(0, w @ a + b)
        groups = detected.reshape(pools, units // pools)
        kept.append((a, groups))
        a = groups.max(1) if math.isinf(q) else (groups**q).sum(1) ** (1 / q)
    relevance = a
    for depth in (1, 0):
        below, groups = kept[depth]
        of_units = np.zeros(groups.shape)
        for k, group in enumerate(groups):
            if group.sum() > 0:
                of_units[k] = group / group.sum() * relevance[k]
        relevance = np.zeros(below.size)
        for w, r in zip(weights[depth], of_units.ravel(), strict=True):
            up, down = np.maximum(w, 0), np.minimum(w, 0)
            terms = below * up if depth else below * w - LOW * up - HIGH * down
            if terms.sum() > 0:
                relevance += terms / terms.sum() * r
    return relevance.reshape(x.shape), float(a[0])


@pytest.mark.parametrize("pooling", ["sum", "max", 2.0, 3.5])
def test_training_free_follows_the_paper(pooling: str | float) -> None:
    net, x = network(pooling), inputs()
    q = {"sum": 1.0, "max": math.inf}.get(pooling, pooling)
    wanted = [by_hand(net, one, q) for one in x]
    found = training_free(net, x, low=LOW, high=HIGH)
    output = net(torch.from_numpy(x)).detach().numpy()[:, 0]
    assert (output > 0).sum() > 4
    for mine, (relevance, f), said in zip(found, wanted, output, strict=True):
        np.testing.assert_allclose(mine, relevance, rtol=0, atol=1e-14 * max(f, 1e-3))
        assert mine.min() >= 0
        assert mine.sum() == pytest.approx(f, rel=1e-12)
        # Some 15 + 12 products in float32, of terms up to a few times f.
        assert said == pytest.approx(f, abs=64 * EPS * max(f, 1))


class ByPowers(DetectionPooling):
    """The same network, whose norm is written out."""

    def _pooled(self, units: torch.Tensor) -> torch.Tensor:
        return units.pow(self.power).sum(2).pow(1 / self.power)


@pytest.mark.parametrize(
    ("pooling", "made"),
    [
        ("sum", DetectionPooling),
        ("max", DetectionPooling),
        (2.0, DetectionPooling),
        (2.0, ByPowers),
        (2.5, ByPowers),
        (3.0, ByPowers),
    ],
)
def test_the_engine_does_the_same(pooling: str | float, made: type[DetectionPooling]) -> None:
    net, x = network(pooling, made=made), inputs()
    e = pyrel.Explainer(net, x, "deep_taylor", low=LOW, high=HIGH)(x)
    q = {"sum": 1.0, "max": math.inf}.get(pooling, pooling)
    paper = np.stack([by_hand(net, one, q)[0] for one in x])
    start = paper.sum(axis=(1, 2))
    # All terms of a layer have one sign: each of four divisions and sums of at most 15 terms
    # rounds by at most (15 + 3) · 2⁻²⁴ of what it shares out, and so do the activities twice. In a
    # power x^q, which is e^(q log x), q · |log x| · 2⁻²⁴ of rounding is left by the root: |log x|,
    # at most 8 where x is more than 2⁻¹¹ of the pool, and some bits of each function, twice.
    error = np.abs(e.relevance - paper).sum(axis=(1, 2))
    powers = 0 if isinstance(pooling, str) else 2 * (8 + 8)
    assert (error <= 8 * (18 + powers) * EPS * np.maximum(start, 1)).all()
    free = training_free(net, x, low=LOW, high=HIGH)
    np.testing.assert_allclose(free, paper, rtol=0, atol=1e-14 * start.max())


def test_only_deep_taylor_shares_norms_by_values() -> None:
    """Without biases LRP-ε is gradient × input, which shares by squares (Ancona et al. 2018)."""
    net, x = network(2.0), inputs()
    with torch.no_grad():
        for layer in net.linear:
            layer.bias.zero_()
    lrp, product = (pyrel.explain(net, x, name) for name in ("lrp_epsilon", "gradient_x_input"))
    size = np.abs(product.relevance).sum(axis=(1, 2), keepdims=True)
    assert (np.abs(lrp.relevance - product.relevance) <= 1e-5 * size).all()
    with pytest.raises(pyrel.UnsupportedModelError, match=r"order 3"):
        pyrel.Explainer(network(3.0), x, "deep_taylor", low=LOW, high=HIGH)


def test_minmax_follows_the_paper() -> None:
    net, x = network("sum"), inputs(12)
    torch.manual_seed(8)
    model = MinMaxRelevance(15, above=10, pools=4, units=3)
    with torch.no_grad():
        model.detection.weight.mul_(10)
        model.inhibition.weight.mul_(4)
        model.inhibition.bias.uniform_(-0.2, 0.2)
    e = DeepTaylorMinMax(net, model, x, low=LOW, high=HIGH)(x)
    v = model.detection.weight.detach().numpy().astype(float)
    u = model.inhibition.weight.detach().numpy().astype(float)
    d = model.inhibition.bias.detach().numpy().astype(float)
    activities = net.double().activities(torch.from_numpy(x).double())
    of_upper = activities[-1][0].detach().numpy()
    seen = 0
    for i, one in enumerate(x):
        row, relevance, total = one.ravel().astype(float), np.zeros(15), 0.0
        for j in range(12):
            a = min(0.0, of_upper[i] @ u[j] + d[j])
            y = max(0.0, row @ v[j] + a)
            q = row * v[j] - LOW * np.maximum(v[j], 0) - HIGH * np.minimum(v[j], 0)
            relevance += q / q.sum() * y
            total += y
            seen += a < 0 < y
        bound = 8 * 40 * EPS * (total + np.abs(v).sum() + np.abs(u).sum())
        np.testing.assert_allclose(e.relevance[i].ravel(), relevance, rtol=0, atol=bound)
        assert e.modelled[i] == pytest.approx(total, abs=bound)
        assert e.output[i] == pytest.approx(activities[-1][1][i, 0].item(), abs=bound)
    assert seen > 5, "units that inhibition leaves active"


def test_true_relevance_of_pools_is_that_of_z_plus() -> None:
    net = network("sum").double()
    activities = net.activities(torch.from_numpy(inputs()).double())
    found = relevance_of_pools(net, activities).detach().numpy()
    (_, below), (units, _) = ([t.detach().numpy() for t in pair] for pair in activities)
    positive = np.maximum(net.linear[1].weight.detach().numpy(), 0)
    for i, mine in enumerate(found):
        terms = below[i] * positive  # (units, pools)
        total = terms.sum(1, keepdims=True)
        active = total[:, 0] > 0  # which no unit without input is, its bias being at most 0
        assert not units[i][~active].any()
        wanted = (terms[active] / total[active] * units[i][active, None]).sum(0)
        np.testing.assert_allclose(mine, wanted, rtol=1e-12)


def test_what_is_refused() -> None:
    net, model = network("sum"), MinMaxRelevance(15, 10, 4, 3)
    x, bounds = inputs(), {"low": LOW, "high": HIGH}
    with pytest.raises(ValueError, match="wanted two layers with sum pooling, given 2 with max"):
        DeepTaylorMinMax(network("max"), model, x, **bounds)
    with pytest.raises(ValueError, match="given 15, 9 and 4"):
        DeepTaylorMinMax(net, MinMaxRelevance(15, 9, 4, 3), x, **bounds)
    with pytest.raises(ValueError, match="wanted one output, given 2"):
        training_free(network("sum", ((12, 4), (10, 2))), x, **bounds)
    with torch.no_grad():
        net.linear[0].bias[0] = 0.1
    with pytest.raises(ValueError, match="biases above 0"):
        training_free(net, x, **bounds)
