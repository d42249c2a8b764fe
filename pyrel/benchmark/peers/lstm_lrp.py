# SPDX-License-Identifier: Apache-2.0
"""LRP of an LSTM or a GRU as published for NumPy, written anew from its formulas.

Arras, Montavon, Müller and Samek, *Explaining Recurrent Neural Network Predictions in Sentiment
Analysis* (2017), for LSTMs; the GRU is treated likewise. One sample at a time, in float64, with a
matrix of messages for every linear map and every sum. The bias factor is 0, so that biases and
stabilisers keep their shares.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.benchmark.layers import softplus_bias

Array = npt.NDArray[Any]


class LstmLrp:
    """Explains the predicted class of samples (n, steps, features).

    Parameters
    ----------
    config, state
        Of an LSTM or a GRU of `pyrel.benchmark.gated`.
    epsilon
        The stabiliser.
    bias_factor
        Part of bias and stabiliser that is shared out to the inputs.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        state: Mapping[str, Array],
        epsilon: float,
        bias_factor: float = 0.0,
    ) -> None:
        self._steps, self._lstm = config["steps"], config["cell"] == "LSTM"
        self._epsilon, self._bias_factor = epsilon, bias_factor
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        self._layers = [
            tuple(state[f"layers.{name}_l{i}"].astype(np.float64) for name in names)
            for i in range(len(config["sizes"]))
        ]
        self._size = config["sizes"][0]
        self._weight = state["output.weight"].astype(np.float64)
        self._bias = softplus_bias(state["output.bias"])

    def __call__(self, x: Array) -> Array:
        """Return the relevance of ``x``, of the same shape."""
        return np.stack([self._sample(sample) for sample in x.astype(np.float64)])

    def _linear(self, a: Array, weight: Array, bias: Array, z: Array, r: Array, n: int) -> Array:
        """Return the sum of the messages w·a + δ (b + ε sign z)/N over z + ε sign z, times R."""
        stabiliser = self._epsilon * np.where(z >= 0, 1.0, -1.0)
        messages = weight * a[:, None] + self._bias_factor * (bias + stabiliser) / n
        shared: Array = (messages / (z + stabiliser) * r).sum(axis=1)
        return shared

    def _sample(self, x: Array) -> Array:
        inputs, seen = [x], []
        for layer in self._layers:
            seen.append((self._run_lstm if self._lstm else self._run_gru)(layer, inputs[-1]))
            inputs.append(seen[-1][-1][:-1])
        last = inputs[-1][-1]
        scores = self._weight @ last + self._bias
        mask = np.eye(len(scores))[scores.argmax()]
        arriving = np.zeros_like(inputs[-1])
        arriving[-1] = self._linear(
            last, self._weight.T, self._bias, scores, scores * mask, len(last)
        )
        for layer, a, values in zip(self._layers[::-1], inputs[-2::-1], seen[::-1], strict=True):
            arriving = self._back(layer, a, values, arriving)
        return arriving

    def _run_lstm(self, layer: tuple[Array, ...], x: Array) -> tuple[Array, ...]:
        w, u, b, own = layer
        steps, d = len(x), self._size
        h, c, g, first, kept = (np.zeros((steps + 1, d)) for _ in range(5))  # h[-1] is zero
        for t in range(steps):
            i, f, g[t], o = (w @ x[t] + u @ h[t - 1] + b + own).reshape(4, d)
            kept[t], first[t] = _sigmoid(f), _sigmoid(i) * np.tanh(g[t])
            c[t] = kept[t] * c[t - 1] + first[t]
            h[t] = _sigmoid(o) * np.tanh(c[t])
        return first, kept, np.ones_like(kept), g, c, h

    def _run_gru(self, layer: tuple[Array, ...], x: Array) -> tuple[Array, ...]:
        w, u, b, own = layer
        steps, d = len(x), self._size
        h, n, first, kept, scale = (np.zeros((steps + 1, d)) for _ in range(5))
        for t in range(steps):
            inward, recurrent = (w @ x[t] + b).reshape(3, d), (u @ h[t - 1] + own).reshape(3, d)
            scale[t], kept[t] = _sigmoid(inward[:2] + recurrent[:2])
            n[t] = inward[2] + scale[t] * recurrent[2]
            first[t] = (1 - kept[t]) * np.tanh(n[t])
            h[t] = first[t] + kept[t] * h[t - 1]
        return first, kept, scale, n, h, h

    def _back(
        self, layer: tuple[Array, ...], x: Array, seen: tuple[Array, ...], arriving: Array
    ) -> Array:
        first, kept, scale, candidate, state, h = seen
        d, steps = self._size, len(x)
        rows = slice(2 * d, 3 * d)
        w, u, b = layer[0][rows].T, layer[1][rows].T, layer[2][rows] + layer[3][rows]
        one, none, count = np.identity(d), np.zeros(d), x.shape[1] + d
        r_h, r_state, found = np.zeros(d), np.zeros(d), np.zeros_like(x)
        for t in reversed(range(steps)):
            r = arriving[t] + r_h + r_state
            r_candidate = self._linear(first[t], one, none, state[t], r, 2 * d)
            r_state = self._linear(kept[t] * state[t - 1], one, none, state[t], r, 2 * d)
            found[t] = self._linear(x[t], w, b, candidate[t], r_candidate, count)
            r_h = self._linear(h[t - 1], u * scale[t], b, candidate[t], r_candidate, count)
        return found


def _sigmoid(z: Array) -> Array:
    values: Array = 1 / (1 + np.exp(-z))
    return values
