# SPDX-License-Identifier: Apache-2.0
"""Standard Taylor decomposition: expand at the nearest point where the function is almost zero."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Function = Callable[[Tensor], Tensor]

# The search aims a thousandth lower than it has to, and then goes back on the way to the sample.
_AIM = 0.999
_HALVINGS = 24
# By how much the next step is longer after one that came nearer, and shorter after another.
_LONGER, _SHORTER = 1.5, 0.5


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
    start: Tensor | None = None,
) -> NearestRoot:
    """Search the nearest point ξ in [low, high] with f(ξ) < fraction · f(x), and expand there.

    Montavon et al. 2017, section 2.2 and 6.1. The search may end in another than the nearest root
    (table 1, note c). At the nearest root of a function with a continuous gradient no relevance is
    below zero (section 2.2); for a network of ReLUs the paper takes roots of smooth functions that
    come nearer and nearer to it (note b), of which each is a ``start`` for the next.

    Parameters
    ----------
    function : callable
        Differentiable; maps (n, ...) to (n,), each sample on its own.
    x : Tensor, shape (n, ...)
        In [low, high].
    low, high : float
        Range of the inputs.
    fraction : float
        In [0, 1); at 0 the function has to be below zero at a root.
    iterations : int
        At least 1; each evaluates the function and its gradient twice.
    start : Tensor, shape of ``x``, optional
        Where the search begins, in [low, high]; by default at ``x``.

    Raises
    ------
    ValueError
        ``fraction`` or ``iterations`` is out of range, ``low`` is not below ``high``, ``x`` or
        ``start`` leaves their range, ``start`` has another shape than ``x``, or the function
        returns another shape.

    Examples
    --------
    >>> x = torch.tensor([[2.0, 2.0]])
    >>> e = pyrel.experiment.nearest_root(lambda x: x.sum(1), x, low=0.0, high=2.0)
    >>> e.relevance.round(decimals=3)
    tensor([[1.8000, 1.8000]])
    """
    _check(x, (low, high), fraction, iterations, start)
    x = x.detach()
    output, _ = _with_gradient(function, x)
    search = _Search(function, x, fraction * output, (low, high))
    search.run(x if start is None else start.detach(), iterations)
    found = search.found | (output <= 0)
    root = torch.where(_each(output <= 0, x), x, search.nearest()).clamp(low, high)
    rest, gradient = _with_gradient(function, root)
    relevance = gradient * (x - root)
    relevance[~found] = torch.nan
    return NearestRoot(root, relevance, output, rest, found)


def _check(
    x: Tensor,
    ends: tuple[float, float],
    fraction: float,
    iterations: int,
    start: Tensor | None,
) -> None:
    if not 0 <= fraction < 1 or iterations < 1:
        raise ValueError(
            f"fraction, iterations: wanted one in [0, 1) and one from 1 on, given {fraction} and "
            f"{iterations}"
        )
    low, high = ends
    if not low < high:
        raise ValueError(f"low, high: wanted low < high, given {low} and {high}")
    if start is not None and start.shape != x.shape:
        raise ValueError(f"start: wanted shape {tuple(x.shape)}, given {tuple(start.shape)}")
    for name, given in (("x", x), ("start", x if start is None else start)):
        if not ((given >= low) & (given <= high)).all():
            raise ValueError(f"{name}: wanted numbers in [{low}, {high}]")


class _Search:
    """The nearest points met at which the function is small enough, and the way to nearer ones.

    Each iteration takes the function for linear around the nearest of these, goes a part of the way
    to the point nearest to the sample at which that is small enough, and from there down the
    gradient until the function is. At the end it is moved towards the sample as far as f stays
    small.
    """

    def __init__(
        self, function: Function, x: Tensor, enough: Tensor, ends: tuple[float, float]
    ) -> None:
        self.function, self.x, self.enough, self.ends = function, x, enough, ends
        self.best, self.distance = x.clone(), torch.full_like(enough, torch.inf)
        self._value, self._gradient = torch.zeros_like(enough), torch.zeros_like(x)
        self._part = torch.full_like(enough, 0.5)  # of the way, that a step goes

    @property
    def found(self) -> Tensor:
        return torch.isfinite(self.distance)

    def run(self, point: Tensor, iterations: int) -> None:
        for _ in range(iterations):
            lowered = self._lowered(point)
            self._note(*lowered)
            fall = self._value + _inner(self._gradient, self.x - self.best) - _AIM * self.enough
            towards = self._step(self.x, self._gradient, fall) - self.best
            nearer = self.best + _each(self._part, point) * towards
            point = torch.where(_each(self.found, point), nearer, lowered[0])

    def _lowered(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Take a step of Newton's method down to the aim where f is not small, for f and g there.

        That keeps what a step along the linear function loses by the curvature of f.
        """
        value, gradient = _with_gradient(self.function, point)
        down = self._step(point, gradient, value - _AIM * self.enough)
        point = torch.where(_each(value < self.enough, point), point, down)
        return point, *_with_gradient(self.function, point)

    def _note(self, point: Tensor, value: Tensor, gradient: Tensor) -> None:
        distance = (point - self.x).flatten(1).norm(dim=1)
        better = (value < self.enough) & (distance < self.distance)
        longer = (_LONGER * self._part).clamp(max=1)
        changed = torch.where(better, longer, _SHORTER * self._part)
        self._part = torch.where(self.found, changed, self._part)
        self.best[better], self.distance[better] = point[better], distance[better]
        self._value[better], self._gradient[better] = value[better], gradient[better]

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

    def _step(self, start: Tensor, gradient: Tensor, fall: Tensor) -> Tensor:
        """Return the point of the box nearest to a start at which g · (start − point) is ``fall``.

        That is start − λ g, held to the box; its corner where the box is too small for the fall. An
        element moves by λ |g| until it reaches the box, so the fall grows by pieces. Where the fall
        is below 0 it is the start.
        """
        low, high = self.ends
        fall = fall.clamp(min=0)
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
        # Without a slope there is no fall to be had.
        length = (fall[:, None] - before) / squares.gather(1, piece)
        length = torch.where(squares[:, :1] > 0, length, 0.0)
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
