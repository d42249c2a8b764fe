# SPDX-License-Identifier: Apache-2.0
"""LRP-ε of an LSTM or a GRU written by hand with torch's matrix products.

Gates get nothing, biases and stabilisers keep their shares. What does not wait for the recurrence,
forward the products with the inputs and backward the relevance of them, is one product over all
steps. The first state is zero: products with it are skipped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pyrel.benchmark.layers import softplus_bias
from pyrel.benchmark.peers.with_torch import TorchLibrary

State = Mapping[str, npt.NDArray[Any]]


class _Layer:
    """The weights of a layer, gates side by side; of the candidate alone those for the way back."""

    def __init__(self, state: State, number: int, gates: int, do: TorchLibrary) -> None:
        def part(name: str) -> npt.NDArray[Any]:
            return state[f"layers.{name}_l{number}"].astype(np.float64)

        inward, recurrent = part("weight_ih"), part("weight_hh")
        size = len(inward) // gates
        candidate = slice(2 * size, 3 * size)  # i, f, g, o and r, z, n
        self.size = size
        self.inward = do.array(np.ascontiguousarray(inward.T))
        self.recurrent = do.array(np.ascontiguousarray(recurrent.T))
        inward_bias, recurrent_bias = part("bias_ih"), part("bias_hh")
        self.own_bias = do.array(recurrent_bias[candidate])
        if gates == 3:  # the gate r scales the candidate's own part of the bias
            recurrent_bias[candidate] = 0
        self.bias = do.array(inward_bias + recurrent_bias)
        self.inward_back = do.array(np.ascontiguousarray(inward[candidate]))
        self.recurrent_back = do.array(np.ascontiguousarray(recurrent[candidate]))


@dataclass(eq=False)
class _Seen:
    """Of one layer: its input in rows (steps · n, width), the rest by step."""

    x: Tensor
    first: list[Tensor]  # i · g, or (1 − z) · n
    kept: list[Tensor]  # f, or z
    scale: list[Tensor]  # r
    candidate: list[Tensor]  # before tanh
    state: list[Tensor]  # c, or h
    h: list[Tensor]


class GatedByHand:
    """Explains the predicted class of samples (n, steps, features) by LRP-ε.

    Parameters
    ----------
    config, state
        Of an LSTM or a GRU of `pyrel.benchmark.gated`.
    library
        torch's operations.
    epsilon
        The stabiliser.
    """

    def __init__(
        self, config: Mapping[str, Any], state: State, library: TorchLibrary, epsilon: float
    ) -> None:
        self._do, self._steps = library, config["steps"]
        self._lstm = config["cell"] == "LSTM"
        gates = 4 if self._lstm else 3
        count = len(config["sizes"])
        self._layers = [_Layer(state, i, gates, library) for i in range(count)]
        self._weight = library.array(state["output.weight"].T)
        self._rows = library.array(state["output.weight"])
        self._bias = library.array(softplus_bias(state["output.bias"]))
        self._epsilon = library.array(np.array(epsilon))

    def _stabilised(self, z: Tensor) -> Tensor:
        return z + torch.copysign(self._epsilon, z)

    def _forward(self, x: Tensor) -> list[_Seen]:
        rows, seen = x.transpose(0, 1).reshape(-1, x.shape[2]), []
        for layer in self._layers:
            seen.append(self._run_lstm(layer, rows) if self._lstm else self._run_gru(layer, rows))
            rows = torch.cat(seen[-1].h)
        return seen

    def _run_lstm(self, layer: _Layer, x: Tensor) -> _Seen:
        do, seen = self._do, _Seen(x, [], [], [], [], [], [])
        steps = do.affine(x, layer.inward, layer.bias).reshape(self._steps, -1, 4 * layer.size)
        for t, given in enumerate(steps):
            z = do.add_product(given, seen.h[-1], layer.recurrent) if t else given
            i, f, g, o = z.chunk(4, 1)
            first = torch.sigmoid(i) * torch.tanh(g)
            kept = torch.sigmoid(f)
            c = torch.addcmul(first, kept, seen.state[-1]) if t else first
            seen.first.append(first)
            seen.kept.append(kept)
            seen.candidate.append(g)
            seen.state.append(c)
            seen.h.append(torch.sigmoid(o) * torch.tanh(c))
        return seen

    def _run_gru(self, layer: _Layer, x: Tensor) -> _Seen:
        do, size, seen = self._do, layer.size, _Seen(x, [], [], [], [], [], [])
        steps = do.affine(x, layer.inward, layer.bias).reshape(self._steps, -1, 3 * size)
        for t, given in enumerate(steps):
            gates, own = given[:, : 2 * size], layer.own_bias
            if t:
                own_part = do.product(seen.h[-1], layer.recurrent)
                gates, own = gates + own_part[:, : 2 * size], own + own_part[:, 2 * size :]
            r, z = torch.sigmoid(gates).chunk(2, 1)
            candidate = torch.addcmul(given[:, 2 * size :], r, own)
            first = (1 - z) * torch.tanh(candidate)
            h = torch.addcmul(first, z, seen.h[-1]) if t else first
            seen.first.append(first)
            seen.kept.append(z)
            seen.scale.append(r)
            seen.candidate.append(candidate)
            seen.state.append(h)
            seen.h.append(h)
        return seen

    def activations(self, x: Tensor) -> list[Tensor]:
        """Return h of every layer and step, and the class scores last."""
        seen = self._forward(x)
        states = [h for layer in seen for h in layer.h]
        return [*states, self._do.affine(states[-1], self._weight, self._bias)]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the relevance of ``x``, of the same shape."""
        seen = self._forward(x)
        score, target = self._do.affine(seen[-1].h[-1], self._weight, self._bias).max(1, True)
        s = score / self._stabilised(score)
        last = seen[-1].h[-1] * s * self._rows[target[:, 0]]
        arriving: list[Tensor | None] = [None] * (self._steps - 1) + [last]
        r = last
        for layer, values in zip(reversed(self._layers), reversed(seen), strict=True):
            r = self._through_time(layer, values, arriving)
            arriving = list(r.reshape(self._steps, len(x), -1))
        return r.reshape(self._steps, len(x), -1).transpose(0, 1)

    def _through_time(self, layer: _Layer, seen: _Seen, arriving: list[Tensor | None]) -> Tensor:
        """Return the relevance of a layer's input in rows, given that of its h at every step."""
        do, shares = self._do, []
        r_h: Tensor | None = None  # what comes back through h, and for an LSTM through c
        r_c: Tensor | None = None
        for t in range(self._steps - 1, -1, -1):
            r = _sum(arriving[t], r_h, r_c)
            ratio = r / self._stabilised(seen.state[t])
            r_candidate = seen.first[t] * ratio
            if t:
                r_c = seen.kept[t] * seen.state[t - 1] * ratio
            s = r_candidate / self._stabilised(seen.candidate[t])
            shares.append(s)
            if t:
                own = s if self._lstm else s * seen.scale[t]
                r_h = do.product(own, layer.recurrent_back).mul_(seen.h[t - 1])
        return do.product(torch.cat(shares[::-1]), layer.inward_back).mul_(seen.x)


def _sum(*values: Tensor | None) -> Tensor:
    first, *rest = [value for value in values if value is not None]
    for value in rest:
        first = first + value
    return first
