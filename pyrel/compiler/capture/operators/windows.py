# SPDX-License-Identifier: Apache-2.0
"""Convolutions and pooling: windows that slide over maps.

A map is an array of addresses, (rows, columns, channels), or (planes, rows, columns, channels),
with the channels side by side in memory: so each row of a kernel reads one run. torch's tensors are
(n, channels, rows, columns); those of one dimension become maps of one row. What windows read along
an axis is an index, (windows, kernel), which may lie beyond the edges.
"""

from __future__ import annotations

import functools
import math
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


def _each(setting: Any, spatial: int, of_one_row: int) -> tuple[int, ...]:
    """Return a setting for each axis of a map, given one for all or for each of the tensor's."""
    given = [int(v) for v in np.atleast_1d(setting).tolist()]
    given = given * spatial if len(given) == 1 else given
    return (of_one_row, given[0]) if spatial == 1 else tuple(given[:spatial])


def _sliding(windows: int, kernel: int, stride: int, before: int, dilation: int = 1) -> _Index:
    """Index of windows of which the first begins ``before`` the edge."""
    return np.arange(windows)[:, None] * stride - before + np.arange(kernel) * dilation


def _bordered(
    addresses: Addresses, index: Sequence[_Index], beyond: int
) -> tuple[Addresses, list[_Index]]:
    """Add a border of one constant to a map, as wide as windows need it, and shift the index."""
    pads, shifted = [], []
    for size, places in zip(addresses.shape, index, strict=False):
        before = max(0, -int(places.min()))
        pads.append((before, max(0, int(places.max()) + 1 - size)))
        shifted.append(places + before)
    return np.pad(addresses, [*pads, (0, 0)], constant_values=beyond), shifted


def _read(addresses: Addresses, index: Sequence[_Index]) -> Addresses:
    """Look up what windows read: (windows by axis, kernel by axis, channels)."""
    axes = len(index)
    places = []
    for axis, (windows, kernel) in enumerate(each.shape for each in index):
        shape = [1] * (2 * axes)
        shape[axis], shape[axes + axis] = windows, kernel
        places.append(index[axis].reshape(shape))
    return np.asarray(addresses[tuple(places)])


def _over_maps(
    tracer: Tracer, value: Traced, spatial: int, make: Callable[[Addresses], Addresses]
) -> Traced:
    """Make a map of the map of each image of (n, channels, ...)."""
    ids = value.ids.unsqueeze(2) if spatial == 1 else value.ids
    shape: list[tuple[int, ...]] = []

    def of_image(row: Addresses) -> Addresses:
        made = np.moveaxis(make(np.moveaxis(row.reshape(ids.shape[1:]), 0, -1)), -1, 0)
        shape.append(made.shape)
        return made.reshape(-1)

    flat = tracer.rows(Traced(ids.flatten(1)), lambda rows: np.stack([of_image(r) for r in rows]))
    out = flat.ids.reshape(len(ids), *shape[0])
    return Traced(out.squeeze(2) if spatial == 1 else out)


# Convolutions


def require_batch(value: Traced, spatial: int) -> None:
    """Refuse maps over so many axes that have no dimension of samples."""
    if value.ids.dim() != spatial + 2:
        axes = ["planes", "rows", "columns"] if spatial == 3 else ["rows", "columns"][:spatial]
        wanted = ", ".join(["n", "channels", *axes])
        raise UnsupportedOperandsError(f"the input has no batch dimension, ({wanted}) is wanted")


def convolution(spatial: int) -> Callable[..., Traced]:
    """Make the handler of ``aten.conv1d``, ``aten.conv2d`` or ``aten.conv3d``."""

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
        kernel = _each(tensor.shape[2:], spatial, 1)
        dilations = _each(dilation, spatial, 1)
        around = _padding(padding, spatial, kernel, dilations)
        strides = _each(stride, spatial, 1)
        index = []
        for axis, size in enumerate(_each(value.ids.shape[2:], spatial, 1)):
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
    if transposed or spatial not in {1, 2, 3}:
        raise UnsupportedOperandsError("only convolutions over up to three axes, not transposed")
    return convolution(spatial)(tracer, value, weight, bias, stride, padding, dilation, groups)


def _padding(
    padding: Any, spatial: int, kernel: Sequence[int], dilation: Sequence[int]
) -> list[tuple[int, int]]:
    """Elements before and after each axis of a map."""
    if padding == "valid":
        return [(0, 0)] * len(kernel)
    if padding == "same":
        reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return [(r // 2, r - r // 2) for r in reach]
    return [(p, p) for p in _each(padding, spatial, 0)]


def _matrices(
    tracer: Tracer, weight: torch.Tensor, bias: Any, groups: int
) -> list[tuple[Floats, Floats]]:
    """Weight and bias of each group; columns go by kernel row, kernel column, channel."""

    def make() -> list[tuple[Floats, Floats]]:
        values = blocks(tracer, weight.unsqueeze(2) if weight.dim() == 3 else weight).copy()
        flat = np.moveaxis(values, 1, -1).reshape(len(values), -1)
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
    addresses, index = _bordered(addresses, index, zero)
    if addresses.size > size or (addresses < 0).any():
        addresses = builder.copy(addresses)
    read = _read(addresses, index)
    made = []
    for channels, (weight, bias) in zip(np.split(read, len(groups), axis=-1), groups, strict=True):
        made.append(
            builder.linear(channels.reshape(-1, weight.shape[1]), weight, bias, "convolution")
        )
    return np.concatenate(made, axis=1).reshape(*read.shape[: len(index)], -1)


# Pooling


def max_pool(spatial: int) -> Callable[..., Traced]:
    """Make the handler of ``aten.max_pool1d``, ``aten.max_pool2d`` or ``aten.max_pool3d``."""

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
    """Make the handler of ``aten.adaptive_max_pool1d`` and its like."""

    def handler(tracer: Tracer, value: Traced, size: Any) -> tuple[Traced, NoValue]:
        index, _ = _adaptive(value, spatial, size)
        return _largest(tracer, value, spatial, index), _POSITIONS

    return handler


def average_pool(spatial: int) -> Callable[..., Traced]:
    """Make the handler of ``aten.avg_pool1d`` and its like."""

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
    """Make the handler of ``aten.adaptive_avg_pool1d`` and its like."""

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
    """Index for each axis, and how many elements each window has."""
    kernels = _each(kernel, spatial, 1)
    strides = kernels if np.size(stride) == 0 else _each(stride, spatial, 1)
    around, dilations = _each(padding, spatial, 0), _each(dilation, spatial, 1)
    index, counts = [], []
    for axis, size in enumerate(_each(value.ids.shape[-spatial:], spatial, 1)):
        k, s, p, d = kernels[axis], strides[axis], around[axis], dilations[axis]
        beyond = size + 2 * p - d * (k - 1) - 1
        windows = beyond // s + 1
        # Rounding up adds a window that reaches beyond the padding, if it begins before it.
        if ceil_mode and beyond % s and windows * s < size + p:
            windows += 1
        index.append(_sliding(windows, k, s, p, d))
        low, high = (-p, size + p) if count_padding else (0, size)
        counts.append(((index[-1] >= low) & (index[-1] < high)).sum(axis=1))
    return index, functools.reduce(np.multiply.outer, counts)


def _adaptive(value: Traced, spatial: int, size: Any) -> tuple[list[_Index], _Index]:
    """Index of windows that share out each axis, and how many elements each has.

    All windows of an axis are as long as the longest; what they have too much lies beyond the edge.
    """
    index, counts = [], []
    wanted = _each(size, spatial, 1)
    for length, windows in zip(_each(value.ids.shape[-spatial:], spatial, 1), wanted, strict=True):
        first = np.arange(windows) * length // windows
        stop = -(-(np.arange(windows) + 1) * length // windows)
        steps = first[:, None] + np.arange((stop - first).max())
        index.append(np.where(steps < stop[:, None], steps, length))
        counts.append(stop - first)
    return index, functools.reduce(np.multiply.outer, counts)


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
    read, axes = _read(*_bordered(addresses, index, beyond)), len(index)
    windows, kernel, channels = read.shape[:axes], read.shape[axes:-1], read.shape[-1]
    turned = np.moveaxis(read, range(axes, 2 * axes), range(axes))
    return turned.reshape(math.prod(kernel), -1), (*windows, channels)


def _over_pooled(
    tracer: Tracer, value: Traced, spatial: int, make: Callable[[Addresses], Addresses]
) -> Traced:
    """See `_over_maps`; without a dimension for channels, the first dimension may be the batch."""
    if value.ids.dim() == spatial + 2:
        return _over_maps(tracer, value, spatial, make)
    out = _over_maps(tracer, Traced(value.ids.unsqueeze(1)), spatial, make)
    return Traced(out.ids.squeeze(1))
