# SPDX-License-Identifier: Apache-2.0
"""Which device explains a batch: the one that was asked for, or where the batch lies."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from pyrel.engine import config as runtime
from pyrel.engine.arrays import Batch, Rows
from pyrel.engine.cuda.library import is_built, library
from pyrel.engine.precision import check_precision

CPU = "cpu"
_WANTED = "device: wanted None, 'cpu', 'cuda' or one of several such as 'cuda:1'"


class Binding(NamedTuple):
    """What programs are bound to.

    Attributes
    ----------
    isa : str
        An instruction set of the CPU.
    device : str or None
        As `checked_device` returns it; None for the CPU, but of tensors that lie on a CUDA device.
    precision : str
        How a CUDA device forms products that are not of bfloat16.
    """

    isa: str
    device: str | None = None
    precision: str = "float32"

    @property
    def place(self) -> str:
        """The device that the programs run on where no tensor says otherwise."""
        return self.device or CPU


def bound(device: Any, precision: str) -> Binding:
    """Check what a user asks for, with the instruction set that new explainers use.

    Raises
    ------
    ValueError, TypeError, CudaError
        As of `checked_device` and `check_precision`.
    """
    isa, checked = runtime.isa(), checked_device(device)
    return Binding(isa, checked, check_precision(precision, isa, checked))


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
    if isinstance(given, str) and str(device) != given:  # torch keeps a number's last eight bits
        raise ValueError(f"{_WANTED}; got {given!r}")
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


def chosen(asked: str | None, x: Batch) -> str:
    """Return the device that explains a batch.

    Parameters
    ----------
    asked : str or None
        As `checked_device` returns it. None for the device of the batch, if pyrel was built with
        CUDA; whatever is wrong with the library then is an error of the call.
    x : array, tensor or rows of several

    Raises
    ------
    ValueError
        If the batch, or one of several inputs, lies on another CUDA device than that asked for.
    """
    lying = [lies_on(each) for each in (x.inputs if isinstance(x, Rows) else [x])]
    there = [each for each in lying if each.startswith("cuda")]
    if asked is None:
        return there[0] if there and is_built() else CPU
    other = [each for each in there if each != asked]
    if other:
        raise ValueError(
            f"x: it lies on {other[0]}, and this explainer was made with device={asked!r}; move "
            f"it there, or leave device= out"
        )
    return asked
