# SPDX-License-Identifier: Apache-2.0
"""What a captured graph computes, and its gradient, node by node in NumPy.

It shares no code with lowering and the engine, so that a program can be compared with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.elements import are_floats
from pyrel.compiler.graph.function_values import function_slope, function_value
from pyrel.compiler.graph.matrices import Matmul, left_and_right
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Choice,
    Copy,
    CustomGradient,
    Embedding,
    Floats,
    Graph,
    Linear,
    Lookup,
    MaxPool,
    Node,
    Normalise,
    Product,
    Relu,
    Scale,
    StopGradient,
)
from pyrel.compiler.graph.unit_blocks import outputs_of

# From the gradient at what an id looks up, and what it looks up, to relevance.
Finish = Callable[[Floats, Floats], Floats]


class Rounding(Protocol):
    """Adds to values what rounding may have added."""

    def __call__(self, values: Floats, sizes: Floats, terms: int) -> Floats:
        """Move ``values``, sums of so many ``terms``, whose sizes add up to ``sizes``."""


def exactly(values: Floats, sizes: Floats, terms: int) -> Floats:
    """No rounding."""
    return values


class UnknownNodeError(Exception):
    """A graph holds a node that capture does not make."""


class Evaluation:
    """The values of all addresses of a graph for a batch, in float64.

    Parameters
    ----------
    graph : Graph
    x : ndarray, shape (n, *input shape)
    rounding : Rounding
        What is done to the result of each node, and to each gradient.
    """

    def __init__(self, graph: Graph, x: npt.ArrayLike, rounding: Rounding = exactly) -> None:
        self._graph, self._rounding = graph, rounding
        batch = np.asarray(x, np.float64)
        self._n = len(batch)
        # Constants stand at the end, where their negative addresses find them. What no node writes
        # stays NaN, and shows.
        self.values = np.full((self._n, graph.size + graph.constants.size), np.nan)
        self.values[:, graph.size :] = graph.constants[::-1]
        self.values[:, : graph.input_size] = batch.reshape(self._n, -1)
        for node in graph.nodes:
            out = _value(node, self.values[:, node.inputs], rounding)
            self.values[:, node.start : node.start + node.size] = out.reshape(self._n, -1)

    @property
    def output(self) -> Floats:
        """Raw outputs, shape (n, classes)."""
        return self.values[:, self._graph.outputs]

    def map(self, targets: npt.NDArray[np.int64], finish: Finish) -> Floats:
        """Return the map of a method that is a gradient, shape (n, *input shape).

        Parameters
        ----------
        targets : ndarray of int64, shape (n,)
        finish : callable
            Makes the map of the gradient and the value of what is explained: an element of the
            input, or of a row that a token id looks up.
        """
        graph = self._graph
        gradients = np.zeros_like(self.values)
        np.add.at(gradients, (np.arange(self._n), graph.outputs[targets]), 1.0)
        found = np.zeros((self._n, graph.input_size))
        for node in reversed(graph.nodes):
            of_out = gradients[:, node.start : node.start + node.size]
            if not of_out.any():
                continue
            if isinstance(node, Lookup):
                continue
            if isinstance(node, Embedding):
                shape = (self._n, node.inputs.size, -1)
                rows = self.values[:, node.start : node.start + node.size].reshape(shape)
                sums = finish(of_out.reshape(shape), rows).sum(axis=2)
                _add(found, node.inputs, sums)
                continue
            given = _given(node, self.values, of_out, self._rounding)
            if given is not None:
                _add(gradients, node.inputs, given)
        floats = np.flatnonzero(are_floats(graph))
        found[:, floats] = finish(gradients[:, floats], self.values[:, floats])
        return found.reshape(self._n, *graph.input_shape)


def _add(totals: Floats, addresses: Addresses, values: Floats) -> None:
    """Add values to those at some addresses, of which some may come twice."""
    for row, given in zip(totals, values, strict=True):
        np.add.at(row, addresses.reshape(-1), given.reshape(-1))


def _value(node: Node, read: Floats, rounding: Rounding) -> Floats:
    """Return outputs of a node; ``read`` is (n, *node.inputs.shape)."""
    match node:
        case Linear():
            z = outputs_of(read, node.weight)
            z += node.bias
            sizes = np.zeros(1)
            if rounding is not exactly:
                sizes = np.abs(read) @ np.abs(node.weight.T) + np.abs(node.bias)
            z = rounding(z, sizes, node.weight.shape[1] + 1)
            return np.maximum(z, 0.0) if node.relu else z
        case Relu():
            return np.maximum(read, 0.0)
        case Activation():
            out = function_value(node.function, read, node.parameter)
            return rounding(out, np.abs(out), 1)
        case Scale():
            out = read * node.coefficients
            return rounding(out, np.abs(out), 1)
        case Add():
            return rounding(read.sum(axis=1), np.abs(read).sum(axis=1), read.shape[1])
        case Product():
            out = read.prod(axis=1)
            return rounding(out, np.abs(out), 1)
        case Matmul():
            left, right = left_and_right(read, node.rows, node.depth)
            return _multiplied(left, right, rounding)
        case Choice():
            count = len(node.values)
            chosen = np.where(read[:, count : 2 * count] != 0, read[:, :count], 0.0)
            return np.asarray(chosen.sum(axis=1) + read[:, 2 * count :].sum(axis=1))
        case MaxPool():
            return np.asarray(read.max(axis=1))
        case Normalise():
            centred, deviation = _standardised(node, read)
            sizes = (np.abs(read) + np.abs(read).mean(axis=2, keepdims=True)) / deviation
            return rounding(centred / deviation, sizes, read.shape[2])
        case Embedding():
            return np.asarray(node.table[read.astype(np.int64)])
        case Copy() | StopGradient() | CustomGradient():
            return read
    raise UnknownNodeError(type(node).__name__)


def _given(node: Node, values: Floats, of_out: Floats, rounding: Rounding) -> Floats | None:
    """Return the gradient that a node gives to each of what it reads, (n, *node.inputs.shape)."""
    read, out = values[:, node.inputs], values[:, node.start : node.start + node.size]
    match node:
        case Linear():
            if node.relu:
                of_out = np.where(out > 0, of_out, 0.0)
            rows = of_out.reshape(len(read), -1, node.width)
            sizes = np.zeros(1)
            if rounding is not exactly:
                sizes = np.abs(rows) @ np.abs(node.weight)
            return rounding(rows @ node.weight, sizes, node.width)
        case Relu():
            return of_out * np.where(read > 0, 1.0, np.where(read == 0, node.at_zero, 0.0))
        case Activation():
            given = of_out * function_slope(node.function, read, node.parameter)
            return rounding(given, np.abs(given), 1)
        case Scale():
            return of_out * node.coefficients
        case Add():
            return np.broadcast_to(of_out[:, None], read.shape)
        case Product():
            return of_out[:, None] * read[:, ::-1]
        case Matmul():
            return _of_factors(node, read, of_out, rounding)
        case Choice():
            count = len(node.values)
            given = np.zeros(read.shape)
            given[:, :count] = of_out[:, None] * read[:, count : 2 * count]
            return given
        case MaxPool():
            return _to_largest(node, read) * of_out[:, None]
        case Normalise():
            centred, deviation = _standardised(node, read)
            normal, of_rows = centred / deviation, of_out.reshape(read.shape)
            less = of_rows.mean(axis=2, keepdims=True)
            along = normal * (of_rows * normal).mean(axis=2, keepdims=True)
            sizes = (np.abs(of_rows) + np.abs(less) + np.abs(along)) / deviation
            return rounding((of_rows - less - along) / deviation, sizes, read.shape[2])
        case Copy() | CustomGradient():
            return of_out
        case StopGradient():
            return None
    raise UnknownNodeError(type(node).__name__)


def _of_factors(node: Matmul, read: Floats, of_out: Floats, rounding: Rounding) -> Floats:
    left, right = left_and_right(read, node.rows, node.depth)
    of_rows = of_out.reshape(len(read), -1, node.rows, node.columns)
    of_left = _multiplied(of_rows, right.swapaxes(2, 3), rounding)
    of_right = _multiplied(left.swapaxes(2, 3), of_rows, rounding)
    parts = [part.reshape(*part.shape[:2], -1) for part in (of_left, of_right)]
    return np.concatenate(parts, axis=2)


def _multiplied(left: Floats, right: Floats, rounding: Rounding) -> Floats:
    sizes = np.zeros(1)
    if rounding is not exactly:
        sizes = np.abs(left) @ np.abs(right)
    return rounding(left @ right, sizes, left.shape[-1])


def _to_largest(node: MaxPool, read: Floats) -> Floats:
    """Return what part of the gradient each value of a window gets."""
    largest = read == read.max(axis=1, keepdims=True)
    if node.even:
        return np.asarray(largest / largest.sum(axis=1, keepdims=True))
    return np.asarray(largest & (largest.cumsum(axis=1) == 1), np.float64)


def _standardised(node: Normalise, read: Floats) -> tuple[Floats, Floats]:
    """Return rows less their mean, and by what they are divided."""
    centred = read - read.mean(axis=2, keepdims=True)
    return centred, np.sqrt((centred**2).mean(axis=2, keepdims=True) + node.epsilon)
