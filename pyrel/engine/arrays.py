# SPDX-License-Identifier: Apache-2.0
"""Arrays as users give them, to arrays as the engine takes them, and back."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pyrel.compiler.capture.array_kinds import refuse_unreadable
from pyrel.compiler.graph.layout import Layout, Path, nested

Array: TypeAlias = npt.NDArray[Any] | torch.Tensor
Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]

# Beyond this a box is wider than what float32 can tell apart of usual inputs.
LARGEST_BOUND = 1e12


# Of what has to be converted, this much is held in memory at once.
_PIECE_BYTES = 1 << 24


class Rows:
    """A batch of several inputs: row by row, what all of them have of a sample, side by side.

    Rows are made when they are asked for.

    Parameters
    ----------
    inputs : sequence of array
        In the order of the layout.
    layout : Layout
        For the steps of this batch.
    order : sequence of tuple
        Paths of the inputs in the order in which a user gave them.
    """

    def __init__(self, inputs: Sequence[Array], layout: Layout, order: Sequence[Path]) -> None:
        self.inputs, self.layout, self._order = inputs, layout, order
        self.first = inputs[0]
        self.shape = len(self.first), layout.size

    def __len__(self) -> int:
        """Return the number of samples."""
        return self.shape[0]

    def __getitem__(self, some: slice) -> Float32s:
        """Return rows of some samples."""
        return self._side_by_side([_converted(each[some]) for each in self.inputs])

    def taken(self, samples: Int64s, steps: int) -> Float32s:
        """Return rows of some samples, of their first steps."""
        pairs = zip(self.layout.leaves, self.inputs, strict=True)
        return self._side_by_side(
            [taken(each, samples, steps if leaf.steps else None) for leaf, each in pairs]
        )

    def _side_by_side(self, parts: Sequence[Float32s]) -> Float32s:
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def like_inputs(self, rows: Float32s) -> Any:
        """Return rows, (..., size), in the structure, types and devices of the inputs."""
        pairs = zip(self.layout.split(rows), self.inputs, strict=True)
        parts = [like(np.ascontiguousarray(part), x) for part, x in pairs]
        made = dict(zip((leaf.path for leaf in self.layout.leaves), parts, strict=True))
        return nested(self._order, [made[path] for path in self._order])

    def places(self, out: Any, before: tuple[int, ...]) -> list[Float32s]:
        """Return the arrays that relevance is to be written to, after checking them.

        ``before`` are the dimensions before those of a sample.
        """
        given = self.layout.taken(out, "out")
        shapes = [(*before, *leaf.shape) for leaf in self.layout.leaves]
        return [result(*each) for each in zip(given, self.inputs, shapes, strict=True)]


Batch: TypeAlias = Array | Rows


def steps_of(x: Batch) -> int:
    """Return how many steps the samples of a batch have."""
    return x.layout.steps if isinstance(x, Rows) else int(x.shape[1])


def put(x: Batch, relevance: Float32s, where: tuple[Any, ...], own: Float32s, steps: int) -> None:
    """Write the relevance of shorter sequences, of so many ``steps``, to that of a batch.

    ``where`` are indices of dimensions before those of a sample.
    """
    if isinstance(x, Rows):
        columns = x.layout.columns(steps)
        rows: list[Any] = [each[:, None] for each in where]
        relevance[(*rows, columns)] = own
    else:
        relevance[(*where, slice(steps))] = own


def pieces(x: Batch, *, parted: bool = False) -> Iterator[tuple[int, Float32s]]:
    """Yield (first sample, samples as contiguous float32) of a batch.

    What the engine can read where it lies is one piece, unless it is to be ``parted``. Anything
    else is converted a piece at a time, so that a memory map of another type or order need not fit
    in memory.
    """
    whole = _as_it_lies(x)
    if whole is not None and not parted:
        yield 0, whole
        return
    samples = samples_in_a_piece(tuple(x.shape[1:]))
    for first in range(0, x.shape[0], samples):
        part = slice(first, first + samples)
        yield first, _converted(x[part]) if whole is None else whole[part]


def taken(x: Batch, samples: Int64s, steps: int | None) -> Float32s:
    """Return the first ``steps`` of some samples of a batch, or all, as contiguous float32."""
    if isinstance(x, Rows):
        return x.taken(samples, x.layout.steps if steps is None else steps)
    if isinstance(x, torch.Tensor):
        some = x[torch.from_numpy(samples).to(x.device)]
        return _converted(some if steps is None else some[:, :steps])
    return _converted(x[samples] if steps is None else x[samples, :steps])


def samples_in_a_piece(shape: tuple[int, ...]) -> int:
    """How many samples of a shape are converted at once."""
    return max(1, _PIECE_BYTES // (4 * max(1, math.prod(shape))))


def _as_it_lies(x: Batch) -> Float32s | None:
    if isinstance(x, Rows):
        return None
    if isinstance(x, np.ndarray):
        as_wanted = x.dtype == np.float32 and x.flags.c_contiguous and x.flags.aligned
        return np.asarray(x) if as_wanted else None
    plain = x.is_cpu and x.dtype == torch.float32 and x.is_contiguous()
    return x.detach().numpy() if plain else None


def _converted(x: Array) -> Float32s:
    if isinstance(x, torch.Tensor):
        return x.detach().to("cpu", torch.float32).contiguous().numpy()
    # What is too large for float32 becomes infinite, and is refused.
    with np.errstate(over="ignore"):
        return np.require(x, np.float32, ["C", "A"])


def targets(target: Any, n: int, classes: int) -> Int64s | None:
    """``target`` as (n,) int64, or None for the predicted class."""
    if target is None:
        return None
    if type(target) is int and 0 <= target < classes:
        return np.full(n, target)
    wanted = wanted_targets(n)
    if isinstance(target, tuple):  # an index of several dimensions may be as long as the batch
        raise TypeError(
            f"target: {wanted}, got a tuple, which is for outputs of several dimensions; give a "
            "list or an array"
        )
    values = as_array("target", target, wanted.removeprefix("wanted "))
    if values.size and values.dtype.kind not in "iu":
        raise TypeError(f"target: {wanted}, got {kind_of_given(target, values)}")
    if values.shape not in {(), (n,)}:
        raise ValueError(f"target: wanted an int or shape ({n},), got shape {values.shape}")
    wrong = np.flatnonzero((values < 0) | (values >= classes))
    if wrong.size:
        raise ValueError(
            f"target: wanted classes 0 to {classes - 1}, got {values.reshape(-1)[wrong[0]]}"
        )
    return np.ascontiguousarray(np.broadcast_to(values, (n,)), dtype=np.int64)


def wanted_targets(n: int) -> str:
    """Say what names one of several outputs, of one dimension, of each of ``n`` samples."""
    return f"wanted an int or integers of shape ({n},)"


def lengths(given: Any, n: int, steps: int) -> Int64s | None:
    """``given`` as (n,) int64; None where all sequences are full, or nothing is given."""
    if given is None:
        return None
    wanted = f"lengths: wanted integers of shape ({n},)"
    values = as_array("lengths", given, f"integers of shape ({n},)")
    if isinstance(given, bool):
        raise TypeError(f"{wanted}, how many steps each sequence has; got {given}")
    if values.size and values.dtype.kind not in "iu":
        raise TypeError(f"{wanted}, got {kind_of_given(given, values)}")
    if values.shape != (n,):
        raise ValueError(f"{wanted}, got shape {values.shape}")
    wrong = np.flatnonzero((values < 1) | (values > steps))
    if wrong.size:
        raise ValueError(
            f"lengths: wanted 1 to {steps}, the number of steps, got {values[wrong[0]]} for "
            f"x[{wrong[0]}]"
        )
    return None if (values == steps).all() else values.astype(np.int64)


def bounds(low: Any, high: Any, shape: tuple[int, ...]) -> tuple[Float32s, Float32s] | None:
    """``low`` and ``high`` for every element of one sample; None where neither is given."""
    if low is None and high is None:
        return None
    if low is None or high is None:
        missing = "low" if low is None else "high"
        raise ValueError(f"{missing}: wanted both low and high or neither, got {missing}=None")
    full_low, full_high = _bound("low", low, shape), _bound("high", high, shape)
    if not (full_low <= 0).all():
        raise ValueError(f"low: wanted values <= 0, got {np.max(full_low)}")
    if not (full_high >= 0).all():
        raise ValueError(f"high: wanted values >= 0, got {np.min(full_high)}")
    return full_low, full_high


def as_array(name: str, value: Any, wanted: str) -> npt.NDArray[Any]:
    """Return numbers, an array, a tensor or a sequence as an array; floats of tensors as float64.

    Raises
    ------
    TypeError, ValueError
        If it is of a kind that cannot be read as one; the message has ``name`` and ``wanted``.
    """
    if isinstance(value, Mapping):
        raise TypeError(f"{name}: wanted {wanted}, got {type(value).__name__}")
    if isinstance(value, np.ndarray | torch.Tensor):
        refuse_unreadable(name, value, wanted)
    if isinstance(value, torch.Tensor):
        values = value.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    try:
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:  # of sequences of what does not fit
        raise ValueError(f"{name}: wanted {wanted}, got {type(value).__name__}: {error}") from None


def kind_of_given(given: Any, values: npt.NDArray[Any]) -> str:
    """Say what was given, that is read as an array of a type that is not wanted."""
    if hasattr(given, "dtype"):
        return f"dtype {given.dtype}"
    kind = type(given).__name__
    if type(given) is int:
        return "an int of more than 64 bits"
    if values.ndim == 0 or values.dtype.kind == "O":
        return kind
    return f"{kind} of {'str' if values.dtype.kind == 'U' else values.dtype}"


def _bound(name: str, value: Any, shape: tuple[int, ...]) -> Float32s:
    array = as_array(name, value, "a number or an array of numbers")
    if array.dtype.kind not in "fiu":
        kind = kind_of_given(value, array)
        raise TypeError(f"{name}: wanted a number or an array of numbers, got {kind}")
    try:
        full = np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name}: wanted a shape that broadcasts to one sample, {shape}, got {array.shape}"
        ) from None
    if np.isnan(full).any():
        raise ValueError(f"{name}: wanted numbers, got NaN")
    # In float64 at least: a narrower type cannot hold the largest bound.
    size = np.abs(full.astype(np.promote_types(full.dtype, np.float64)))
    if (np.isfinite(size) & (size > LARGEST_BOUND)).any():
        raise ValueError(
            f"{name}: wanted values up to {LARGEST_BOUND:.0e} in size, or infinity for no bound; "
            f"got {np.max(size):.0e}"
        )
    return np.array(full, dtype=np.float32, order="C")


def result(out: Array | None, x: Array, shape: tuple[int, ...] | None = None) -> Float32s:
    """Return the array to write relevance into: ``out`` after checking it, or a new one.

    It has the ``shape`` of ``x``, unless another is given.
    """
    shape = tuple(x.shape) if shape is None else shape
    if out is None:
        return np.empty(shape, dtype=np.float32)
    refuse_unreadable("out", out)
    if isinstance(out, np.ndarray) != isinstance(x, np.ndarray):
        raise TypeError(f"out: wanted the type of x, {type(x).__name__}, got {type(out).__name__}")
    if isinstance(out, torch.Tensor):
        if out.device.type != "cpu" or out.requires_grad:
            raise ValueError("out: wanted a tensor on the CPU that does not require a gradient")
        out = out.numpy()
    if out.dtype != np.float32 or out.shape != shape:
        wanted = f"float32 of shape {shape}"
        raise ValueError(f"out: wanted {wanted}, got {out.dtype} {out.shape}")
    if not (out.flags.c_contiguous and out.flags.aligned and out.flags.writeable):
        raise ValueError("out: wanted a writable, contiguous, aligned array")
    if np.may_share_memory(out, _memory(x)):
        raise ValueError("out: wanted memory apart from x, which is read while out is written")
    return out


_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def _memory(x: Array) -> npt.NDArray[Any]:
    """Return an array over the memory of ``x``; an empty one where that is on another device."""
    if isinstance(x, np.ndarray):
        return x
    if not x.is_cpu:
        return np.empty(0)
    return x.detach().view(_INTEGERS[x.element_size()]).numpy()  # NumPy has no bfloat16


class Places:
    """Where the relevance of a batch goes.

    Attributes
    ----------
    relevance : ndarray of float32
        What programs write to.
    """

    def __init__(self, relevance: Float32s, x: Batch, out: Any, parts: list[Float32s]) -> None:
        self.relevance, self._x, self._out, self._parts = relevance, x, out, parts

    @classmethod
    def of(cls, out: Any, x: Batch, before: tuple[int, ...]) -> Places:
        """Make a place, or take ``out``, with dimensions before those of a sample."""
        shape = (*before, *x.shape[1:])
        if isinstance(x, Rows):
            parts = [] if out is None else x.places(out, before)
            return cls(np.empty(shape, np.float32), x, out, parts)
        return cls(result(out, x, shape), x, out, [])

    def given_back(self) -> Any:
        """Return the relevance as a user gets it."""
        if not isinstance(self._x, Rows):
            return like(self.relevance, self._x) if self._out is None else self._out
        if self._out is None:
            return self._x.like_inputs(self.relevance)
        for part, own in zip(self._parts, self._x.layout.split(self.relevance), strict=True):
            part[...] = own
        return self._out


def conversion(x: Batch) -> Callable[[npt.NDArray[Any]], Array]:
    """Return what makes of values the type of array, on the device, of ``x`` or its first input."""
    if isinstance(x, Rows):
        x = x.first
    if isinstance(x, np.ndarray):
        return _as_they_are
    if x.is_cpu:
        return torch.from_numpy
    device = x.device
    return lambda values: torch.from_numpy(values).to(device)


def _as_they_are(values: npt.NDArray[Any]) -> Array:
    return values


def like(values: npt.NDArray[Any], x: Batch) -> Array:
    """``values`` as the type of array, and on the device, of ``x``, or of its first input."""
    return conversion(x)(values)
