# SPDX-License-Identifier: Apache-2.0
"""The two-digit problem: to tell whether one of two digits side by side is a wanted one."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyrel.data._checks import SIDE, checked_images, checked_labels
from pyrel.data._random import Draws
from pyrel.data.sequences import _pixel_values

WANTED = (0, 1, 2, 3)
"""The digits that the paper asks for."""


@dataclass(frozen=True)
class TwoDigitSamples:
    """Samples of the two-digit problem.

    Attributes
    ----------
    x : array of float32, shape (n, 28, 56)
        In [low, high].
    y : array of bool, shape (n,)
        Whether one of the two digits, or both, is wanted.
    relevant : array of bool, shape (n, 2)
        Which of the two are wanted, left and right.
    digits : array of int64, shape (n, 2)
        The classes of the two images, left and right.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.bool_]
    relevant: npt.NDArray[np.bool_]
    digits: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.y)


def two_digits(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.integer],
    count: int,
    seed: int,
    *,
    shift: int = 0,
    wanted: Sequence[int] = WANTED,
    low: float = -0.5,
    high: float = 1.5,
) -> TwoDigitSamples:
    """Put two images side by side, 28×56 pixels, drawn at random and independently.

    The problem of section 6.1 of Montavon et al. 2017: is a digit 0 to 3 there? All choices are
    uniform: the images, and their translation down and to the right over the whole numbers from
    −shift to shift, which fills up with 0. Same arguments, same samples, on every machine.

    Parameters
    ----------
    images : array of uint8, shape (m, 28, 28)
    labels : array of integers, shape (m,)
    count : int
        Number of samples, at least 0.
    seed : int
        At least 0.
    shift : int
        Largest translation in pixels, from 0 to 27.
    wanted : sequence of int
        The classes to look for.
    low, high : float
        Value of a pixel of 0 and of 255.

    Raises
    ------
    TypeError, ValueError
        Where an argument is not as above; the message has what was given.

    Examples
    --------
    >>> images, labels = pyrel.data.load_images("mnist-mini", "test")
    >>> samples = pyrel.data.two_digits(images, labels, 1000, seed=0)
    >>> samples.x.shape, samples.y.mean().round(2)
    ((1000, 28, 56), np.float64(0.64))
    """
    checked_images(images)
    labels = checked_labels(labels, len(images))
    count, shift = _checked("count", count, None), _checked("shift", shift, SIDE - 1)
    if count and not len(images):
        raise ValueError("images: got none, one at least is wanted")
    draws = Draws(seed)
    chosen = draws.below(np.full(2 * count, len(images)))
    moves = draws.below(np.full(4 * count, 2 * shift + 1)).reshape(2, 2 * count)
    pixels = _side_by_side(_translated(images[chosen], shift, moves))
    digits = labels[chosen].reshape(count, 2)
    relevant: npt.NDArray[np.bool_] = np.isin(digits, np.asarray(wanted))
    x = _pixel_values(low, high)[pixels]
    return TwoDigitSamples(x, np.asarray(relevant.any(axis=1)), relevant, digits)


def _side_by_side(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Join each two images, one after the other in the array, to one of twice the width."""
    pairs = images.reshape(-1, 2, SIDE, SIDE).transpose(0, 2, 1, 3)
    return pairs.reshape(-1, SIDE, 2 * SIDE)


def _translated(
    images: npt.NDArray[np.uint8], shift: int, moves: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """Move images by ``moves`` − shift pixels down and to the right, (2, n)."""
    if not shift:
        return images
    padded = np.pad(images, [(0, 0), (shift, shift), (shift, shift)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), axis=(1, 2))
    down, right = 2 * shift - moves  # a window that begins further down shows the image further up
    return np.asarray(windows[np.arange(len(images)), down, right])


def _checked(name: str, value: int, most: int | None) -> int:
    try:
        whole = operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: got {type(value).__name__}, an integer is wanted") from None
    if whole < 0 or (most is not None and whole > most):
        end = "at least 0" if most is None else f"0 to {most}"
        raise ValueError(f"{name}: got {whole}, {end} is wanted")
    return whole
