# SPDX-License-Identifier: Apache-2.0
"""Slow float64 reference of attention by AttnLRP, in NumPy, layer by layer.

Source: Achtibat et al. 2024, "AttnLRP: Attention-Aware Layer-Wise Relevance Propagation for
Transformers": proposition 3.1 (softmax), proposition 3.3 (products of two matrices). Beside these
LRP-ε as pyrel has it: ε with the sign of what it is added to, layer normalisation by a constant
deviation, the gates of an LSTM getting nothing (Arras et al. 2017).

A block returns its output and a function from the relevance of the output to that of its inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Back = Callable[[Array], Array]


def sigmoid(z: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-z))


def softmax(logits: Array) -> Array:
    """Over the last axis, along which −∞ gets nothing."""
    e = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def of_softmax(logits: Array, weights: Array, relevance: Array) -> Array:
    """R_i = x_i (R_i − s_i Σ_j R_j), x being the logits; 0 where the logit is −∞."""
    given = relevance - weights * relevance.sum(axis=-1, keepdims=True)
    return np.where(np.isneginf(logits), 0.0, logits) * given


@dataclass(frozen=True)
class Blocks:
    """The rules, with their ε."""

    epsilon: float

    def stabilised(self, z: Array) -> Array:
        return z + self.epsilon * np.where(z < 0, -1.0, 1.0)

    def linear(self, x: Array, weight: Array, bias: Array) -> tuple[Array, Back]:
        z = x @ weight.T + bias
        return z, lambda r: x * ((r / self.stabilised(z)) @ weight)

    def product(self, a: Array, v: Array) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """R_A = Σ_k A_ji V_ik R_jk / (2 (O_jk + ε)), O = A V, and R_V likewise.

        The ε of the paper is added to 2 O: it is twice this one.
        """
        o = a @ v

        def back(r: Array) -> tuple[Array, Array]:
            s = r / (2.0 * self.stabilised(o))
            return a * (s @ v.swapaxes(-1, -2)), v * (a.swapaxes(-1, -2) @ s)

        return o, back

    def attention(
        self, q: Array, k: Array, v: Array, scale: float = 1.0, mask: Array | None = None
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array, Array]]]:
        """Softmax(scale · q kᵀ) v; where the ``mask`` is 0 the logits are −∞."""
        scores, back_scores = self.product(q, k.swapaxes(-1, -2))
        logits = scale * scores
        if mask is not None:
            logits = np.where(mask, logits, -np.inf)
        weights = softmax(logits)
        mixed, back_mixed = self.product(weights, v)

        def back(r: Array) -> tuple[Array, Array, Array]:
            of_weights, of_v = back_mixed(r)
            of_q, of_k = back_scores(of_softmax(logits, weights, of_weights))
            return of_q, of_k.swapaxes(-1, -2), of_v

        return mixed, back

    def normalised(
        self, x: Array, weight: Array, bias: Array, least: float = 1e-5
    ) -> tuple[Array, Back]:
        """Return the layer norm: R_i = x_i (s_i − mean s) / σ with s = R / (y + ε)."""
        deviation = np.sqrt(x.var(axis=-1, keepdims=True) + least)
        y = (x - x.mean(axis=-1, keepdims=True)) / deviation
        z = weight * y + bias

        def back(r: Array) -> Array:
            s = weight * y * (r / self.stabilised(z)) / self.stabilised(y)
            return np.asarray(x * (s - s.mean(axis=-1, keepdims=True)) / deviation)

        return z, back

    def residual(
        self, x: Array, y: Array, weight: Array, bias: Array
    ) -> tuple[Array, Callable[[Array], tuple[Array, Array]]]:
        """X + W y + b, which is one linear layer over both."""
        z = x + y @ weight.T + bias

        def back(r: Array) -> tuple[Array, Array]:
            s = r / self.stabilised(z)
            return x * s, y * (s @ weight)

        return z, back

    def lstm(
        self, x: Array, of_input: Array, of_state: Array, bias: Array
    ) -> tuple[Array, Callable[[Array], Array]]:
        """All states of an LSTM, (n, T, units); rows of weights are i, f, g, o as in torch."""
        n, steps, _ = x.shape
        units = of_state.shape[1]
        h, c = np.zeros((2, n, units))
        states, kept = [], []
        for t in range(steps):
            z = x[:, t] @ of_input.T + h @ of_state.T + bias
            i, f, g, _ = np.split(z, 4, axis=1)
            old = sigmoid(f) * c
            new = sigmoid(i) * np.tanh(g)
            kept.append((h, g, old, new))
            c = old + new
            h = sigmoid(z[:, 3 * units :]) * np.tanh(c)
            states.append(h)
        of_g = slice(2 * units, 3 * units)

        def back(r: Array) -> Array:
            out = np.zeros_like(x)
            of_h, of_c = np.zeros((2, n, units))
            for t in reversed(range(steps)):
                before, g, old, new = kept[t]
                s = (r[:, t] + of_h + of_c) / self.stabilised(old + new)
                of_c, of_new = old * s, new * s
                s = of_new / self.stabilised(g)
                out[:, t], of_h = x[:, t] * (s @ of_input[of_g]), before * (s @ of_state[of_g])
            return out

        return np.stack(states, axis=1), back


def start(output: Array, target: npt.NDArray[np.int64]) -> Array:
    """Return the relevance put in: the output of the target."""
    return np.where(np.arange(output.shape[1]) == target[:, None], output, 0.0)
