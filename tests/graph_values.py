# SPDX-License-Identifier: Apache-2.0
"""What a captured graph computes, in float64 NumPy.

Every node goes by the words of `pyrel.compiler.graph.nodes`.

It shares no code with the package, so that a graph can be compared with the torch model it was
captured from before anything else is made of it.
"""

from __future__ import annotations

from collections.abc import Callable
from math import erf

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Copy,
    CustomGradient,
    Embedding,
    Graph,
    Linear,
    MaxPool,
    Node,
    Normalise,
    Product,
    Relu,
    Scale,
    StopGradient,
)

Array = npt.NDArray[np.float64]

_erf = np.vectorize(erf, otypes=[np.float64])


def _sigmoid(z: Array) -> Array:
    return 1.0 / (1.0 + np.exp(-z))


def _gelu_tanh(z: Array, _: float) -> Array:
    return 0.5 * z * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (z + 0.044715 * z**3)))


_FUNCTIONS: dict[Function, Callable[[Array, float], Array]] = {
    Function.sigmoid: lambda z, _: _sigmoid(z),
    Function.tanh: lambda z, _: np.tanh(z),
    Function.softplus: lambda z, _: np.logaddexp(z, 0.0),
    Function.leaky_relu: lambda z, slope: np.where(z > 0, z, slope * z),
    Function.elu: lambda z, alpha: np.where(z > 0, z, alpha * np.expm1(np.minimum(z, 0.0))),
    Function.gelu: lambda z, _: 0.5 * z * (1.0 + _erf(z / np.sqrt(2.0))),
    Function.gelu_tanh: _gelu_tanh,
    Function.silu: lambda z, _: z * _sigmoid(z),
}


def graph_outputs(graph: Graph, x: npt.ArrayLike) -> Array:
    """Raw outputs (n, classes) for a batch (n, *input_shape)."""
    batch = np.asarray(x, np.float64).reshape(len(np.asarray(x)), -1)
    # Constants stand at the end, where their negative addresses find them. What no node writes
    # stays NaN, and shows.
    values = np.full((len(batch), graph.size + graph.constants.size), np.nan)
    values[:, graph.size :] = graph.constants[::-1]
    values[:, : graph.input_size] = batch
    for node in graph.nodes:
        values[:, node.addresses] = _value(node, values[:, node.inputs]).reshape(len(batch), -1)
    return values[:, graph.outputs]


def _value(node: Node, read: Array) -> Array:
    """Outputs of a node; ``read`` is (n, *node.inputs.shape)."""
    match node:
        case Linear():
            z = read @ node.weight.T + node.bias
            return np.maximum(z, 0.0) if node.relu else z
        case Relu():
            return np.maximum(read, 0.0)
        case Activation():
            return _FUNCTIONS[node.function](read, node.parameter)
        case Scale():
            return read * node.coefficients
        case Add():
            return read.sum(axis=1)
        case Product():
            return read.prod(axis=1)
        case MaxPool():
            return read.max(axis=1)
        case Normalise():
            centred = read - read.mean(axis=2, keepdims=True)
            return centred / np.sqrt((centred**2).mean(axis=2, keepdims=True) + node.epsilon)
        case Embedding():
            return node.table[read.astype(np.int64)]
        case Copy() | StopGradient() | CustomGradient():
            return read
    raise TypeError(type(node).__name__)
