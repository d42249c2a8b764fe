# SPDX-License-Identifier: Apache-2.0
"""What cannot be explained is refused with its name; nothing is explained wrongly in silence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from engine.cases import sample
from engine.checks import RELATIVE, assert_conserved, norms, target_score, torch_gradient
from torch import Tensor, nn
from torch.nn import functional

import pyrel

SHAPE = (4, 6)


class Lstm(nn.Module):
    """nn.LSTM inside a named part."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = nn.LSTM(6, 5, batch_first=True)
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.memory(x)[0][:, -1])


class Convolution(nn.Module):
    """A convolution two modules down."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Conv2d(1, 2, 3)))
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.front(x[:, None]).flatten(1))


class Squashed(nn.Module):
    """Tanh in a module that the loop calls at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.ModuleDict({"inner": nn.Sequential(nn.Linear(11, 5), nn.Tanh())})
        self.out = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 5)
        for t in range(4):
            h = self.cell["inner"](torch.cat([x[:, t], h], 1))
        return self.out(h)


class Branching(nn.Module):
    """The way through the model depends on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(24, 3), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        return self.one(flat) if flat.sum() > 10 else self.other(flat)


@pytest.mark.parametrize(
    ("make", "operator", "path"),
    [
        (Lstm, "lstm", "memory"),
        (Convolution, "conv2d", "front.1.0"),
        (Squashed, "tanh", "cell.inner.1"),
    ],
)
def test_unsupported_operator_is_named(
    make: Callable[[], nn.Module], operator: str, path: str
) -> None:
    x = sample(SHAPE, 3)
    with pytest.raises(pyrel.UnsupportedModelError) as raised:
        pyrel.Explainer(make(), x, method="gradient")
    message = str(raised.value)
    assert operator in message.lower()
    assert path in message
    for supported in ("linear", "relu", "cat"):
        assert supported in message.lower()


def test_branch_on_data_is_refused() -> None:
    with pytest.raises(pyrel.UnsupportedModelError):
        pyrel.Explainer(Branching(), sample(SHAPE, 3), method="gradient")


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
    "add-row": (lambda m, h: h + h[:, :1], 8),
    "python-sum": (lambda m, h: sum(h.unbind(1)), 8),
    "sub": (lambda m, h: h[:, 0] - h[:, 1], 8),
    "neg": (lambda m, h: -h[:, 0], 8),
    "scale": (lambda m, h: 2.0 * h[:, 0], 8),
    "divide": (lambda m, h: h[:, 0] / 4, 8),
    "mask": (lambda m, h: h[:, 0] * m.mask, 8),
    "gate": (lambda m, h: h[:, 0] * h[:, 1], 8),
    "mean": (lambda m, h: h.mean(1), 8),
    "sum": (lambda m, h: h.sum(dim=1), 8),
    "max": (lambda m, h: h.amax(1), 8),
    "sigmoid": (lambda m, h: torch.sigmoid(h[:, 0]), 8),
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


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_refused_or_right(name: str) -> None:
    """Whatever compiles has torch's outputs and gradients, and conserving relevance."""
    expression, width = EXPRESSIONS[name]
    model = Expression(expression, width).eval()
    x = sample(SHAPE, 8, -1.0, 1.0)
    try:
        explainer = pyrel.Explainer(model, x, method="gradient", low=-1.0, high=1.0)
    except pyrel.UnsupportedModelError:
        return
    assert name not in ("noise", "dropout-on", "counter"), "accepted what no weights describe"
    assert not name.startswith("samples-"), "accepted a model that mixes samples"
    target = np.ones(len(x), np.int64)
    output, gradient = torch_gradient(model.double(), x.astype(np.float64), target)
    e = explainer(x, target=1)
    # Three short product sums: a few eps of values of order 1.
    np.testing.assert_allclose(e.output, output, rtol=1e-5, atol=1e-6)
    error = norms(e.relevance - gradient)
    assert (error <= RELATIVE * norms(gradient)).all()
    try:
        taylor = pyrel.Explainer(model.float(), x, method="deep_taylor", low=-1.0, high=1.0)
    except pyrel.UnsupportedModelError:
        return
    e = taylor(x)
    assert (e.relevance >= 0).all()
    assert_conserved(e, target_score(e))


class Outputs(nn.Module):
    """A model with an unusual output."""

    def __init__(self, give: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.first, self.give = nn.Linear(6, 4), give

    def forward(self, x: Tensor) -> Any:
        return self.give(self.first(x))


@pytest.mark.parametrize(
    "give",
    [
        lambda z: (z[:, 0], z[:, 1]),
        lambda z: {"scores": z[:, 0]},
        lambda z: z,
        lambda z: z.sum(),
        lambda z: z[:, 0, None, None],
        lambda z: None,
        lambda z: 1.0,
        lambda z: z[:, 0].argmax(1),
    ],
    ids=["tuple", "dict", "sequence", "scalar", "four-axes", "none", "number", "integers"],
)
def test_other_outputs_are_refused(give: Callable[[Tensor], Any]) -> None:
    with pytest.raises((pyrel.UnsupportedModelError, ValueError, TypeError)):
        pyrel.Explainer(Outputs(give).eval(), sample(SHAPE, 3), method="gradient")


def test_two_inputs_are_refused() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x[:, 0] + y[:, 0]

    with pytest.raises((pyrel.UnsupportedModelError, ValueError, TypeError)):
        pyrel.Explainer(Two().eval(), sample(SHAPE, 3), method="gradient")


@pytest.mark.parametrize("broken", [False, True])
def test_training_mode_is_restored_in_every_part(broken: bool) -> None:
    torch.manual_seed(0)
    last: nn.Module = nn.Tanh() if broken else nn.ReLU()
    model = nn.Sequential(
        nn.Flatten(), nn.Sequential(nn.Linear(24, 5), nn.Dropout(0.9)), nn.Linear(5, 3), last
    )
    inner: Any = model[1]
    model.train()
    inner.eval()
    inner[1].train()
    modes = [part.training for part in model.modules()]
    x = sample(SHAPE, 4)
    if broken:
        with pytest.raises(pyrel.UnsupportedModelError):
            pyrel.Explainer(model, x, method="gradient")
    else:
        e = pyrel.Explainer(model, x, method="gradient")(x)
        assert [part.training for part in model.modules()] == modes
        model.eval()
        # Dropout is off while explaining: one product sum after another, a few eps.
        np.testing.assert_allclose(
            e.output, model(torch.from_numpy(x)).detach(), rtol=1e-5, atol=1e-6
        )
        return
    assert [part.training for part in model.modules()] == modes
