# SPDX-License-Identifier: Apache-2.0
"""Convolutions and pooling: windows that slide over maps.

A map is an array of addresses, (rows, columns, channels), with the channels side by side in
memory: so each row of a kernel reads one run. torch's tensors are (n, channels, rows, columns);
those of one dimension become maps of one row. What windows read along an axis is an index,
(windows, kernel), which may lie beyond the edges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from pyrel.compiler.capture.operators.arithmetic import offsets
from pyrel.compiler.capture.operators.operands import (
    NoValue,
    UnsupportedOperandsError,
    blocks,
    constant,
    traced,
)
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.nodes import Addresses, Floats

_Index: TypeAlias = npt.NDArray[np.int64]

_POSITIONS = NoValue("the position of the largest value")


def _both(setting: Any, spatial: int, of_one_row: int) -> tuple[int, int]:
    """Return a setting for both axes of a map, given one for all or for each of the tensor's."""
    given = [int(v) for v in np.atleast_1d(setting).tolist()]
    given = given * spatial if len(given) == 1 else given
    return (of_one_row, given[0]) if spatial == 1 else (given[0], given[1])


def _sliding(windows: int, kernel: int, stride: int, before: int, dilation: int = 1) -> _Index:
    """Index of windows of which the first begins ``before`` the edge."""
    return np.arange(windows)[:, None] * stride - before + np.arange(kernel) * dilation


def _bordered(
    addresses: Addresses, rows: _Index, columns: _Index, beyond: int
) -> tuple[Addresses, _Index, _Index]:
    """Add a border of one constant to a map, as wide as windows need it, and shift the index."""
    pads, shifted = [], []
    for size, index in zip(addresses.shape[:2], (rows, columns), strict=True):
        before = max(0, -int(index.min()))
        pads.append((before, max(0, int(index.max()) + 1 - size)))
        shifted.append(index + before)
    return np.pad(addresses, [*pads, (0, 0)], constant_values=beyond), shifted[0], shifted[1]


def _read(addresses: Addresses, rows: _Index, columns: _Index) -> Addresses:
    """Look up what windows read: (windows down, windows across, kernel, kernel, channels)."""
    return np.asarray(addresses[rows[:, None, :, None], columns[None, :, None, :]])


def _over_maps(
    tracer: Tracer, value: Traced, spatial: int, make: Callable[[Addresses], Addresses]
) -> Traced:
    """Make a map of the map of each image of (n, channels, ...)."""
    ids = value.ids if spatial == 2 else value.ids.unsqueeze(2)
    shape: list[tuple[int, ...]] = []

    def of_image(row: Addresses) -> Addresses:
        made = make(row.reshape(ids.shape[1:]).transpose(1, 2, 0)).transpose(2, 0, 1)
        shape.append(made.shape)
        return made.reshape(-1)

    flat = tracer.rows(Traced(ids.flatten(1)), lambda rows: np.stack([of_image(r) for r in rows]))
    out = flat.ids.reshape(len(ids), *shape[0])
    return Traced(out if spatial == 2 else out.squeeze(2))


# Convolutions


def require_batch(value: Traced, spatial: int) -> None:
    """Refuse maps over so many axes that have no dimension of samples."""
    if value.ids.dim() != spatial + 2:
        wanted = ", ".join(["n", "channels", "rows", "columns"][: spatial + 2])
        raise UnsupportedOperandsError(f"the input has no batch dimension, ({wanted}) is wanted")


def convolution(spatial: int) -> Callable[..., Traced]:
    """Make the handler of ``aten.conv1d`` or ``aten.conv2d``."""

    def handler(
        tracer: Tracer,
        value: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Traced:
        tensor = constant(weight, "weight")
        require_batch(traced(value), spatial)
        kernel = _both(tensor.shape[2:], spatial, 1)
        dilations = _both(dilation, spatial, 1)
        around = _padding(padding, spatial, kernel, dilations)
        strides = _both(stride, spatial, 1)
        index = []
        for axis, size in enumerate(_both(value.ids.shape[2:], spatial, 1)):
            reach = dilations[axis] * (kernel[axis] - 1)
            windows = (size + sum(around[axis]) - reach - 1) // strides[axis] + 1
            before = around[axis][0]
            index.append(_sliding(windows, kernel[axis], strides[axis], before, dilations[axis]))
        parts = _matrices(tracer, tensor, bias, groups)
        return _over_maps(tracer, value, spatial, lambda m: _convolve(tracer, m, index, parts))

    return handler


def any_convolution(
    tracer: Tracer,
    value: Any,
    weight: Any,
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    _output_padding: Any,
    groups: int,
) -> Traced:
    """``aten.convolution``, which stands for all of them in a decomposed program."""
    spatial = constant(weight, "weight").dim() - 2
    if transposed or spatial not in {1, 2}:
        raise UnsupportedOperandsError("only convolutions over one or two axes, not transposed")
    return convolution(spatial)(tracer, value, weight, bias, stride, padding, dilation, groups)


def _padding(
    padding: Any, spatial: int, kernel: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """Elements before and after each axis of a map."""
    if padding == "valid":
        return [(0, 0), (0, 0)]
    if padding == "same":
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(r // 2, r - r // 2) for r in reach]
    return [(p, p) for p in _both(padding, spatial, 0)]


def _matrices(
    tracer: Tracer, weight: torch.Tensor, bias: Any, groups: int
) -> list[tuple[Floats, Floats]]:
    """Weight and bias of each group; columns go by kernel row, kernel column, channel."""

    def make() -> list[tuple[Floats, Floats]]:
        values = blocks(tracer, weight if weight.dim() == 4 else weight.unsqueeze(2)).copy()
        flat = values.transpose(0, 2, 3, 1).reshape(len(values), -1)
        parts = np.split(flat, groups), np.split(offsets(tracer, bias, len(values)), groups)
        return list(zip(*parts, strict=True))

    return tracer.weights.made(("convolution", id(weight), id(bias), groups), make, weight, bias)


def _convolve(
    tracer: Tracer,
    addresses: Addresses,
    index: Sequence[_Index],
    groups: Sequence[tuple[Floats, Floats]],
) -> Addresses:
    """One linear node for each group, over a copy with a border of zeros where one is needed."""
    builder = tracer.builder
    size = addresses.size
    zero = int(builder.constants(0.0))
    addresses, rows, columns = _bordered(addresses, index[0], index[1], zero)
    if addresses.size > size or (addresses < 0).any():
        addresses = builder.copy(addresses)
    read = _read(addresses, rows, columns)
    made = []
    for channels, (weight, bias) in zip(np.split(read, len(groups), axis=-1), groups, strict=True):
        made.append(
            builder.linear(channels.reshape(-1, weight.shape[1]), weight, bias, "convolution")
        )
    return np.concatenate(made, axis=1).reshape(*read.shape[:2], -1)


# Pooling


def max_pool(spatial: int) -> Callable[..., Traced]:
    """Make the handler of ``aten.max_pool1d`` or ``aten.max_pool2d``."""

    def handler(
        tracer: Tracer,
        value: Traced,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
    ) -> Traced:
        index, _ = _pooling(value, spatial, kernel, stride, padding, dilation, ceil_mode)
        return _largest(tracer, value, spatial, index)

    return handler


def max_pool_with_positions(spatial: int) -> Callable[..., tuple[Traced, NoValue]]:
    """Make the handler of the same that gives positions too, which only an error can come of."""
    handler = max_pool(spatial)
    return lambda tracer, *args, **kwargs: (handler(tracer, *args, **kwargs), _POSITIONS)


def adaptive_max_pool(spatial: int) -> Callable[..., tuple[Traced, NoValue]]:
    """Make the handler of ``aten.adaptive_max_pool1d`` or ``...2d``."""

    def handler(tracer: Tracer, value: Traced, size: Any) -> tuple[Traced, NoValue]:
        index, _ = _adaptive(value, spatial, size)
        return _largest(tracer, value, spatial, index), _POSITIONS

    return handler


def average_pool(spatial: int) -> Callable[..., Traced]:
    """Make the handler of ``aten.avg_pool1d`` or ``aten.avg_pool2d``."""

    def handler(
        tracer: Tracer,
        value: Traced,
        kernel: Any,
        stride: Any = (),
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> Traced:
        index, counts = _pooling(
            value, spatial, kernel, stride, padding, 1, ceil_mode, count_include_pad
        )
        if divisor_override is not None:
            counts = np.full_like(counts, divisor_override)
        return _average(tracer, value, spatial, index, counts)

    return handler


def adaptive_average_pool(spatial: int) -> Callable[..., Traced]:
    """Make the handler of ``aten.adaptive_avg_pool1d`` or ``...2d``."""

    def handler(tracer: Tracer, value: Traced, size: Any) -> Traced:
        index, counts = _adaptive(value, spatial, size)
        return _average(tracer, value, spatial, index, counts)

    return handler


def _pooling(
    value: Traced,
    spatial: int,
    kernel: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    count_padding: bool = False,
) -> tuple[list[_Index], _Index]:
    """Index for both axes, and how many elements each window has."""
    kernels = _both(kernel, spatial, 1)
    strides = kernels if np.size(stride) == 0 else _both(stride, spatial, 1)
    around, dilations = _both(padding, spatial, 0), _both(dilation, spatial, 1)
    index, counts = [], []
    for axis, size in enumerate(_both(value.ids.shape[-spatial:], spatial, 1)):
        k, s, p, d = kernels[axis], strides[axis], around[axis], dilations[axis]
        beyond = size + 2 * p - d * (k - 1) - 1
        windows = beyond // s + 1
        # Rounding up adds a window that reaches beyond the padding, if it begins before it.
        if ceil_mode and beyond % s and windows * s < size + p:
            windows += 1
        index.append(_sliding(windows, k, s, p, d))
        low, high = (-p, size + p) if count_padding else (0, size)
        counts.append(((index[-1] >= low) & (index[-1] < high)).sum(axis=1))
    return index, counts[0][:, None] * counts[1]


def _adaptive(value: Traced, spatial: int, size: Any) -> tuple[list[_Index], _Index]:
    """Index of windows that share out each axis, and how many elements each has.

    All windows of an axis are as long as the longest; what they have too much lies beyond the edge.
    """
    index, counts = [], []
    wanted = _both(size, spatial, 1)
    for length, windows in zip(_both(value.ids.shape[-spatial:], spatial, 1), wanted, strict=True):
        first = np.arange(windows) * length // windows
        stop = -(-(np.arange(windows) + 1) * length // windows)
        steps = first[:, None] + np.arange((stop - first).max())
        index.append(np.where(steps < stop[:, None], steps, length))
        counts.append(stop - first)
    return index, counts[0][:, None] * counts[1]


def _largest(tracer: Tracer, value: Traced, spatial: int, index: Sequence[_Index]) -> Traced:
    beyond = int(tracer.builder.constants(-np.inf))

    def make(addresses: Addresses) -> Addresses:
        window, shape = _pooled(addresses, index, beyond)
        return tracer.builder.maximum(window, in_order=True).reshape(shape)

    return _over_pooled(tracer, value, spatial, make)


def _average(
    tracer: Tracer, value: Traced, spatial: int, index: Sequence[_Index], counts: _Index
) -> Traced:
    beyond = int(tracer.builder.constants(0.0))

    def make(addresses: Addresses) -> Addresses:
        window, shape = _pooled(addresses, index, beyond)
        total = tracer.builder.add(window, in_order=True)
        shares = np.broadcast_to(1.0 / counts[..., None], shape).reshape(-1)
        return tracer.builder.scale(total, shares).reshape(shape)

    return _over_pooled(tracer, value, spatial, make)


def _pooled(
    addresses: Addresses, index: Sequence[_Index], beyond: int
) -> tuple[Addresses, tuple[int, ...]]:
    """Windows as (window, elements of the pooled map), and the shape of that map."""
    read = _read(*_bordered(addresses, index[0], index[1], beyond)).transpose(2, 3, 0, 1, 4)
    return read.reshape(read.shape[0] * read.shape[1], -1), read.shape[2:]


def _over_pooled(
    tracer: Tracer, value: Traced, spatial: int, make: Callable[[Addresses], Addresses]
) -> Traced:
    """See `_over_maps`; without a dimension for channels, the first dimension may be the batch."""
    if value.ids.dim() == spatial + 2:
        return _over_maps(tracer, value, spatial, make)
    out = _over_maps(tracer, Traced(value.ids.unsqueeze(1)), spatial, make)
    return Traced(out.ids.squeeze(1))
