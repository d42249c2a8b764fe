# SPDX-License-Identifier: Apache-2.0
"""Whether rounding explains that a program's numbers differ from what they are compared with."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.given_inputs import Doubles, Finish
from pyrel.engine.model_reference import DRAWS, NoCopyError, Reference
from pyrel.engine.model_run import Answer
from pyrel.engine.rounding import LAMBDA, TINY, Roundoff


class Request(NamedTuple):
    """Samples, classes, and how a map is computed from gradients."""

    x: Float32s
    targets: Int64s
    finish: Finish | None


class Part(NamedTuple):
    """A part of an answer: the program's values, where an answer has its own, and the roundoff.

    Differences up to ``floor``, one for each sample, are those of slopes that nearly are 0.
    """

    values: Doubles
    of: Callable[[Answer], Doubles]
    roundoff: Roundoff
    floor: Doubles | float = 0.0


class Difference(NamedTuple):
    """The number that is furthest off: its index, both values, and what rounding explains."""

    where: tuple[int, ...]
    value: float
    wanted: float
    allowed: float
    off: int
    of: int
    undecided: str

    def __str__(self) -> str:
        """Say by how much; the index and whose numbers these are go before."""
        return (
            f"they differ by {abs(self.value - self.wanted):.2g}, and rounding explains "
            f"{self.allowed:.2g}. {self.off} of {self.of} numbers are off{self.undecided}"
        )


class Undecided(NamedTuple):
    """The sample that rounding moves most, and by what share of its largest number."""

    sample: int
    share: float


def difference(
    reference: Reference, request: Request, part: Part, answer: Answer
) -> Difference | Undecided | None:
    """Find a difference that rounding does not explain.

    Differences up to `Roundoff.usual`, relative to a sample's largest value, are explained. Beyond,
    what is exact in float64 is asked: errors may be as large as those of the reference's own
    float32, `LAMBDA` times; or as large as what rounding, drawn at random, moves. Where that is a
    large share of the sample's largest number, as in a map that is chaotic, draws do not tell how
    far another rounding is off: then nothing is decided about the sample, unless it is off by far
    more than any draw.

    Parameters
    ----------
    reference : Reference
    request : Request
    part : Part
    answer : Answer
        Of the reference.

    Returns
    -------
    Difference or Undecided or None
    """
    wanted = part.of(answer)
    relative, floor = part.roundoff.usual, part.floor + TINY
    allowed = relative * _largest(wanted) + floor
    if _within(part.values, wanted, allowed):
        return None
    try:
        exact = part.of(reference.exact(*request))
        allowed = relative * _largest(exact) + LAMBDA * _largest(wanted - exact) + floor
        if _within(part.values, exact, allowed):
            return None
        return _decided(reference, request, part, exact, allowed)
    except NoCopyError as error:
        undecided = f"; no copy of the model runs in float64, which would decide: {error}"
        return _furthest(part.values, wanted, allowed, undecided)


def _decided(
    reference: Reference, request: Request, part: Part, exact: Doubles, least: Doubles
) -> Difference | Undecided | None:
    """Draw roundings until they explain a difference; or enough of them, to say that none does."""
    allowed = least
    with contextlib.closing(reference.moves(*request, part.of, exact, part.roundoff)) as drawn:
        for count, moves in enumerate(drawn, 1):
            allowed = np.maximum(least, moves)
            if _within(part.values, exact, allowed):
                return None
            shares = moves / np.maximum(_largest(exact), TINY)
            far = np.where(shares >= _CHAOTIC, _FAR, 1.0)
            if count >= DRAWS and _within(part.values, exact, far * allowed):
                return Undecided(int(shares.argmax()), float(shares.max()))
    return _furthest(part.values, exact, allowed)


_CHAOTIC = 0.1  # of the largest number
_FAR = 1e3  # gradients of chaotic maps are of very different sizes


def _furthest(
    values: Doubles, wanted: Doubles, allowed: Doubles, undecided: str = ""
) -> Difference:
    error = np.abs(values - wanted)
    error = np.where(np.isfinite(error), error, np.inf)
    beyond = error - allowed
    index = tuple(int(i) for i in np.unravel_index(int(beyond.argmax()), error.shape))
    bound = float(np.broadcast_to(allowed, error.shape)[index])
    off = int((beyond > 0).sum())
    return Difference(
        index, float(values[index]), float(wanted[index]), bound, off, error.size, undecided
    )


def _largest(values: Doubles) -> Doubles:
    """Largest size of each sample's values, shape (n, 1, ...)."""
    axes = tuple(range(1, values.ndim))
    return np.asarray(np.abs(values).max(axis=axes, keepdims=True))


def _within(values: Doubles, wanted: Doubles, allowed: Doubles) -> bool:
    # What overflows float32 is infinite in a program; a call refuses it.
    over = np.abs(wanted) > np.finfo(np.float32).max
    wanted = np.where(over, np.copysign(np.inf, wanted), wanted)
    with np.errstate(invalid="ignore"):
        close = np.abs(values - wanted) <= allowed
    return bool((close | (values == wanted)).all())
