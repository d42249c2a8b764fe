# SPDX-License-Identifier: Apache-2.0
"""PatternNet and PatternAttribution against a float64 fit and autograd."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import reference_patterns as reference
import torch
from patterns.models import Case, cases
from reference_patterns import Array, Layers

import pyrel
from pyrel.patterns import Patterns

CASES = {case.name: case for case in cases()}
EPS = float(np.finfo(np.float32).eps)


@cache
def samples(name: str) -> torch.Tensor:
    shape = (400, *CASES[name].sample)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1))


@cache
def fitted(name: str) -> Patterns:
    case = CASES[name]
    return pyrel.patterns.fit(pyrel.capture(case.module, samples(name)[:2]), samples(name))


@cache
def read(name: str) -> Layers:
    layers = Layers()
    with torch.no_grad():
        CASES[name].by_hand(layers, samples(name).double())
    return layers


def directions(case: Case, estimator: str) -> dict[str, Array]:
    """Patterns of each layer, from the formulas."""
    layers = read(case.name)
    found = {}
    for layer, w in layers.weights.items():
        x = layers.rows(layer)
        plus = estimator == "two_component" and layer not in case.linear
        found[layer] = reference.of_sign(x, w, 1) if plus else reference.a(x, w)
        if estimator == "filter":
            found[layer] = w / (w**2).sum(axis=1, keepdims=True)
    return found


@pytest.mark.parametrize("method", ["pattern_net", "pattern_attribution"])
@pytest.mark.parametrize("estimator", ["two_component", "linear", "filter"])
@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_autograd_by_patterns(name: str, estimator: str, method: str) -> None:
    case = CASES[name]
    if name == "LSTM" and estimator == "filter":
        pytest.skip("the first step reads x alone, and is a filter of its own")
    x = samples(name)[:40]
    explainer = pyrel.Explainer(
        case.module, x[:2], method=method, patterns=fitted(name), estimator=estimator
    )
    e = explainer(x)
    matrices = directions(case, estimator)
    if method == "pattern_attribution":
        matrices = {layer: p * read(name).weights[layer] for layer, p in matrices.items()}
    slope, nearest = reference.propagated(case.by_hand, x.double(), e.target, matrices)
    sizes = {layer: np.abs(p) for layer, p in matrices.items()}
    most, _ = reference.propagated(case.by_hand, x.double(), e.target, sizes)
    score = e.output.gather(1, e.target[:, None]).numpy().reshape(-1, *[1] * len(case.sample))
    # A sum over all ways from output to input: each is a product of rounded factors, and there are
    # `depth` additions. Gates and slopes move by no more than 4 times the rounding of their z.
    allowed = 5 * case.depth * EPS * np.abs(score) * np.maximum(most, 1e-6)
    # Within rounding of 0 a ReLU may be on the other side.
    sure = nearest > case.depth * EPS
    assert sure.mean() > 0.8
    error = np.abs(e.relevance.numpy() - score * slope)
    assert (error <= allowed)[sure].all(), (error / allowed)[sure].max()


@pytest.mark.parametrize("name", CASES)
def test_patterns_are_those_of_the_formulas(name: str) -> None:
    case, layers = CASES[name], read(name)
    by_module = {
        layer: each for layer, each in zip(layers.weights, fitted(name).layers, strict=True)
    }
    for layer, w in layers.weights.items():
        x, found = layers.rows(layer), by_module[layer]
        # What precedes is added up in another order: rounding of 1e-16 over variances.
        for pattern, wanted in (
            (found.a, reference.a(x, w)),
            (found.plus, reference.of_sign(x, w, 1)),
            (found.minus, reference.of_sign(x, w, -1)),
        ):
            assert pattern is not None
            values = pattern.values[found.units]
            if ".conv" in layer:  # the graph's patches are by position, torch's by channel
                channels = values.shape[1] // 9 if values.shape[1] % 25 else values.shape[1] // 25
                values = values.reshape(len(values), -1, channels).transpose(0, 2, 1)
                values = values.reshape(wanted.shape)
            np.testing.assert_allclose(values, wanted, rtol=1e-8, atol=1e-8 * np.abs(wanted).max())
        assert found.before_relu[found.units].tolist() == [layer not in case.linear] * len(w)
