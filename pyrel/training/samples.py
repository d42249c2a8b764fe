# SPDX-License-Identifier: Apache-2.0
"""Training samples as checked tensors."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatInput = npt.NDArray[np.floating[Any]] | Tensor
IntInput = npt.NDArray[np.integer[Any]] | Tensor


class Samples(NamedTuple):
    """Inputs float32 (n, …) and classes int64 (n,)."""

    x: Tensor
    y: Tensor

    def to(self, device: torch.device) -> Samples:
        """Return the samples on a device."""
        return Samples(self.x.to(device), self.y.to(device))

    def fingerprint(self) -> str:
        """Return the sha256 of shapes and contents, to know the same data again."""
        digest = hashlib.sha256(repr((tuple(self.x.shape), tuple(self.y.shape))).encode())
        digest.update(self.x.cpu().contiguous().numpy().data)
        digest.update(self.y.cpu().contiguous().numpy().data)
        return digest.hexdigest()


def checked_samples(x_name: str, x: FloatInput, y_name: str, y: IntInput) -> Samples:
    """Return inputs and classes as tensors.

    Raises
    ------
    TypeError, ValueError
        They are not floats (n, …) without NaN and infinity and integers (n,) from 0, n >= 1.
    """
    inputs = checked_inputs(x_name, x)
    if not isinstance(y, np.ndarray | Tensor):
        raise TypeError(f"{y_name} must be an array or tensor, not {type(y).__name__}")
    classes = torch.as_tensor(_owned(y))
    if classes.is_floating_point() or classes.is_complex() or classes.dtype == torch.bool:
        raise TypeError(f"{y_name} must hold integers, not {classes.dtype}")
    if tuple(classes.shape) != (len(inputs),):
        raise ValueError(
            f"{y_name} must have shape ({len(inputs)},), one class for each of {x_name}, "
            f"not {tuple(classes.shape)}"
        )
    if classes.min() < 0:
        raise ValueError(f"{y_name} must hold classes from 0, not {int(classes.min())}")
    return Samples(inputs, classes.long())


def checked_inputs(name: str, x: FloatInput) -> Tensor:
    """Return inputs as a float32 tensor.

    Raises
    ------
    TypeError, ValueError
        They are not floats (n, …) without NaN and infinity, n >= 1.
    """
    if not isinstance(x, np.ndarray | Tensor):
        raise TypeError(f"{name} must be an array or tensor, not {type(x).__name__}")
    inputs = torch.as_tensor(_owned(x))
    if not inputs.is_floating_point():
        raise TypeError(f"{name} must hold floating-point numbers, not {inputs.dtype}")
    if inputs.ndim < 2 or len(inputs) == 0:
        raise ValueError(f"{name} must have shape (n, …) with n >= 1, not {tuple(inputs.shape)}")
    inputs = inputs.detach().float().contiguous()
    if not inputs.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity; training needs finite numbers")
    return inputs


def _owned(values: FloatInput | IntInput) -> FloatInput | IntInput:
    """Copy what torch cannot alias: read-only arrays and negative strides."""
    if isinstance(values, np.ndarray):
        return np.require(values, requirements=["C", "W"])
    return values
