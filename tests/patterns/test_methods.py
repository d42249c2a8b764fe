# SPDX-License-Identifier: Apache-2.0
"""PatternNet and PatternAttribution against a float64 fit and autograd."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import reference_patterns as reference
import torch
from patterns.models import Case, cases
from reference_patterns import Array, Layers

import pyrel
from pyrel.compiler.graph.nodes import Linear
from pyrel.compiler.passes.pipeline import run_passes
from pyrel.methods.pattern import random_direction
from pyrel.patterns import Patterns

CASES = {case.name: case for case in cases()}
EPS = float(np.finfo(np.float32).eps)
SEED = 3  # of the random estimator


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
        match estimator:
            case "filter":
                found[layer] = reference.filters(w)
            case "random":
                by_graph = as_in_graph(layers, layer, w)
                found[layer] = as_in_torch(layers, layer, reference.random(by_graph, SEED))
            case "two_component" if layer not in case.linear:
                found[layer] = reference.of_sign(x, w, 1)
            case _:
                found[layer] = reference.a(x, w)
    return found


def as_in_graph(layers: Layers, layer: str, matrix: Array) -> Array:
    """Put the columns of a kernel as the graph has them: by position, torch's are by channel."""
    elements = layers.kernels.get(layer, 1)
    by_channel = matrix.reshape(len(matrix), -1, elements)
    return by_channel.transpose(0, 2, 1).reshape(matrix.shape)


def as_in_torch(layers: Layers, layer: str, matrix: Array) -> Array:
    """Undo `as_in_graph`."""
    elements = layers.kernels.get(layer, 1)
    by_position = matrix.reshape(len(matrix), elements, -1)
    return by_position.transpose(0, 2, 1).reshape(matrix.shape)


@pytest.mark.parametrize("method", ["pattern_net", "pattern_attribution"])
@pytest.mark.parametrize("estimator", ["two_component", "linear", "filter", "random"])
@pytest.mark.parametrize("name", CASES)
def test_maps_are_those_of_autograd_by_patterns(name: str, estimator: str, method: str) -> None:
    case = CASES[name]
    x = samples(name)[:40]
    options = {"patterns": fitted(name), "estimator": estimator, "check": None, "seed": SEED}
    e = pyrel.Explainer(case.module, x[:2], method=method, **options)(x)
    matrices = directions(case, estimator)
    if method == "pattern_attribution":
        matrices = {layer: p * read(name).weights[layer] for layer, p in matrices.items()}
    slope, nearest = reference.propagated(case.by_hand, x.double(), e.target, Layers(matrices))
    sizes = {layer: np.abs(p) for layer, p in matrices.items()}
    most, _ = reference.propagated(case.by_hand, x.double(), e.target, Layers(sizes))
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
            values = as_in_torch(layers, layer, pattern.values[found.units])
            np.testing.assert_allclose(values, wanted, rtol=1e-8, atol=1e-8 * np.abs(wanted).max())
        assert found.before_relu[found.units].tolist() == [layer not in case.linear] * len(w)


def test_rows_that_are_joined_for_speed_are_among_them() -> None:
    graph = pyrel.capture(CASES["images"].module, samples("images")[:2])
    unbounded = np.full(graph.input_size, np.inf)
    laid_out = run_passes(graph, pyrel.methods.PatternNet(), -unbounded, unbounded).graph
    assert any(isinstance(node, Linear) and node.positions > 1 for node in laid_out.nodes)


def test_identity_shares_out_by_what_inputs_add() -> None:
    """R_j = Σ_k x_j w_kj R_k / wᵀx, without the bias, where the ReLU is active."""
    case, x = CASES["feed-forward"], samples("feed-forward")[:40]
    e = pyrel.explain(case.module, x, "pattern_attribution", estimator="identity")
    linear = [module for module in case.module if isinstance(module, torch.nn.Linear)]
    a, activations = x.double().numpy(), []
    for layer in linear:
        w, b = (p.detach().double().numpy() for p in (layer.weight, layer.bias))
        activations.append((a, w, b))
        a = np.maximum(a @ w.T + b, 0.0)
    r = np.where(np.arange(3) == e.target.numpy()[:, None], e.output.double().numpy(), 0.0)
    most = np.abs(r)
    for number, (a, w, b) in reversed([*enumerate(activations)]):
        y = a @ w.T
        on = (y + b > 0) | (number == len(linear) - 1)
        s = np.where(on, 1 / (y + 1e-6 * np.where(y < 0, -1, 1)), 0.0)
        # Rounding of y is relative to Σ |a w|.
        spread = 1 + 30 * (np.abs(a) @ np.abs(w).T) * np.abs(s)
        r, most = a * ((s * r) @ w), np.abs(a) * ((np.abs(s) * most * spread) @ np.abs(w))
    assert (np.abs(e.relevance.numpy() - r) <= 30 * EPS * most + 1e-30).all()


def test_identity_shares_out_in_an_lstm_too() -> None:
    """Over [x; h], gates being constants; states lie in [−1, 1], and x in [0, 1]."""
    case, x = CASES["LSTM"], samples("LSTM")[:40]
    e = pyrel.explain(case.module, x, "pattern_attribution", estimator="identity")
    double = x.double()
    layers = Layers(share=True)
    slope, _ = reference.propagated(case.by_hand, double, e.target, layers)
    # To first order rounding changes one layer's shares at a time.
    parts = [Layers(share=True, rounded=run) for run in range(layers.runs)]
    most = sum(reference.propagated(case.by_hand, double, e.target, each)[0] for each in parts)
    score = e.output.gather(1, e.target[:, None]).numpy().reshape(-1, 1, 1)
    allowed = 5 * case.depth * EPS * np.abs(score) * most
    error = np.abs(e.relevance.numpy() - score * slope)
    assert (error <= allowed).all(), (error / allowed).max()


def test_random_directions_are_drawn_by_seed_and_belong_to_their_weights() -> None:
    w = np.random.default_rng(0).normal(size=(5, 7))
    one, other = (random_direction(w, seed) for seed in (0, 1))
    np.testing.assert_allclose((w * one).sum(axis=1), 1.0)
    assert np.abs(one - other).max() > 0.01
    assert (one == random_direction(w.copy(), 0)).all()
    case, x = CASES["LSTM"], samples("LSTM")[:4]
    maps = [
        pyrel.explain(case.module, x, "pattern_net", estimator="random", seed=seed).relevance
        for seed in (0, 1, 0)
    ]
    assert torch.equal(maps[0], maps[2]) and not torch.equal(maps[0], maps[1])


def test_patterns_are_told_apart_and_go_into_programs(tmp_path: Path) -> None:
    case, x = CASES["feed-forward"], samples("feed-forward")
    graph = pyrel.capture(case.module, x[:2])
    mine, other = fitted("feed-forward"), pyrel.patterns.fit(graph, x[:100])
    maps = [
        pyrel.explain(case.module, x, "pattern_net", patterns=each).relevance
        for each in (mine, other, mine)
    ]
    assert torch.equal(maps[0], maps[2]) and not torch.equal(maps[0], maps[1])
    explainer = pyrel.Explainer(case.module, x[:2], method="pattern_net", patterns=mine)
    explainer.save(tmp_path / "e.safetensors")
    loaded = pyrel.Explainer.load(tmp_path / "e.safetensors")
    assert torch.equal(loaded(x).relevance, maps[0])
    assert repr(loaded.method) == "PatternNet(estimator='two_component')"


def test_what_cannot_be_explained_is_refused() -> None:
    case, x = CASES["feed-forward"], samples("feed-forward")[:2]
    with pytest.raises(ValueError, match="pattern_net needs patterns="):
        pyrel.Explainer(case.module, x, method="pattern_net")
    with pytest.raises(TypeError, match="patterns: wanted those of pyrel.patterns.fit"):
        pyrel.methods.PatternNet([1, 2])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="estimator: wanted"):
        pyrel.methods.PatternNet(estimator="identity")
    with pytest.raises(ValueError, match="seed: wanted"):
        pyrel.methods.PatternAttribution(estimator="random", seed=-1)
    linear = pyrel.patterns.fit(pyrel.capture(case.module, x), x, estimator="linear")
    with pytest.raises(ValueError, match="only the linear one was fitted"):
        pyrel.Explainer(case.module, x, method="pattern_net", patterns=linear)

    class Square(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x

    with pytest.raises(pyrel.UnsupportedModelError, match="both or neither is a gate"):
        pyrel.Explainer(Square(), x, method="pattern_net", estimator="filter")
