# SPDX-License-Identifier: Apache-2.0
"""Which device explains a batch: the one that was asked for, or where the batch lies."""

from __future__ import annotations

from typing import Any, Protocol

import torch

from pyrel.engine.arrays import Batch, Rows
from pyrel.engine.cuda.library import devices, library

CPU = "cpu"
_WANTED = "device: wanted None, 'cpu', 'cuda' or one of several such as 'cuda:1'"


def lies_on(x: Any) -> str:
    """Return the device that an array or a tensor lies on, such as "cuda:0"."""
    return str(x.device) if isinstance(x, torch.Tensor) else CPU


def number_of(device: str) -> int:
    """Return the number of a CUDA device."""
    return int(device.removeprefix("cuda:"))


def checked_device(given: Any) -> str | None:
    """Return the name of a device, with its number where there may be several.

    Parameters
    ----------
    given : str, torch.device or None
        "cuda" is torch's current device.

    Raises
    ------
    ValueError
        If it is no such name, or there is no such device.
    TypeError
        If it is of another type.
    CudaError
        If it is of CUDA, and the library or the driver is not there.
    """
    if given is None:
        return None
    if not isinstance(given, str | torch.device):
        raise TypeError(f"{_WANTED}; got {type(given).__name__}")
    try:
        device = torch.device(given)
    except RuntimeError:
        raise ValueError(f"{_WANTED}; got {str(given)!r}") from None
    if device.type == CPU:
        return CPU
    if device.type != "cuda":
        raise ValueError(f"{_WANTED}; got {str(given)!r}")
    count, number = library().devices(), device.index
    if number is None:
        number = torch.cuda.current_device() if torch.cuda.is_available() else 0
    if number >= count:
        there = "there is 1 device" if count == 1 else f"there are {count} devices"
        raise ValueError(f"device: cuda:{number}: {there}")
    return f"cuda:{number}"


class Bound(Protocol):
    """Programs that run on the CPU, and perhaps on a device."""

    @property
    def multiply_bf16(self) -> bool:
        """Whether they have products of bfloat16, which no device has."""


def chosen(asked: str | None, x: Batch, programs: Bound) -> str:
    """Return the device that explains a batch.

    Parameters
    ----------
    asked : str or None
        As `checked_device` returns it. None for the device of the batch, if the engine can use it.
    x : array, tensor or rows of several
    programs : Programs

    Raises
    ------
    ValueError
        If the batch, or one of several inputs, lies on another CUDA device than that asked for.
    """
    lying = [lies_on(each) for each in (x.inputs if isinstance(x, Rows) else [x])]
    there = [each for each in lying if each.startswith("cuda")]
    if asked is None:
        own = there[0] if there else CPU
        if own == CPU or number_of(own) >= devices() or programs.multiply_bf16:
            return CPU
        return own
    other = [each for each in there if each != asked]
    if other:
        raise ValueError(
            f"x: it lies on {other[0]}, and this explainer was made with device={asked!r}; move "
            f"it there, or leave device= out"
        )
    return asked
