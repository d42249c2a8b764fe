# SPDX-License-Identifier: Apache-2.0
"""Models that make masks of the ids of their tokens, 0 being padding."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

ROWS, UNITS = 7, 5


class Masked(nn.Module):
    """Embeds tokens, masks what becomes of them, and scores it."""

    bounded = True  # whether deep Taylor takes it
    as_alone = True  # whether padding at the end changes nothing

    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(ROWS, UNITS), nn.Linear(UNITS, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(self.table(x), x)

    def scores(self, e: Tensor, x: Tensor) -> Tensor:
        """Score embedded tokens, (n, T, units)."""
        return self.out(self.pooled(e, x))

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError


def reference(model: Masked, x: Any, target: Any) -> tuple[Any, Any]:
    """Outputs, and autograd's gradients summed over the dimensions of the embedding."""
    model = copy.deepcopy(model).double()
    ids = torch.from_numpy(x)
    e = model.table(ids).detach().requires_grad_()
    out = model.scores(e, ids)
    chosen = out.gather(1, torch.as_tensor(target)[:, None]).sum()
    (gradient,) = torch.autograd.grad(chosen, e)
    return out.detach().numpy(), gradient.sum(-1).numpy()


class Times(Masked):
    """A sum of embeddings times a mask of booleans."""

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        return (e * x.ne(0).unsqueeze(-1)).sum(1)


class Weighted(Masked):
    """Weights of several values, also below zero, computed of the mask and of the ids."""

    as_alone = False

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        m = ((x > 0) & ~(x == 4)).to(e.dtype)
        kinds = [5 * m - 1 + (x <= 0), 1 - m, x.float() * m, m.half(), m / 2]
        weighted = torch.tanh(e * torch.stack(kinds, -1)).sum(1)
        return weighted - (1 - m).sum(1)[:, None]


class Layers(Masked):
    """Recurrent layers, whose states are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.core = nn.LSTM(UNITS, UNITS, batch_first=True)

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        return self.reduced(self.core(e)[0], x)

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        raise NotImplementedError


class Mean(Layers):
    """The mean of the states that are not masked."""

    bounded = False

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        m = (x != 0).unsqueeze(-1).to(h.dtype)
        return (h * m).sum(1) / m.sum(1).clamp(min=1)


class Inverse(Layers):
    """The same by a reciprocal of a number of whole ones, without gradients for the mask."""

    bounded = False

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        with torch.no_grad():
            m = x.bool()
            count = torch.maximum(m.sum(1, keepdim=True), torch.tensor(1))
        return h.masked_fill(~m[..., None], 0.0).sum(1) * (1.0 / count)


class Largest(Layers):
    """The largest of the states that are not masked."""

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        return h.masked_fill((x == 0).unsqueeze(-1), -1e9).amax(1)


class Chosen(Layers):
    """States, or else the embeddings, or else a constant, by masks."""

    as_alone = False

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        h = torch.where(x[..., None] < 4, self.core(e)[0], e)
        return h.masked_fill(x[..., None] == 0, 0.5).mean(1)


class Both(Layers):
    """Masks of two ids, multiplied."""

    as_alone = False

    def reduced(self, h: Tensor, x: Tensor) -> Tensor:
        m = (x != 0).float()
        both = m[:, 1:] * m[:, :-1]
        return (h[:, 1:] * both[..., None]).sum(1)


class Steps(Masked):
    """A cell in a loop that carries its state over padding."""

    def __init__(self) -> None:
        super().__init__()
        self.cell: nn.Module = nn.LSTMCell(UNITS, UNITS)

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        h = c = e.new_zeros(x.shape[0], UNITS)
        for t in range(x.shape[1]):
            m = (x[:, t] != 0).to(e.dtype)[:, None]
            new, cell = self.cell(e[:, t], (h, c))
            h, c = m * new + (1 - m) * h, m * cell + (1 - m) * c
        return h


class ReluSteps(Steps):
    """The same with states that are not below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.RNNCell(UNITS, UNITS, nonlinearity="relu")

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        h, m = e.new_zeros(x.shape[0], UNITS), x.gt(0)
        for t in range(x.shape[1]):
            h = torch.where(m[:, t, None], self.cell(e[:, t], h), h)
        return h


class GruSteps(Steps):
    """The same with a GRU, in another form."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(UNITS, UNITS)

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        h = e.new_zeros(x.shape[0], UNITS)
        for t in range(x.shape[1]):
            h = h + (x[:, t, None] != 0) * (self.cell(e[:, t], h) - h)
        return h


class Gated(Masked):
    """Pre-activations that are masked, and added up."""

    bounded = False

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.other = nn.Linear(UNITS, UNITS), nn.Linear(UNITS, UNITS)

    def pooled(self, e: Tensor, x: Tensor) -> Tensor:
        m = (x != 0).float()[..., None]
        h = torch.relu(self.inner(e) * m + self.other(e) * (x > 2)[..., None] + 0.1)
        return (h * m).sum(1)


MODELS = (
    Times,
    Weighted,
    Mean,
    Inverse,
    Largest,
    Chosen,
    Both,
    Steps,
    ReluSteps,
    GruSteps,
    Gated,
)
