# SPDX-License-Identifier: Apache-2.0
"""Operators that users write without thinking: each is refused by name, or explained rightly."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import reference_functions as functions
import reference_graph as ref
import reference_layers as layers
import torch
from engine.cases import sample
from engine.checks import RELATIVE, assert_deep_taylor, norms, torch_gradient
from engine.models import apply, apply_relu, array
from reference import explain
from torch import Tensor, nn
from torch.nn import functional

import pyrel

SHAPE = (4, 6)


class Expression(nn.Module):
    """Two linear layers around one expression."""

    count: Tensor

    def __init__(self, expression: Callable[[Expression, Tensor], Tensor], width: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.expression = expression
        self.first, self.out = nn.Linear(6, 8), nn.Linear(width, 3)
        self.weight = nn.Parameter(torch.randn(8, 8) / 2)
        self.bias = nn.Parameter(torch.randn(8) / 2)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("mask", (torch.arange(8) % 3 > 0).float())

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.expression(self, torch.relu(self.first(x))))


def counted(m: Expression, h: Tensor) -> Tensor:
    m.count += 1
    return h[:, 0]


def written(m: Expression, h: Tensor) -> Tensor:
    h = h.clone()
    h[:, 0, :4] = 0
    return h[:, 0]


def summed_in_place(m: Expression, h: Tensor) -> Tensor:
    total = h[:, 0].clone()
    total += h[:, 1]
    return total


# name: (expression of the hidden steps h (n, 4, 8), width of its result). What looks linear and is
# scaled, reordered, or mixes samples is most easily explained wrongly.
EXPRESSIONS: dict[str, tuple[Callable[[Any, Tensor], Any], int]] = {
    "addmm-alpha": (lambda m, h: torch.addmm(m.bias, h[:, 0], m.weight, alpha=0.5), 8),
    "addmm-beta": (lambda m, h: torch.addmm(m.bias, h[:, 0], m.weight, beta=3.0), 8),
    "add-alpha": (lambda m, h: torch.add(h[:, 0], h[:, 1], alpha=2), 8),
    "add-scalar": (lambda m, h: h[:, 0] + 1.5, 8),
    "add-parameter": (lambda m, h: h[:, 0] + m.bias, 8),
    "add-row": (lambda m, h: (h + h[:, :1])[:, 2], 8),
    "python-sum": (lambda m, h: sum(h.unbind(1)), 8),
    "sub": (lambda m, h: h[:, 0] - h[:, 1], 8),
    "neg": (lambda m, h: -h[:, 0], 8),
    "scale": (lambda m, h: 2.0 * h[:, 0], 8),
    "divide": (lambda m, h: h[:, 0] / 4, 8),
    "mask": (lambda m, h: h[:, 0] * m.mask, 8),
    "gate": (lambda m, h: h[:, 0] * h[:, 1], 8),
    "mean": (lambda m, h: h.mean(1), 8),
    "sum": (lambda m, h: h.sum(dim=1), 8),
    "max": (lambda m, h: (h @ m.weight).amax(1), 8),
    "max-of-relu": (lambda m, h: h.amax(1), 8),
    "sigmoid": (lambda m, h: torch.sigmoid(h[:, 0] @ m.weight), 8),
    "sigmoid-of-relu": (lambda m, h: torch.sigmoid(h[:, 0]), 8),
    "tanh-of-relu": (lambda m, h: torch.tanh(h[:, 0]), 8),
    "tanh-of-sum": (lambda m, h: torch.tanh(h[:, 0] + h[:, 1]), 8),
    "tanh-of-max": (lambda m, h: torch.tanh(h.amax(1)), 8),
    "tanh-of-gated": (lambda m, h: torch.tanh(torch.sigmoid(h[:, 1] @ m.weight) * h[:, 0]), 8),
    "softmax": (lambda m, h: h[:, 0].softmax(-1), 8),
    "relu6": (lambda m, h: functional.relu6(h[:, 0] * 1), 8),
    "leaky": (lambda m, h: functional.leaky_relu(h[:, 0] @ m.weight), 8),
    "clamp": (lambda m, h: (h[:, 0] @ m.weight).clamp(min=0), 8),
    "clamp-above": (lambda m, h: (h[:, 0] @ m.weight).clamp(0, 0.3), 8),
    "abs": (lambda m, h: (h[:, 0] @ m.weight).abs(), 8),
    "where": (lambda m, h: torch.where(h[:, 0] > 0.2, h[:, 0], h[:, 1]), 8),
    "pad": (lambda m, h: functional.pad(h[:, 0], (1, 2)), 11),
    "pad-ones": (lambda m, h: functional.pad(h[:, 0], (1, 2), value=1.0), 11),
    "flip": (lambda m, h: h.flip(1)[:, 0], 8),
    "roll": (lambda m, h: h.roll(1, 2)[:, 0], 8),
    "index": (lambda m, h: h[:, [3, 1]].flatten(1), 16),
    "stride": (lambda m, h: h[:, ::3].flatten(1), 16),
    "repeat": (lambda m, h: h[:, 0].repeat(1, 2), 16),
    "expand": (lambda m, h: h[:, :1].expand(-1, 4, -1).reshape(-1, 32), 32),
    "transposed": (lambda m, h: h.mT.flatten(1), 32),
    "transposed-product": (lambda m, h: (m.weight @ h.mT)[..., 0], 8),
    "bmm": (lambda m, h: torch.bmm(h, m.weight.expand(h.shape[0], 8, 8))[:, 0], 8),
    "einsum": (lambda m, h: torch.einsum("ntf,fg->ng", h, m.weight), 8),
    "attention": (lambda m, h: torch.bmm(h.mT, h)[:, 0], 8),
    "weights-from-data": (lambda m, h: functional.linear(h[:, 0], h[0, :, :] @ m.weight), 4),
    "cumsum": (lambda m, h: h.cumsum(1)[:, 2], 8),
    "layer-norm": (lambda m, h: functional.layer_norm(h[:, 0], (8,)), 8),
    "half": (lambda m, h: h[:, 0].half().float(), 8),
    "double": (lambda m, h: h[:, 0].double().float(), 8),
    "dropout-on": (lambda m, h: functional.dropout(h[:, 0], 0.5, training=True), 8),
    "noise": (lambda m, h: h[:, 0] + torch.rand_like(h[:, 0]), 8),
    "counter": (counted, 8),
    "write": (written, 8),
    "add-in-place": (summed_in_place, 8),
    "samples-mean": (lambda m, h: h[:, 0] + h[:, 0].mean(0), 8),
    "samples-first": (lambda m, h: h[:, 0] + h[0, 0], 8),
    "samples-flip": (lambda m, h: h[:, 0].flip(0), 8),
    "samples-roll": (lambda m, h: h[:, 0].roll(1, 0), 8),
    "samples-shared-rows": (lambda m, h: h.reshape(4, -1, 8)[0], 8),
    "samples-transposed": (lambda m, h: h.transpose(0, 1).reshape(-1, 32), 32),
    "samples-cat": (lambda m, h: torch.cat([h[:, 0], h[:, 1]], 0), 8),
    "samples-slice": (lambda m, h: h[1:, 0], 8),
    "samples-doubled": (lambda m, h: h[:, 0].repeat(2, 1), 8),
    "samples-index": (lambda m, h: h[[1, 0], 0], 8),
}


def scaled(node: ref.Node, factors: Any) -> ref.Node:
    """Multiply features by constants, as the linear map that it is."""
    return ref.linear(node, np.diag(np.broadcast_to(factors, node.size)))


def turned(m: Any, h: ref.Node) -> ref.Node:
    return ref.rearrange([h], lambda ids: np.roll(ids[0], 1, axis=1)[0])


# What the rules make of the expressions that are linear in h: h is the hidden node of shape (4, 8).
# A sum of activations splits in proportion, a scaled or subtracted one folds into the next layer.
GRAPHS: dict[str, Callable[[Any, ref.Node], ref.Node]] = {
    "addmm-alpha": lambda m, h: ref.linear(ref.take(h, 0), array(m.weight).T / 2, array(m.bias)),
    "addmm-beta": lambda m, h: ref.linear(ref.take(h, 0), array(m.weight).T, 3 * array(m.bias)),
    "add-alpha": lambda m, h: ref.add(ref.take(h, 0), scaled(ref.take(h, 1), 2)),
    "add-scalar": lambda m, h: ref.add(ref.take(h, 0), ref.constant(np.full(8, 1.5))),
    "add-parameter": lambda m, h: ref.add(ref.take(h, 0), ref.constant(array(m.bias))),
    "add-row": lambda m, h: ref.add(ref.take(h, 2), ref.take(h, 0)),
    "python-sum": lambda m, h: ref.add(*(ref.take(h, t) for t in range(4))),
    "write": lambda m, h: ref.concat([ref.zeros(4), ref.take(h, 0, slice(4, 8))]),
    "sub": lambda m, h: ref.add(ref.take(h, 0), scaled(ref.take(h, 1), -1)),
    "neg": lambda m, h: scaled(ref.take(h, 0), -1),
    "scale": lambda m, h: scaled(ref.take(h, 0), 2),
    "divide": lambda m, h: scaled(ref.take(h, 0), 0.25),
    "mask": lambda m, h: scaled(ref.take(h, 0), array(m.mask)),
    "mean": lambda m, h: scaled(ref.add(*(ref.take(h, t) for t in range(4))), 0.25),
    "sum": lambda m, h: ref.add(*(ref.take(h, t) for t in range(4))),
    "max": lambda m, h: ref.reshape(
        layers.max_pool(ref.permute(ref.linear(h, array(m.weight).T), 1, 0), 4), 8
    ),
    "max-of-relu": lambda m, h: ref.reshape(layers.max_pool(ref.permute(h, 1, 0), 4), 8),
    "sigmoid": lambda m, h: functions.sigmoid(ref.linear(ref.take(h, 0), array(m.weight).T)),
    "sigmoid-of-relu": lambda m, h: functions.sigmoid(ref.take(h, 0)),
    "tanh-of-relu": lambda m, h: functions.tanh(ref.take(h, 0)),
    "tanh-of-sum": lambda m, h: functions.tanh(ref.add(ref.take(h, 0), ref.take(h, 1))),
    "tanh-of-max": lambda m, h: functions.tanh(GRAPHS["max-of-relu"](m, h)),
    "tanh-of-gated": lambda m, h: functions.tanh(
        ref.gated(functions.sigmoid(ref.linear(ref.take(h, 1), array(m.weight).T)), ref.take(h, 0))
    ),
    "pad": lambda m, h: layers.pad(ref.take(h, 0), (1, 2)),
    "pad-ones": lambda m, h: ref.concat(
        [ref.constant(np.ones(1)), ref.take(h, 0), ref.constant(np.ones(2))]
    ),
    "bmm": lambda m, h: ref.linear(ref.take(h, 0), array(m.weight).T),
    "clamp": lambda m, h: ref.relu(ref.linear(ref.take(h, 0), array(m.weight).T)),
    "flip": lambda m, h: ref.take(h, 3),
    "roll": turned,
    "index": lambda m, h: ref.concat([ref.take(h, 3), ref.take(h, 1)]),
    "stride": lambda m, h: ref.concat([ref.take(h, 0), ref.take(h, 3)]),
    "repeat": lambda m, h: ref.concat([ref.take(h, 0), ref.take(h, 0)]),
    "expand": lambda m, h: ref.concat([ref.take(h, 0)] * 4),
    "transposed": lambda m, h: ref.reshape(ref.permute(h, 1, 0), 32),
    "transposed-product": lambda m, h: ref.linear(ref.take(h, 0), array(m.weight)),
    "cumsum": lambda m, h: ref.add(*(ref.take(h, t) for t in range(3))),
    "double": lambda m, h: ref.take(h, 0),
    "add-in-place": lambda m, h: ref.add(ref.take(h, 0), ref.take(h, 1)),
}


# What the reference has no node for; `test_differentiable` has the rule of elementwise functions.
NOT_IN_REFERENCE = ("relu6", "clamp-above", "abs", "einsum")


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_refused_or_right(name: str) -> None:
    """Whatever compiles has torch's outputs and gradients, and the reference's relevance."""
    expression, width = EXPRESSIONS[name]
    model = Expression(expression, width).eval()
    x = sample(SHAPE, 8, -1.0, 1.0)
    try:
        captured = pyrel.capture(model, x)
        explainer = pyrel.Explainer(captured, x, method="gradient", low=-1.0, high=1.0)
    except pyrel.UnsupportedModelError:
        return
    # Float32 as the user runs it, so that conversions count; no ReLU is near 0 at these inputs.
    output, gradient = torch_gradient(model, x, np.ones(len(x), np.int64))
    e = explainer(x, target=1)
    # Three short product sums: a few eps of values of order 1.
    np.testing.assert_allclose(e.output, output, rtol=1e-5, atol=1e-6)
    error = norms(e.relevance - gradient)
    assert (error <= RELATIVE * norms(gradient)).all()
    try:
        taylor = pyrel.Explainer(captured, x, method="deep_taylor", low=-1.0, high=1.0)
    except pyrel.UnsupportedModelError:
        return
    if name in NOT_IN_REFERENCE:
        found = taylor(x, target=1)
        total, start = found.relevance.sum((1, 2)) + found.absorbed, np.maximum(output[:, 1], 0)
        np.testing.assert_allclose(total, start, rtol=0, atol=RELATIVE * np.abs(output).max())
        return
    hidden = apply_relu(model.first, ref.input_node(SHAPE, -1.0, 1.0))
    graph = apply(model.out, GRAPHS[name](model, hidden))
    for target in range(3):
        assert_deep_taylor(taylor(x, target=target), explain(graph, x, "deep_taylor", target))
