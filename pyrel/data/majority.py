# SPDX-License-Identifier: Apache-2.0
"""The majority problem: three images side by side, two of one class, one of another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyrel.data._checks import SIDE, checked_images, checked_labels, checked_steps
from pyrel.data._random import Draws
from pyrel.data.sequences import IMAGE_STEPS, sequence

_IMAGES = 3
_ORDERS = np.array([(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])


@dataclass(frozen=True)
class MajoritySamples:
    """Samples of the majority problem; sample i has image i as one of its majority images.

    Attributes
    ----------
    x : array of float32, shape (n, steps, 28, 84 // steps)
        In [0, 1].
    y : array of int64, shape (n,)
        The majority class, which is the class of image i.
    relevant : array of bool, shape (n, steps)
        The steps that show one of the two majority images; two thirds of them in every sample.
    digits : array of int64, shape (n, 3)
        The classes of the three images from left to right; the one that is not y is the minority.
    """

    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int64]
    relevant: npt.NDArray[np.bool_]
    digits: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.y)


def majority(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.integer], seed: int, steps: int = 12
) -> MajoritySamples:
    """Make one sample of each image: with one more of its class and one of another class.

    The three are put side by side in random order, 28×84 pixels, and cut by columns into steps, as
    in experiment 2 of the thesis "Designing Recurrent Neural Networks for Explainability" (section
    4.5.1). All choices are uniform: the second image over the other images of the class, the third
    over all images of the other classes, the order over the six. Same arguments, same samples, on
    every machine.

    Parameters
    ----------
    images : array of uint8, shape (n, 28, 28)
    labels : array of integers, shape (n,)
        Two classes or more, two images or more in each.
    seed : int
        At least 0.
    steps : int
        3, 6, 12, 21, 42 or 84: those that let no step straddle two images.

    Returns
    -------
    MajoritySamples
        As many as there are images, in their order.

    Raises
    ------
    TypeError, ValueError
        Where an argument is not as above; the message has what was given.

    Examples
    --------
    >>> images, labels = pyrel.data.load_images("mnist-mini", "test")
    >>> samples = pyrel.data.majority(images, labels, seed=0)
    >>> samples.x.shape, samples.relevant.mean().round(3)
    ((1000, 12, 28, 7), np.float64(0.667))
    """
    checked_images(images)
    labels = checked_labels(labels, len(images))
    reason = f"equal parts of {_IMAGES * SIDE} columns, none across the border of two images"
    steps = checked_steps(steps, tuple(_IMAGES * part for part in IMAGE_STEPS), reason)
    chosen = _choose(labels, Draws(seed))
    digits = labels[chosen]
    parts = sequence(images, steps // _IMAGES)
    return MajoritySamples(
        x=parts[chosen].reshape(len(images), steps, *parts.shape[2:]),
        y=labels,
        relevant=np.repeat(digits == labels[:, None], steps // _IMAGES, axis=1),
        digits=digits,
    )


def _choose(labels: npt.NDArray[np.int64], draws: Draws) -> npt.NDArray[np.int64]:
    """Return the indices of the three images of each sample, left to right, shape (n, 3)."""
    n = len(labels)
    classes, index, counts = np.unique(labels, return_inverse=True, return_counts=True)
    _check_classes(classes, counts)
    by_class = np.argsort(labels, kind="stable")
    first = (np.cumsum(counts) - counts)[index]  # where the class begins in by_class
    count = counts[index]
    own = np.empty(n, np.int64)
    own[by_class] = np.arange(n)

    same = first + draws.below(count - 1)
    same += same >= own
    other = draws.below(n - count)
    other += np.where(other >= first, count, 0)
    trio = np.stack([np.arange(n), by_class[same], by_class[other]], axis=1)
    order = _ORDERS[draws.below(np.full(n, len(_ORDERS)))]
    return np.take_along_axis(trio, order, axis=1)


def _check_classes(classes: npt.NDArray[np.int64], counts: npt.NDArray[np.integer]) -> None:
    if len(classes) == 1:
        raise ValueError(f"labels: got the class {classes[0]} only, two classes or more are wanted")
    if np.any(counts == 1):
        alone = ", ".join(str(c) for c in classes[counts == 1])
        raise ValueError(
            f"labels: got one image only of class {alone}, two or more of each class are wanted"
        )
