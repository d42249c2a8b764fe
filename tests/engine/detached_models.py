# SPDX-License-Identifier: Apache-2.0
"""Models that stop or replace gradients, each around one forward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

STEPS, FEATURES, WIDTH, CLASSES = 5, 4, 6, 3

Forward = Callable[[Any, Tensor], Tensor]


class Branch(nn.Module):
    """A layer whose own forward pass turns gradients off."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(FEATURES, WIDTH)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer(x))


class Model(nn.Module):
    """Layers, and the forward pass that it is given."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.given = forward
        self.first, self.second = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.core = nn.LSTM(FEATURES, WIDTH, batch_first=True)
        self.cell = nn.GRUCell(FEATURES, WIDTH)
        self.branch = Branch()
        self.out = nn.Linear(WIDTH, CLASSES)

    def last(self, x: Tensor) -> Tensor:
        return self.core(x)[0][:, -1]

    def level(self, x: Tensor) -> Tensor:
        return torch.tanh(self.first(x)).mean(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.given(self, x))


class Together(Model):
    """An output for each of some forward passes, as an export takes longer than the rest."""

    def __init__(self, *forwards: Forward) -> None:
        super().__init__(forwards[0])
        self.each = forwards

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.out(given(self, x))[:, 0] for given in self.each], 1)


class Reversal(torch.autograd.Function):
    """Gradient reversal."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Identity(torch.autograd.Function):
    """Gradient reversal, of which no operator is left in an exported graph."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return -gradient


class Surrogate(torch.autograd.Function):
    """A tanh with the gradient of another function, by `setup_context`."""

    @staticmethod
    def forward(x: Tensor, slope: float) -> Tensor:
        return torch.tanh(slope * x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.slope = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.slope * gradient, None


applied = Reversal.apply  # under another name


def no_grad_block(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        h = m.last(x)
    return h * torch.sigmoid(m.last(x))


def inference_block(m: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        h = torch.tanh(m.first(x))
    return m.level(x) + h.mean(1)


def gradients_off_and_on(m: Any, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    h = torch.tanh(m.first(x))
    torch.set_grad_enabled(True)
    return m.level(x) + h.mean(1)


def on_again_inside(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        with torch.enable_grad():
            h = torch.tanh(m.first(x))
        g = torch.sigmoid(m.first(x))
    return (h * g).mean(1)


def gives_back_its_operand(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x))
    with torch.no_grad():
        g = functional.dropout(h.to(h.dtype).contiguous(), 0.5, m.training)
    return (g * h).mean(1)


def a_view_in_a_block(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x))
    with torch.no_grad():
        g = h[:, 0]
    return g * h[:, 1]


def written_in_a_block(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x))
    buffer = x.new_zeros(x.shape[0], 3, WIDTH)
    with torch.no_grad():
        buffer[:, 0] = h[:, 0]
    buffer[:, 1] = h[:, 1]
    return buffer.sum(1)


def unread_after_a_write(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    with torch.no_grad():
        h[:, 0] = 0
    return h[:, 1]


def detached_and_written(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x)).detach()
    h.mul_(2)
    return (h * m.first(x)).mean(1)


def detached_in_place(m: Any, x: Tensor) -> Tensor:
    h = m.first(x[:, 0])
    g = 2 * h
    h.detach_()
    return g + h


def truncated(m: Any, x: Tensor) -> Tensor:
    h = x.new_zeros(x.shape[0], WIDTH)
    for t, step in enumerate(x.unbind(1)):
        if t == 3:
            h = h.detach()
        h = m.cell(step, h)
    return h


def a_leaf(m: Any, x: Tensor) -> Tensor:
    h = x.clone().detach().requires_grad_()
    return torch.tanh(m.first(h + 0.5 * x)).mean(1)


def a_parameter(m: Any, x: Tensor) -> Tensor:
    return torch.tanh(m.first(nn.Parameter(x) * x)).mean(1)


def parameters_in_a_block(m: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        weight = m.first.weight / m.first.weight.norm()
    return torch.tanh(functional.linear(x, weight)).mean(1)


def normalised_by_a_constant(m: Any, x: Tensor) -> Tensor:
    h = m.level(x)
    scale = functional.softplus(h.mean(1, keepdim=True)).detach()
    return (h - h.mean(1, keepdim=True)) * scale


def half_detached(m: Any, x: Tensor) -> Tensor:
    h = m.first(x).mean(1)
    product = 0.5 * torch.sigmoid(m.level(x)) * h
    return product + product.detach()


def silu_by_rule(m: Any, x: Tensor) -> Tensor:
    z = m.first(x)
    return (z * torch.sigmoid(z).detach()).mean(1)  # sigmoid(z) is silu(z) / z


# Torch autograd differentiates these, and pyrel must give the same. T stays open but for loops.
STOPPED: dict[str, Forward] = {
    "detach": lambda m, x: m.last(x - x[:, -1:].detach()),
    "data": lambda m, x: torch.tanh(m.first(x * x.data)).mean(1),
    "detach in a sum": lambda m, x: m.last(x) + torch.tanh(m.first(x)).mean(1).detach(),
    "everything": lambda m, x: m.level(x).detach(),
    "sub-module": lambda m, x: m.level(x) * m.branch(x).mean(1),
    "no longer required": lambda m, x: m.level(x) * m.level(x).detach().requires_grad_(False),
    "function of parameters": lambda m, x: functional.linear(
        m.level(x), Reversal.apply(m.second.weight)
    ),
    "function, then detach": lambda m, x: m.level(x) * Reversal.apply(m.level(x)).detach(),
    "detach, then function": lambda m, x: m.level(x) * Reversal.apply(m.level(x).detach()),
    "checkpoint": lambda m, x: checkpoint(m.level, x, use_reentrant=False),
    "old checkpoint": lambda m, x: checkpoint(m.last, x, use_reentrant=True),
    **{
        function.__name__: function
        for function in (
            no_grad_block,
            inference_block,
            gradients_off_and_on,
            on_again_inside,
            gives_back_its_operand,
            a_view_in_a_block,
            written_in_a_block,
            unread_after_a_write,
            detached_and_written,
            detached_in_place,
            truncated,
            a_leaf,
            a_parameter,
            parameters_in_a_block,
            normalised_by_a_constant,
            half_detached,
            silu_by_rule,
        )
    },
}


def hooked(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x)).mean(1)
    h.register_hook(lambda gradient: 2 * gradient)
    return h


def input_hooked(m: Any, x: Tensor) -> Tensor:
    if x.requires_grad:
        x.register_hook(lambda gradient: 2 * gradient)
    return m.level(x)


def function_hooked(m: Any, x: Tensor) -> Tensor:
    h = m.level(x)
    if h.grad_fn is not None:
        h.grad_fn.register_hook(lambda before, after: before)
    return h


def clamped_in_a_block(m: Any, x: Tensor) -> Tensor:
    h = m.first(x)
    with torch.no_grad():
        functional.relu(h, inplace=True)
    return h.mean(1)


def zeroed_in_a_block(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x))
    with torch.no_grad():
        h[:, 0] = 0
    return (h * h).mean(1)


def zeroed(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x))
    h[:, 0] = 0
    return (h * h).mean(1)


def doubled(m: Any, x: Tensor) -> Tensor:
    h = 2 * torch.tanh(m.first(x))
    return (h * h).mean(1)


def data_written(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x))
    h.data.mul_(2)
    return (h * h).mean(1)


def data_replaced(m: Any, x: Tensor) -> Tensor:
    h = torch.tanh(m.first(x))
    h.data = 2 * h.data
    return (h * h).mean(1)


# What changes gradients unseen: (the model's forward pass, what the refusal names, the same
# forward pass without it).
CUSTOM: dict[str, tuple[Forward, str, Forward]] = {
    "reversal": (lambda m, x: Reversal.apply(m.level(x)), "detached_models.Reversal", Model.level),
    "by another name": (lambda m, x: applied(m.level(x)), "Reversal", Model.level),
    "no operator": (lambda m, x: Identity.apply(m.level(x)), "Identity", Model.level),
    "surrogate": (
        lambda m, x: Surrogate.apply(m.level(x), 2.0),
        "Surrogate",
        lambda m, x: torch.tanh(2.0 * m.level(x)),
    ),
    "hook": (hooked, "hooked.<locals>.<lambda>", lambda m, x: torch.tanh(m.first(x)).mean(1)),
    "hook of a function": (function_hooked, "function_hooked.<locals>.<lambda>", Model.level),
    "relu in a block": (
        clamped_in_a_block,
        "aten.relu_ under no_grad",
        lambda m, x: torch.relu(m.first(x)).mean(1),
    ),
    "zeros in a block": (zeroed_in_a_block, "aten.fill_ under no_grad", zeroed),
    "data written": (data_written, "aten.mul_ on a detached tensor", doubled),
    "data replaced": (data_replaced, "aten.copy_ on a detached tensor", doubled),
}
