# SPDX-License-Identifier: Apache-2.0
"""`gates="half"`: what is carried, no bound lost at gates near zero, any length, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference_graph as ref
import torch
from engine.carry_models import CARRY_MODELS, FEATURES, STEPS
from engine.checks import assert_conserved, assert_relevance, rows, target_score, unchecked
from engine.operator_models import seeded
from engine.recurrent_models import Classifier, Variant
from engine.sequences import Last, Packed, assert_same, batch, captured, explainer
from reference import explain
from reference_graph import Array

import pyrel


@pytest.mark.parametrize("make", CARRY_MODELS)
def test_states_are_carried_in_users_sums(make: Any) -> None:
    """The references say by hand which products carry; with one wrong, maps differ by far."""
    module = seeded(make, 1)
    x = np.random.default_rng(2).uniform(-1, 1, (30, STEPS, FEATURES)).astype(np.float32)
    graph = make.graph(module, ref.input_node(x.shape[1:], -1.0, 1.0))
    expected = explain(graph, x, "lrp_epsilon", gates="half")
    e = half(module, x)(x, target=expected.target)
    assert assert_relevance(e, expected, "lrp_epsilon") == 0


def half(module: Any, x: Array) -> Any:
    """Return the explainer for these steps alone, which takes half as many exports."""
    graph = pyrel.capture(module, x[:2])
    return unchecked(graph, method="lrp_epsilon", gates="half")


def recurrent(kind: str, gates: float, bias: float, **options: Any) -> Classifier:
    """A classifier whose gates' weights are multiplied, and whose gates' biases all are `bias`."""
    module = seeded(lambda: Classifier(Variant(kind, options)), 8)
    assert isinstance(module, Classifier)
    count, candidate = {"LSTM": (4, 2), "GRU": (3, 2)}[kind]
    with torch.no_grad():
        for name, parameter in module.core.named_parameters():
            blocks = parameter.chunk(count)
            for number, block in enumerate(blocks):
                if number != candidate:
                    block.mul_(gates)
                    if name.startswith("bias"):
                        block.fill_(bias / 2)  # there are two biases
    return module


def largest_sum(module: Classifier, x: Array) -> Array:
    """A bound of Σ|R| from what each node can hand down at most, by the absolute weights.

    With R = value · C at every node, C of a sum's addends is that of the sum; a product of a gate
    and a signal hands ½ C of it times the other factor to each, or C · gate to a state; f(z)/z is
    at most 1 of tanh and (σ − ½)/z at most ¼; a linear node hands C Wᵀ.
    """
    core = module.core
    inward, state, out = (
        np.abs(p.detach().double().numpy())
        for p in (core.weight_ih_l0, core.weight_hh_l0, module.out.weight)
    )
    hidden, cell = out.max(axis=0), np.zeros(state.shape[1])
    total = np.zeros(len(x))
    for step in np.abs(x).swapaxes(0, 1)[::-1]:
        if len(state) == 4 * len(cell):  # h = o tanh c, c = f c' + i g
            cell = cell + hidden / 2
            units = [cell / 8, 0 * cell, cell / 2, hidden / 8]
            below = np.concatenate(units)
            hidden = below @ state
        else:  # h = (1 − z) n + z h', n = tanh(W x + r U h')
            n = hidden / 2
            # |U h' + b'| where |h'| is at most 1.
            reset = state[2 * len(cell) :].sum(axis=1) + np.abs(
                core.bias_hh_l0.detach().double().numpy()[2 * len(cell) :]
            )
            units = [n * reset / 8, hidden / 8, n]
            below = np.concatenate(units)
            kept = np.concatenate([*units[:2], n / 2]) @ state
            hidden = hidden + kept
        total += step @ (below @ inward)
    return total


@pytest.mark.parametrize(
    ("scale", "bias"),
    [(1e-7, b) for b in (0.0, 9.0, -40.0)] + [(1e-3, b) for b in (0.0, -9.0, 40.0, 120.0, -120.0)],
)
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_relevance_is_bounded(kind: str, scale: float, bias: float) -> None:
    """Gates near ½ have z near 0, shut and open ones are saturated: R stays within the slopes."""
    module = recurrent(kind, scale, bias)
    x = np.random.default_rng(3).uniform(-1, 1, (200, 6, 4)).astype(np.float32)
    e = half(module, x)(x)
    size = np.abs(rows(e.relevance)).sum(axis=1)
    assert (size <= 1.0001 * largest_sum(module, x)).all()
    assert_conserved(e, target_score(e))


@pytest.mark.parametrize("bias", [0.0, 7.0, -7.0])
@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_gates_at_their_ends_agree_with_the_reference(kind: str, bias: float) -> None:
    module = recurrent(kind, 1e-4, bias, num_layers=2, bidirectional=True)
    x = np.random.default_rng(4).uniform(-1, 1, (40, 6, 4)).astype(np.float32)
    graph = Classifier.graph(module, ref.input_node(x.shape[1:], -1.0, 1.0))
    expected = explain(graph, x, "lrp_epsilon", gates="half")
    e = half(module, x)(x, target=expected.target)
    assert_relevance(e, expected, "lrp_epsilon")


@pytest.mark.parametrize("make", [Last, Packed])
def test_any_number_of_steps_and_files(make: Any, tmp_path: Path) -> None:
    compiled = explainer(make, "lrp_epsilon", gates="half")
    compiled.save(tmp_path / "program")
    loaded = pyrel.Explainer.load(tmp_path / "program")
    for steps in (2, 17):
        x = batch(make, 3, steps, seed=steps)
        graph = captured(make, 6).graph(steps)
        fixed = unchecked(graph, method="lrp_epsilon", gates="half", low=-1.0, high=1.0)
        for any_steps in (compiled, loaded):
            assert any_steps.any_steps
            assert_same(any_steps(x), fixed(x))
