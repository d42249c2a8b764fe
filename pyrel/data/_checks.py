# SPDX-License-Identifier: Apache-2.0
"""Checks of arguments that several functions of this package share."""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt

SIDE = 28
"""Height and width of an image in pixels."""


def checked_images(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Return `images` if they are uint8 of shape (n, 28, 28), else raise."""
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise TypeError(f"images: got {_kind(images)}, a numpy array of uint8 is wanted")
    if images.ndim != 3 or images.shape[1:] != (SIDE, SIDE):
        raise ValueError(f"images: got shape {images.shape}, (n, {SIDE}, {SIDE}) is wanted")
    return images


def checked_labels(labels: npt.NDArray[np.integer], count: int) -> npt.NDArray[np.int64]:
    """Return `labels` as int64 if they are integers of shape (count,), else raise."""
    if not isinstance(labels, np.ndarray) or labels.dtype.kind not in "iu":
        raise TypeError(f"labels: got {_kind(labels)}, a numpy array of integers is wanted")
    if labels.shape != (count,):
        raise ValueError(
            f"labels: got shape {labels.shape}, ({count},) is wanted, a label for each image"
        )
    return labels.astype(np.int64)


def checked_steps(steps: int, allowed: tuple[int, ...], reason: str) -> int:
    """Return `steps` as an int if it is one of `allowed`, else raise."""
    try:
        value = operator.index(steps)
    except TypeError:
        raise TypeError(
            f"steps: got {type(steps).__name__} {steps!r}, an integer is wanted"
        ) from None
    if value not in allowed or isinstance(steps, (bool, np.bool_)):
        wanted = ", ".join(map(str, allowed))
        raise ValueError(f"steps: got {steps!r}, one of {wanted} is wanted ({reason})")
    return value


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"a numpy array of {value.dtype}"
    return type(value).__name__
