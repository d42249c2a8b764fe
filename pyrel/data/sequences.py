# SPDX-License-Identifier: Apache-2.0
"""Images as sequences: cut by columns into steps."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pyrel.data._checks import SIDE, checked_images, checked_steps

IMAGE_STEPS = tuple(steps for steps in range(1, SIDE + 1) if SIDE % steps == 0)
"""Numbers of steps that cut an image into equal parts: 1, 2, 4, 7, 14, 28."""


def sequence(
    images: npt.NDArray[np.uint8], steps: int, low: float = 0.0, high: float = 1.0
) -> npt.NDArray[np.float32]:
    """Cut images by columns into `steps` steps.

    Parameters
    ----------
    images : array of uint8, shape (n, 28, 28)
    steps : int
        1, 2, 4, 7, 14 or 28.
    low, high : float
        Value of a pixel of 0 and of 255; linear between. The values are the same on every machine.

    Returns
    -------
    array of float32, shape (n, steps, 28, 28 // steps), C order
        In [low, high], both rounded to float32.

    Raises
    ------
    TypeError, ValueError
        Where an argument is not as above; the message has what was given.

    Examples
    --------
    >>> images = np.zeros((10, 28, 28), np.uint8)
    >>> pyrel.data.sequence(images, steps=4).shape
    (10, 4, 28, 7)
    """
    checked_images(images)
    steps = checked_steps(steps, IMAGE_STEPS, f"equal parts of {SIDE} columns")
    table = _pixel_values(low, high)
    x = np.empty((len(images), steps, SIDE, SIDE // steps), np.float32)
    parts = images.reshape(len(images), SIDE, steps, SIDE // steps).transpose(0, 2, 1, 3)
    np.take(table, parts, out=x, mode="clip")  # the other modes buffer the output
    return x


def _pixel_values(low: float, high: float) -> npt.NDArray[np.float32]:
    """Return the table of 256 values that the pixels 0 … 255 stand for.

    Computed in float64, rounded once, exact at both ends.
    """
    low, high = float(low), float(high)
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise ValueError(f"low, high: got {low} and {high}, finite low < high is wanted")
    values = low + (high - low) * (np.arange(256) / 255)
    values[-1] = high  # high - low may have been rounded
    return values.astype(np.float32)
