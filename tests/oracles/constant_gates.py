# SPDX-License-Identifier: Apache-2.0
"""LRP-ε with ε → 0 as gradient × input of another graph, by torch's autograd.

At ε = 0 a linear unit hands R_k on as a_j w_jk R_k / z_k. With R_k = f(z_k) C_k that is a_j times
the derivative of a graph in which f(z) is z · c, c = f(z)/z held constant: a chain of these is
gradient × input there. Gates are constants too (the signal takes all), or for `gates="half"` the
product is half the gate's and half the signal's, but where it carries the state on; then a gate is
½ + z · c, c = (σ(z) − ½)/z. Biases, and this ½, take their part by not being an input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def straight(z: Tensor, value: Tensor) -> Tensor:
    """f(z) as a constant multiple of z."""
    return z * (value / z).detach()


def product(gate: Tensor, signal: Tensor, half: bool) -> Tensor:
    """gate · signal whose derivative goes to the signal, or by halves to both."""
    if half:
        return (gate * signal.detach() + gate.detach() * signal) / 2
    return gate.detach() * signal


def _gate(z: Tensor) -> Tensor:
    """σ(z) as ½ and a constant multiple of z."""
    return 0.5 + straight(z, torch.sigmoid(z) - 0.5)


def _opposite(z: Tensor) -> Tensor:
    """1 − z, a sum of a multiple of z and a constant."""
    return 1 - z


Step = Callable[[Any, str, Tensor, list[Tensor], bool], list[Tensor]]


def _products(m: Any, name: str, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    parameters = dict(m.named_parameters())
    sides = []
    for kind, value in (("ih", x), ("hh", h)):
        z = value @ parameters[f"weight_{kind}{name}"].T
        bias = parameters.get(f"bias_{kind}{name}")
        sides.append(z if bias is None else z + bias)
    return sides[0], sides[1]


def rnn(m: Any, name: str, x: Tensor, states: list[Tensor], half: bool) -> list[Tensor]:
    """h = f(W x + b + U h + b')."""
    one, other = _products(m, name, x, states[0])
    z = one + other
    relu = getattr(m, "nonlinearity", "tanh") == "relu"
    return [straight(z, torch.relu(z) if relu else torch.tanh(z))]


def lstm(m: Any, name: str, x: Tensor, states: list[Tensor], half: bool) -> list[Tensor]:
    """Rows of the weights in the order input, forget, candidate, output."""
    one, other = _products(m, name, x, states[0])
    i, f, g, o = (one + other).chunk(4, dim=1)
    candidate = straight(g, torch.tanh(g))
    c = product(_gate(f), states[1], half=False) + product(_gate(i), candidate, half)
    h = product(_gate(o), straight(c, torch.tanh(c)), half)
    projection = dict(m.named_parameters()).get(f"weight_hr{name}")
    return [h if projection is None else h @ projection.T, c]


def gru(m: Any, name: str, x: Tensor, states: list[Tensor], half: bool) -> list[Tensor]:
    """Rows in the order reset, update, new."""
    one, other = _products(m, name, x, states[0])
    (r, z, n), (s, u, v) = one.chunk(3, dim=1), other.chunk(3, dim=1)
    update = _gate(z + u)
    total = n + product(_gate(r + s), v, half)
    new = straight(total, torch.tanh(total))
    return [product(_opposite(update), new, half) + product(update, states[0], half=False)]


def unrolled(m: Any, x: Tensor, given: list[Tensor], half: bool) -> tuple[Tensor, Tensor]:
    """Outputs of all steps (n, T, width) and the last hidden states (layers, n, width)."""
    step: Step = {"RNN": rnn, "LSTM": lstm, "GRU": gru}[type(m).__name__]
    finals: list[Tensor] = []
    for layer in range(m.num_layers):
        sides = []
        for direction in ("", "_reverse")[: 1 + m.bidirectional]:
            states = [value[len(finals)].expand(len(x), -1) for value in given]
            outputs = []
            steps = x.unbind(1)
            for inputs in steps[::-1] if direction else steps:
                states = step(m, f"_l{layer}{direction}", inputs, states, half)
                outputs.append(states[0])
            finals.append(states[0])
            sides.append(torch.stack(outputs[::-1] if direction else outputs, 1))
        x = torch.cat(sides, 2)
    return x, torch.stack(finals)


def gradient_times_input(
    score: Callable[[Tensor], Tensor], x: Tensor, target: Tensor
) -> tuple[Tensor, Tensor]:
    """x · ∂score/∂x of the target, and the scores."""
    leaf = x.clone().requires_grad_()
    scores = score(leaf)
    scores[torch.arange(len(x)), target].sum().backward()
    assert leaf.grad is not None
    return (leaf * leaf.grad).detach(), scores.detach()
