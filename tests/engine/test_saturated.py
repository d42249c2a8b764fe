# SPDX-License-Identifier: Apache-2.0
"""Units whose inputs all lie at their bounds: denominators of 0, and small ones, are exact."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from engine.checks import (
    RELATIVE,
    assert_conserved,
    assert_within,
    norms,
    rows,
    target_score,
    unchecked,
)
from engine.layer_graphs import layer_graph
from engine.operator_models import around, chain, seeded
from engine.recurrent_models import FEATURES, STEPS, Classifier, Variant
from reference import explain
from torch import nn

import pyrel

Model = tuple[Callable[[], nn.Module], Callable[[Any, ref.Node], ref.Node], tuple[int, ...], float]


def recurrent(kind: str, **options: Any) -> Model:
    make = functools.partial(Classifier, Variant(kind, options, "mean"))
    return make, Classifier.graph, (STEPS, FEATURES), -1.0


# Of a convolution, windows at the border read zeros beside the pixels.
MODELS: dict[str, Model] = {
    "RNN": recurrent("RNN", num_layers=2),
    "LSTM": recurrent("LSTM", num_layers=2),
    "GRU": recurrent("GRU", bidirectional=True),
    "pixels": (lambda: around(nn.Tanh()), layer_graph, (7,), 0.0),
    "map": (
        lambda: chain(
            nn.Conv2d(1, 3, (1, 2), padding=(0, 1)),
            nn.Tanh(),
            nn.Conv2d(3, 2, (2, 1)),
            nn.Sigmoid(),
            nn.Linear(2 * 2 * 4, 3),
        ),
        layer_graph,
        (1, 3, 3),
        0.0,
    ),
}  # fmt: skip


def scaled(make: Callable[[], nn.Module], factor: float) -> nn.Module:
    """Few and large weights, and no bias that would take part in denominators."""
    module = seeded(make, 1)
    rng = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if "bias" in name:
                parameter.zero_()
            else:
                keep = torch.rand(parameter.shape, generator=rng) < 0.5
                parameter.mul_(factor * keep)
    return module


@functools.cache
def exhibited(name: str, factor: float) -> tuple[pyrel.Graph, ref.Node, Any]:
    """What is captured of a model, its graph for the reference, and inputs at their bounds."""
    make, graph, shape, low = MODELS[name]
    module = scaled(make, factor)
    x = np.random.default_rng(5).choice([np.float32(low), np.float32(1)], (60, *shape))
    return pyrel.capture(module, x[:2]), graph(module, ref.input_node(shape, low, 1.0)), x


def compiled(name: str, factor: float, **options: Any) -> Any:
    captured, _, x = exhibited(name, factor)
    low = MODELS[name][3]
    return unchecked(captured, x[:2], method="deep_taylor", low=low, high=1.0, **options)


# Gates and candidates that are exactly 1 make states that cancel to exactly 0, which is another
# matter: LSTM and GRU stay below that.
SATURATED = ["RNN", "pixels", "map"]


@pytest.mark.parametrize("gates", ["signal", "half"])
@pytest.mark.parametrize(
    ("name", "factor"),
    [*((name, factor) for name in MODELS for factor in (1.0, 8.0)), *((n, 1e3) for n in SATURATED)],
)
def test_relevance_is_conserved(name: str, factor: float, gates: str) -> None:
    x = exhibited(name, factor)[2]
    e = compiled(name, factor, gates=gates)(x)
    start = np.maximum(target_score(e), 0.0)
    assert (start > 0).any()
    assert_conserved(e, start)


@pytest.mark.parametrize("name", SATURATED)
def test_denominators_of_zero_absorb(name: str) -> None:
    """With tanh and sigmoid exactly at their bounds float32 takes nothing else for 0."""
    _, graph, x = exhibited(name, 1000.0)
    wanted = explain(graph, x)
    e = compiled(name, 1000.0)(x, target=wanted.target)
    error = norms(rows(e.relevance) - rows(wanted.relevance))
    assert_within(error, RELATIVE * wanted.peak, "relevance")
    assert_within(np.abs(e.absorbed - wanted.absorbed), RELATIVE * wanted.start, "absorbed")
    assert (wanted.absorbed > 0.01 * wanted.start).mean() >= 0.1
