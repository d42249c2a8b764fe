# SPDX-License-Identifier: Apache-2.0
"""Convolution, pooling, normalisation and embedding for the reference, from their definitions.

Maps are (channels, *spatial), as in torch. A convolution is the matrix that it stands for.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from reference_graph import (
    Array,
    Constant,
    Embedding,
    Index,
    Input,
    MaxPool,
    Node,
    Normalise,
    add,
    constant,
    flat,
    mapped,
    rearrange,
    scale,
)

Sizes = int | Sequence[int]


def _each(value: Sizes, count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value)


def convolution(
    node: Node,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike | None = None,
    *,
    stride: Sizes = 1,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    groups: int = 1,
) -> Node:
    """y[o, p] = b[o] + Σ_{c, k} w[o, c, k] x[c, stride · p + dilation · k − padding].

    `weight` is (outputs, channels / groups, *kernel); c runs over the channels of o's group.
    """
    w = np.asarray(weight, np.float64)
    outputs, inner, *kernel = w.shape
    spatial = node.shape[1:]
    count = len(spatial)
    steps, halo, spread = (_each(v, count) for v in (stride, padding, dilation))
    sizes = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, p, d, k, s in zip(spatial, halo, spread, kernel, steps, strict=True)
    ]
    matrix = np.zeros((*node.shape, outputs, *sizes))
    for place in itertools.product(*map(range, sizes)):
        for tap in itertools.product(*map(range, kernel)):
            at = tuple(
                s * p + d * k - h
                for s, p, d, k, h in zip(steps, place, spread, tap, halo, strict=True)
            )
            if any(not 0 <= i < n for i, n in zip(at, spatial, strict=True)):
                continue
            for o in range(outputs):
                first = o // (outputs // groups) * inner
                matrix[(slice(first, first + inner), *at, o, *place)] = w[(o, slice(None), *tap)]
    shape = (outputs, *sizes)
    shift = np.zeros(outputs) if bias is None else np.asarray(bias, np.float64)
    shift = flat(shift.reshape(-1, *(1 for _ in sizes)), shape)
    return mapped(node, matrix.reshape(node.size, -1), shift, shape)


def _windows(
    shape: tuple[int, ...],
    kernel: Sizes,
    stride: Sizes | None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> tuple[Index, Array, tuple[int, ...]]:
    """Features in each window (window, outputs), −1 outside; how many count with padding; shape."""
    channels, *spatial = shape
    count = len(spatial)
    widths, halo, spread = (_each(v, count) for v in (kernel, padding, dilation))
    steps = widths if stride is None else _each(stride, count)
    sizes = []
    for n, k, s, p, d in zip(spatial, widths, steps, halo, spread, strict=True):
        room = n + 2 * p - d * (k - 1) - 1
        size = (math.ceil(room / s) if ceil_mode else room // s) + 1
        if ceil_mode and (size - 1) * s >= n + p:  # a window begins inside the map or its left halo
            size -= 1
        sizes.append(size)
    ids = np.arange(math.prod(shape)).reshape(shape)
    table = np.full((math.prod(widths), channels, *sizes), -1, np.intp)
    counted = np.zeros((channels, *sizes))
    for place in itertools.product(*map(range, sizes)):
        for number, tap in enumerate(itertools.product(*map(range, widths))):
            at = tuple(
                s * p + d * k - h
                for s, p, d, k, h in zip(steps, place, spread, tap, halo, strict=True)
            )
            if all(i < n + h for i, n, h in zip(at, spatial, halo, strict=True)):
                counted[(slice(None), *place)] += 1
            if all(0 <= i < n for i, n in zip(at, spatial, strict=True)):
                table[(number, slice(None), *place)] = ids[(slice(None), *at)]
    return table.reshape(len(table), -1), counted.reshape(-1), (channels, *sizes)


def max_pool(
    node: Node,
    kernel: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    dilation: Sizes = 1,
    ceil_mode: bool = False,
) -> Node:
    """The largest value of each window; padding never wins."""
    windows, _, shape = _windows(node.shape, kernel, stride, padding, dilation, ceil_mode)
    # A node with pre-activations in it keeps its domain: real.
    low = np.where(windows < 0, np.inf, node.low[windows]).min(axis=0)
    high = np.where(windows < 0, -np.inf, node.high[windows]).max(axis=0)
    return MaxPool(shape=shape, low=low, high=high, parent=node, windows=windows)


def _summed(node: Node, windows: Index, shape: tuple[int, ...]) -> Node:
    """Σ over each window, constants 0 outside the map."""
    zero = constant(np.zeros(1))
    rows = [
        rearrange([node, zero], lambda ids, row=row: np.append(ids[0], ids[1])[row].reshape(shape))
        for row in windows
    ]
    return add(*rows)


def average_pool(
    node: Node,
    kernel: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Node:
    """The mean over each window, padded zeros counted or not."""
    windows, counted, shape = _windows(node.shape, kernel, stride, padding, 1, ceil_mode)
    divisor = counted if count_include_pad else (windows >= 0).sum(axis=0)
    return scale(_summed(node, windows, shape), (1 / divisor).reshape(shape))


def sum_pool(node: Node, kernel: Sizes, *, ceil_mode: bool = False) -> Node:
    """The sum over each window, windows side by side."""
    windows, _, shape = _windows(node.shape, kernel, None, ceil_mode=ceil_mode)
    return _summed(node, windows, shape)


def adaptive_average_pool(node: Node, sizes: Sizes) -> Node:
    """Means over ⌊i n / m⌋ ... ⌈(i + 1) n / m⌉ − 1 in each of m places along an axis of n."""
    channels, *spatial = node.shape
    goal = _each(sizes, len(spatial))
    ids = np.arange(node.size).reshape(node.shape)
    lists: list[list[int]] = []
    for channel in range(channels):
        for place in itertools.product(*map(range, goal)):
            spans = [
                range(i * n // m, math.ceil((i + 1) * n / m))
                for i, n, m in zip(place, spatial, goal, strict=True)
            ]
            lists.append([int(ids[(channel, *at)]) for at in itertools.product(*spans)])
    windows = np.full((max(map(len, lists)), len(lists)), -1, np.intp)
    for column, window in enumerate(lists):
        windows[: len(window), column] = window
    shape = (channels, *goal)
    divisor = (windows >= 0).sum(axis=0).reshape(shape)
    return scale(_summed(node, windows, shape), 1 / divisor)


def batch_norm(
    node: Node,
    mean: npt.ArrayLike,
    variance: npt.ArrayLike,
    weight: npt.ArrayLike,
    bias: npt.ArrayLike,
    epsilon: float = 1e-5,
) -> Node:
    """weight · (a − mean) / √(variance + ε) + bias by channel: a multiple and a constant."""
    factor = np.asarray(weight) / np.sqrt(np.asarray(variance) + epsilon)
    shift = np.asarray(bias) - factor * np.asarray(mean)
    axes = (-1, *(1 for _ in node.shape[1:]))
    scaled = scale(node, factor.reshape(axes))
    return add(scaled, constant(np.broadcast_to(shift.reshape(axes), node.shape)))


def layer_norm(
    node: Node,
    weight: npt.ArrayLike | None = None,
    bias: npt.ArrayLike | None = None,
    epsilon: float = 1e-5,
    axes: int = 1,
) -> Node:
    """(a − mean) / √(variance + ε) over the last `axes`, then weight · + bias."""
    width = math.prod(node.shape[-axes:])
    # |y| ≤ √width, but what matters is that it may be negative.
    real = np.full(node.size, np.inf)
    made: Node = Normalise(
        shape=node.shape, low=-real, high=real, parent=node, width=width, epsilon=epsilon
    )
    if weight is not None:
        made = scale(made, weight)
    if bias is not None:
        made = add(made, constant(np.broadcast_to(np.asarray(bias), node.shape)))
    return made


def embedding(ids: Node, table: npt.ArrayLike) -> Node:
    """Rows of the table; the domain of a dimension is the range of its column, widened to 0."""
    assert isinstance(ids, Input)
    rows = np.asarray(table, np.float64)
    low = np.tile(np.minimum(rows.min(axis=0), 0.0), ids.size)
    high = np.tile(np.maximum(rows.max(axis=0), 0.0), ids.size)
    shape = (*ids.shape, rows.shape[1])
    return Embedding(shape=shape, low=low, high=high, parent=ids, table=rows)


def pad(node: Node, *widths: tuple[int, int]) -> Node:
    """Zeros (before, after) along the last axes, the first pair for the first of them."""
    full = ((0, 0),) * (len(node.shape) - len(widths)) + widths
    zero = constant(np.zeros(1))

    def order(ids: list[Index]) -> Index:
        return np.pad(ids[0], full, constant_values=int(ids[1][0]))

    return rearrange([node, zero], order)


def mean(nodes: Sequence[Node]) -> Node:
    """Mean of nodes of one shape, as over the steps of a sequence."""
    return scale(add(*nodes), 1 / len(nodes))


def state(value: npt.ArrayLike) -> Constant:
    """A given initial state."""
    return constant(value)
