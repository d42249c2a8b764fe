# SPDX-License-Identifier: Apache-2.0
"""LRP-ε of an imported LSTM-LRP model against that code's own way, written anew in NumPy.

Arras et al. 2017, *Explaining Recurrent Neural Network Predictions in Sentiment Analysis*, with a
bias factor of 0: gates get nothing, biases and stabilisers keep their shares.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from recurrent_weights import FEATURES, UNITS, Array, arras_weights, drawn, sigmoid

import pyrel
from pyrel import importing

EPSILON = 1e-3


def linear(a: Array, w: Array, z: Array, relevance: Array) -> Array:
    """Equation 1: the share of each input in each unit, z being the unit's value with its bias."""
    shares = a[:, None] * w / (z + EPSILON * np.where(z >= 0, 1, -1))
    return np.asarray(shares @ relevance)


def direction(
    weights: Mapping[str, Array], side: str, x: Array, target: int, score: float
) -> Array:
    """Return the relevance of each element of x (steps, features), in the order it is read."""
    w, u = weights[f"Wxh_{side}"], weights[f"Whh_{side}"]
    bias = weights[f"bxh_{side}"] + weights[f"bhh_{side}"]
    steps = len(x)
    h, c = np.zeros((steps + 1, UNITS)), np.zeros((steps + 1, UNITS))
    gates = np.zeros((steps, 4, UNITS))  # i, g (before tanh), f, o
    for t in range(steps):
        i, g, f, o = (w @ x[t] + u @ h[t - 1] + bias).reshape(4, UNITS)
        gates[t] = sigmoid(i), g, sigmoid(f), sigmoid(o)
        c[t] = gates[t, 2] * c[t - 1] + gates[t, 0] * np.tanh(g)
        h[t] = gates[t, 3] * np.tanh(c[t])
    candidate = slice(UNITS, 2 * UNITS)
    reader = weights[f"Why_{side}"][target]
    r_h = linear(h[steps - 1], reader[:, None], np.array([score]), np.array([score]))
    r_c, found = np.zeros(UNITS), np.zeros_like(x)
    for t in reversed(range(steps)):
        r_c = r_c + r_h
        stabilised = c[t] + EPSILON * np.where(c[t] >= 0, 1, -1)
        r_g = gates[t, 0] * np.tanh(gates[t, 1]) / stabilised * r_c
        found[t] = linear(x[t], w[candidate].T, gates[t, 1], r_g)
        r_h = linear(h[t - 1], u[candidate].T, gates[t, 1], r_g)
        r_c = gates[t, 2] * c[t - 1] / stabilised * r_c
    return found


@pytest.mark.parametrize("steps", [1, 6])
def test_relevance_is_that_of_the_published_code(steps: int) -> None:
    weights = arras_weights()
    exact = {name: value.astype(np.float64) for name, value in weights.items()}
    x = drawn(4, steps, FEATURES, seed=9)
    model = importing.lstm_lrp(weights)
    explainer = pyrel.Explainer(model, x, method="lrp_epsilon", epsilon=EPSILON)
    for target in (0, 1):
        e = explainer(x, target=target)
        for n, sequence in enumerate(x.astype(np.float64)):
            score = float(e.output[n, target])
            wanted = direction(exact, "Left", sequence, target, score)
            wanted = wanted + direction(exact, "Right", sequence[::-1], target, score)[::-1]
            # 80 roundings of 2^-23 relative to the largest Σ|R| on the way.
            bound = 1e-5 * float(e.amplification[n]) * abs(score)
            np.testing.assert_allclose(e.relevance[n], wanted, rtol=0, atol=bound)
