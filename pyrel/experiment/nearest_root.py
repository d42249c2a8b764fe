# SPDX-License-Identifier: Apache-2.0
"""Standard Taylor decomposition: expand at the nearest point where the function is almost zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

# The search aims a tenth lower than it has to, and then goes back on the way to the sample.
_AIM = 0.9
_HALVINGS = 24


@dataclass(frozen=True, eq=False)
class NearestRoot:
    """A point near each sample, and the Taylor decomposition of the function there.

    Attributes
    ----------
    root : Tensor, shape (n, ...)
        Where f < fraction · f(x); the sample itself where f(x) is not positive, or nothing was
        found.
    relevance : Tensor, shape (n, ...)
        Gradient at the root times the difference of sample and root (equation 5); NaN where no
        root was found.
    output, rest : Tensor, shape (n,)
        f at the sample and at the root.
    found : bool Tensor, shape (n,)
        Whether there is a root; also where f(x) is not positive.
    """

    root: Tensor
    relevance: Tensor
    output: Tensor
    rest: Tensor
    found: Tensor


def nearest_root(
    function: Function,
    x: Tensor,
    *,
    low: float,
    high: float,
    fraction: float = 0.1,
    iterations: int = 40,
) -> NearestRoot:
    """Search the nearest point ξ in [low, high] with f(ξ) < fraction · f(x), and expand there.

    Montavon et al. 2017, section 2.2 and 6.1. Each iteration takes the function for linear around ξ
    and goes halfway to the point nearest to ``x`` at which that is small enough; of all points met,
    the nearest one is kept, and moved towards ``x`` as far as f stays small. The search may end in
    another than the nearest root, as the paper says of it (table 1, note c).

    Parameters
    ----------
    function : callable
        Differentiable; maps (n, ...) to (n,), each sample on its own.
    x : Tensor, shape (n, ...)
        In [low, high].
    low, high : float
        Range of the inputs.
    fraction : float
        In [0, 1).
    iterations : int
        At least 1.

    Raises
    ------
    ValueError
        ``fraction`` or ``iterations`` is out of range, or the function returns another shape.
    """
    if not 0 <= fraction < 1 or iterations < 1:
        raise ValueError(
            f"fraction, iterations: wanted one in [0, 1) and one from 1 on, given {fraction} and "
            f"{iterations}"
        )
    x = x.detach()
    output, _ = _with_gradient(function, x)
    enough = fraction * output
    search = _Search(function, x, enough, (low, high))
    search.run(iterations)
    found = search.found | (output <= 0)
    root = search.nearest()
    rest, gradient = _with_gradient(function, root)
    relevance = gradient * (x - root)
    relevance[~found] = torch.nan
    return NearestRoot(root, relevance, output, rest, found)


class _Search:
    """Points on the way, and the nearest of those where the function is small enough."""

    def __init__(
        self, function: Function, x: Tensor, enough: Tensor, ends: tuple[float, float]
    ) -> None:
        self.function, self.x, self.enough, self.ends = function, x, enough, ends
        self.best, self.distance = x.clone(), torch.full_like(enough, torch.inf)

    @property
    def found(self) -> Tensor:
        return torch.isfinite(self.distance)

    def run(self, iterations: int) -> None:
        point = self.x
        for _ in range(iterations):
            value, gradient = _with_gradient(self.function, point)
            self._note(point, value)
            # From where to step: on from the point, or from the sample anew where it is a root.
            small = value < self.enough
            start = torch.where(_each(small, point), self.x, point)
            # By how much the linear function has to fall there.
            fall = value + _inner(gradient, start - point) - _AIM * self.enough
            towards = self._step(start, gradient, fall)
            point = torch.where(_each(small, point), (point + towards) / 2, towards)
        self._note(point, self.function(point).detach())

    def nearest(self) -> Tensor:
        """Return the best points, moved towards the samples as far as f stays small enough."""
        way = self.best - self.x
        close = torch.zeros_like(self.enough)
        far = torch.ones_like(self.enough)
        for _ in range(_HALVINGS):
            middle = (close + far) / 2
            small = self.function(self.x + _each(middle, way) * way).detach() < self.enough
            far = torch.where(small, middle, far)
            close = torch.where(small, close, middle)
        return self.x + _each(far, way) * way

    def _note(self, point: Tensor, value: Tensor) -> None:
        distance = (point - self.x).flatten(1).norm(dim=1)
        better = (value < self.enough) & (distance < self.distance)
        self.best[better] = point[better]
        self.distance[better] = distance[better]

    def _step(self, start: Tensor, gradient: Tensor, fall: Tensor) -> Tensor:
        """Return the point of the box nearest to a start at which g · (start − point) is ``fall``.

        That is start − λ g, held to the box; its corner where the box is too small for the fall. An
        element moves by λ |g| until it reaches the box, so the fall grows by pieces.
        """
        low, high = self.ends
        slope, rows = gradient.flatten(1).abs(), start.flatten(1)
        room = torch.where(gradient.flatten(1) > 0, rows - low, high - rows)
        at, order = torch.where(slope > 0, room / slope, 0.0).sort(dim=1)
        slope, room = slope.gather(1, order), room.gather(1, order)
        ended = (slope * room).cumsum(1)
        squares = (slope**2).flip(1).cumsum(1).flip(1)
        moving = torch.cat([squares[:, 1:], torch.zeros_like(squares[:, :1])], 1)
        grown = ended + at * moving
        piece = (grown < fall[:, None]).sum(1, keepdim=True)
        last = piece == slope.shape[1]
        piece = piece.clamp(max=slope.shape[1] - 1)
        before = (ended - slope * room).gather(1, piece)
        length = (fall[:, None] - before) / squares.gather(1, piece)
        length = torch.where(last, at[:, -1:], length)
        return (start - _each(length, gradient) * gradient).clamp(low, high)


def _with_gradient(function: Function, x: Tensor) -> tuple[Tensor, Tensor]:
    given = x.detach().requires_grad_()
    with torch.enable_grad():
        value = function(given)
        if value.shape != x.shape[:1]:
            raise ValueError(
                f"function: wanted values of shape ({len(x)},), given {tuple(value.shape)}"
            )
        (gradient,) = torch.autograd.grad(value.sum(), given)
    return value.detach(), gradient


def _inner(left: Tensor, right: Tensor) -> Tensor:
    return (left * right).flatten(1).sum(1)


def _each(factor: Tensor, like: Tensor) -> Tensor:
    """Give a number for each sample the axes of samples."""
    return factor.reshape(-1, *[1] * (like.dim() - 1))
