# SPDX-License-Identifier: Apache-2.0
"""Arrays as users give them, to arrays as the engine takes them, and back."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]

# Beyond this a box is wider than what float32 can tell apart of usual inputs.
LARGEST_BOUND = 1e12


def batch(x: Array, shape: tuple[int, ...]) -> Float32s:
    """``x`` as contiguous float32, after checking its type and that it is (n, *shape)."""
    wanted = f"floats of shape {('n', *shape)}".replace("'", "")
    if not isinstance(x, np.ndarray | torch.Tensor):
        raise TypeError(f"x: wanted an array or a tensor of {wanted}, got {type(x).__name__}")
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(f"x: wanted an array or a tensor of {wanted}, got a masked array")
    is_float = x.is_floating_point() if isinstance(x, torch.Tensor) else x.dtype.kind == "f"
    if not is_float:
        raise TypeError(f"x: wanted {wanted}, got dtype {x.dtype}")
    if tuple(x.shape[1:]) != shape or len(x.shape) != len(shape) + 1:
        raise ValueError(f"x: wanted {wanted}, got shape {tuple(x.shape)}")
    if isinstance(x, torch.Tensor):
        return x.detach().to("cpu", torch.float32).contiguous().numpy()
    with np.errstate(
        over="ignore"
    ):  # what is too large for float32 becomes infinite, and is refused
        return np.ascontiguousarray(x, dtype=np.float32)


def targets(target: Any, n: int, classes: int) -> Int64s | None:
    """``target`` as (n,) int64, or None for the predicted class."""
    if target is None:
        return None
    try:
        values = (
            target.detach().cpu().numpy()
            if isinstance(target, torch.Tensor)
            else np.asarray(target)
        )
    except ValueError as error:
        raise ValueError(f"target: wanted an int or integers of shape ({n},): {error}") from None
    if values.size and values.dtype.kind not in "iu":
        raise TypeError(
            f"target: wanted an int or integers of shape ({n},), got dtype {values.dtype}"
        )
    if values.shape not in {(), (n,)}:
        raise ValueError(f"target: wanted an int or shape ({n},), got shape {values.shape}")
    wrong = np.flatnonzero((values < 0) | (values >= classes))
    if wrong.size:
        raise ValueError(
            f"target: wanted classes 0 to {classes - 1}, got {values.reshape(-1)[wrong[0]]}"
        )
    return np.ascontiguousarray(np.broadcast_to(values, (n,)), dtype=np.int64)


def bounds(low: Any, high: Any, shape: tuple[int, ...]) -> tuple[Float32s, Float32s] | None:
    """``low`` and ``high`` for every element of one sample, flat; None where neither is given."""
    if low is None and high is None:
        return None
    if low is None or high is None:
        missing = "low" if low is None else "high"
        raise ValueError(f"{missing}: wanted both low and high or neither, got {missing}=None")
    flat_low, flat_high = _bound("low", low, shape), _bound("high", high, shape)
    if not (flat_low <= 0).all():
        raise ValueError(f"low: wanted values <= 0, got {np.max(flat_low)}")
    if not (flat_high >= 0).all():
        raise ValueError(f"high: wanted values >= 0, got {np.min(flat_high)}")
    return flat_low, flat_high


def _numbers(value: Any) -> npt.NDArray[Any]:
    if not isinstance(value, torch.Tensor):
        return np.asarray(value)
    values = value.detach().cpu()
    return (values.double() if values.is_floating_point() else values).numpy()


def _bound(name: str, value: Any, shape: tuple[int, ...]) -> Float32s:
    array = _numbers(value)
    if array.dtype.kind not in "fiu":
        raise TypeError(f"{name}: wanted a number or an array of numbers, got dtype {array.dtype}")
    try:
        full = np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name}: wanted a shape that broadcasts to one sample, {shape}, got {array.shape}"
        ) from None
    if np.isnan(full).any():
        raise ValueError(f"{name}: wanted numbers, got NaN")
    if (np.isfinite(full) & (np.abs(full) > LARGEST_BOUND)).any():
        raise ValueError(
            f"{name}: wanted values up to {LARGEST_BOUND:.0e} in size, or infinity for no bound; "
            f"got {np.max(np.abs(full)):.0e}"
        )
    return np.array(full, dtype=np.float32, order="C").reshape(-1)


def result(out: Array | None, x: Array, values: Float32s) -> Float32s:
    """Return the array to write relevance into: ``out`` after checking it, or a new one."""
    if out is None:
        return np.empty_like(values)
    if isinstance(out, np.ndarray) != isinstance(x, np.ndarray):
        raise TypeError(f"out: wanted the type of x, {type(x).__name__}, got {type(out).__name__}")
    if isinstance(out, torch.Tensor):
        if out.device.type != "cpu" or out.requires_grad:
            raise ValueError("out: wanted a tensor on the CPU that does not require a gradient")
        out = out.numpy()
    if out.dtype != np.float32 or out.shape != values.shape:
        wanted = f"float32 of shape {values.shape}"
        raise ValueError(f"out: wanted {wanted}, got {out.dtype} {out.shape}")
    if not out.flags.c_contiguous or not out.flags.writeable:
        raise ValueError("out: wanted a writable, contiguous array")
    if np.may_share_memory(out, values):
        raise ValueError("out: wanted memory apart from x, which is read while out is written")
    return out


def like(values: npt.NDArray[Any], x: Array) -> Array:
    """``values`` as the type of array, and on the device, of ``x``."""
    return torch.from_numpy(values).to(x.device) if isinstance(x, torch.Tensor) else values
