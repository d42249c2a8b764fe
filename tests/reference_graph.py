# SPDX-License-Identifier: Apache-2.0
"""The graphs that the reference explains: nodes over one sample's features, float64 NumPy.

A model is built with `linear`, `relu`, `concat`, ... on top of `input_node`. Pre-activations are
kept as affine maps of activations, so that a sum of pre-activations is one linear node over the
concatenated inputs, and a linear layer after a linear layer is one product; only sums of
activations stay sums. It shares no code with the package.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Shape = tuple[int, ...]

EPS32 = float(np.finfo(np.float32).eps)

_serial = itertools.count()


class MixedDomainError(ValueError):
    """A linear node has real graph inputs beside other inputs, which no deep Taylor rule covers."""


@dataclass(eq=False, kw_only=True)
class Node:
    """One tensor of the graph: `shape` is that of one sample, `low`/`high` are its flat domain."""

    shape: Shape
    low: Array
    high: Array
    depth: int = 0
    serial: int = field(default_factory=lambda: next(_serial))

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    @property
    def parents(self) -> tuple[Node, ...]:
        return ()


@dataclass(eq=False, kw_only=True)
class Input(Node):
    """The model's input, real where `low`/`high` are infinite."""


@dataclass(eq=False, kw_only=True)
class Constant(Node):
    """A value that no input changes: an initial state, padding, a parameter."""

    value: Array


@dataclass(eq=False, kw_only=True)
class Relu(Node):
    """max(0, parent)."""

    parent: Node

    @property
    def parents(self) -> tuple[Node, ...]:
        return (self.parent,)


@dataclass(eq=False, kw_only=True)
class Gather(Node):
    """Features of the concatenated `sources` in a new order: slice, reshape, stack, permute."""

    sources: tuple[Node, ...]
    index: npt.NDArray[np.intp]

    @property
    def parents(self) -> tuple[Node, ...]:
        return self.sources


@dataclass(eq=False, kw_only=True)
class Sum(Node):
    """Sum of activations that are all ≥ 0."""

    addends: tuple[Node, ...]

    @property
    def parents(self) -> tuple[Node, ...]:
        return self.addends


@dataclass(eq=False)
class Term:
    """`source` @ `weight` (features, outputs); `magnitude` ≥ |weight| is for Σ|terms|."""

    source: Node
    weight: Array
    magnitude: Array


@dataclass(eq=False, kw_only=True)
class Affine(Node):
    """One linear node: Σ source @ weight + bias. Its output is a pre-activation (domain real)."""

    terms: tuple[Term, ...]
    bias: Array

    @property
    def parents(self) -> tuple[Node, ...]:
        return tuple(term.source for term in self.terms)


def _flat(value: npt.ArrayLike, shape: Shape) -> Array:
    return np.broadcast_to(np.asarray(value, np.float64), shape).reshape(-1).copy()


def input_node(shape: Shape, low: npt.ArrayLike = -np.inf, high: npt.ArrayLike = np.inf) -> Input:
    """The input of one sample; `low` and `high` broadcast to `shape`."""
    return Input(shape=shape, low=_flat(low, shape), high=_flat(high, shape))


def constant(value: npt.ArrayLike) -> Constant:
    """A constant; its domain is the hull of 0 and the value, so zeros have low = high = 0."""
    array = np.asarray(value, np.float64)
    flat = array.reshape(-1)
    low, high = np.minimum(flat, 0.0), np.maximum(flat, 0.0)
    return Constant(shape=array.shape, low=low, high=high, value=flat)


def zeros(*shape: int) -> Constant:
    """An initial state."""
    return constant(np.zeros(shape))


def _terms(node: Node) -> tuple[tuple[Term, ...], Array]:
    if isinstance(node, Affine):
        return node.terms, node.bias
    if isinstance(node, Constant):
        return (), node.value
    eye = np.eye(node.size)
    return (Term(node, eye, eye),), np.zeros(node.size)


def _affine(shape: Shape, terms: Sequence[Term], bias: Array) -> Affine:
    real = np.full(bias.size, np.inf)
    depth = 1 + max((term.source.depth for term in terms), default=0)
    return Affine(shape=shape, low=-real, high=real, depth=depth, terms=tuple(terms), bias=bias)


def linear(node: Node, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None) -> Node:
    """`node` @ `weight`ᵀ + `bias` over the last axis; `weight` is (outputs, inputs) as in torch."""
    matrix = np.asarray(weight, np.float64).T
    shape = (*node.shape[:-1], matrix.shape[1])
    rows = int(np.prod(node.shape[:-1], dtype=int))
    shift = _flat(0.0 if bias is None else bias, shape)
    full = np.kron(np.eye(rows), matrix)
    if isinstance(node, Constant):
        return constant((node.value @ full + shift).reshape(shape))
    inner, inner_bias = _terms(node)
    terms = [Term(t.source, t.weight @ full, t.magnitude @ np.abs(full)) for t in inner]
    return _affine(shape, terms, inner_bias @ full + shift)


def relu(node: Node) -> Node:
    """max(0, node), domain [0, ∞)."""
    if isinstance(node, Constant):
        return constant(np.maximum(node.value, 0.0).reshape(node.shape))
    low, high = np.zeros(node.size), np.full(node.size, np.inf)
    return Relu(shape=node.shape, low=low, high=high, depth=node.depth, parent=node)


def add(*nodes: Node) -> Node:
    """Sum: of activations in [0, ∞) and constants >= 0 a sum that splits, else one linear node."""
    shape = np.broadcast_shapes(*(node.shape for node in nodes))
    nodes = tuple(_broadcast(node, shape) for node in nodes)
    if all(isinstance(node, Constant) for node in nodes):
        return constant(sum(_terms(node)[1] for node in nodes).reshape(shape))  # type: ignore[union-attr]
    nodes = tuple(n for n in nodes if not (isinstance(n, Constant) and (n.value == 0).all()))
    if len(nodes) == 1:
        return nodes[0]
    if not all(_splits(node) for node in nodes):
        parts = [_terms(node) for node in nodes]
        terms = [term for part, _ in parts for term in part]
        return _affine(shape, terms, np.sum([bias for _, bias in parts], axis=0))
    low, high = np.zeros(nodes[0].size), np.full(nodes[0].size, np.inf)
    depth = max(node.depth for node in nodes)
    return Sum(shape=shape, low=low, high=high, depth=depth, addends=nodes)


def _splits(node: Node) -> bool:
    bounded = isinstance(node, Constant)
    return bool((node.low >= 0).all()) and (bounded or bool(np.isinf(node.high).all()))


def _broadcast(node: Node, shape: Shape) -> Node:
    if node.shape == shape:
        return node
    return rearrange([node], lambda ids: np.broadcast_to(ids[0], shape))


def rearrange(
    nodes: Sequence[Node],
    order: Callable[[list[npt.NDArray[np.intp]]], npt.NDArray[np.intp]],
) -> Node:
    """Slice, reshape, permute, stack or concatenate, as `order` does with the features' numbers."""
    starts = np.cumsum([0, *(node.size for node in nodes)])
    ids = [
        np.arange(start, start + node.size).reshape(node.shape)
        for start, node in zip(starts, nodes, strict=False)
    ]
    placed = order(ids)
    index = placed.reshape(-1).astype(np.intp)
    if all(isinstance(node, Constant) for node in nodes):
        return constant(np.concatenate([_terms(n)[1] for n in nodes])[index].reshape(placed.shape))
    if any(isinstance(node, Affine) for node in nodes):
        return _rearranged_affine(nodes, starts, placed.shape, index)
    low = np.concatenate([node.low for node in nodes])[index]
    high = np.concatenate([node.high for node in nodes])[index]
    depth = max(node.depth for node in nodes)
    return Gather(
        shape=placed.shape, low=low, high=high, depth=depth, sources=tuple(nodes), index=index
    )


def _rearranged_affine(
    nodes: Sequence[Node],
    starts: npt.NDArray[np.intp],
    shape: Shape,
    index: npt.NDArray[np.intp],
) -> Affine:
    # Nodes side by side have disjoint outputs, so their terms over one source are one matrix; two
    # terms of one node over the same source (a sum) overlap and stay apart: hence the counter.
    merged: dict[tuple[int, int], Term] = {}
    bias = np.zeros(starts[-1])
    for start, node in zip(starts, nodes, strict=False):
        columns = slice(start, start + node.size)
        terms, bias[columns] = _terms(node)
        seen: dict[int, int] = {}
        for term in terms:
            count = seen[term.source.serial] = seen.get(term.source.serial, -1) + 1
            key = (term.source.serial, count)
            if key not in merged:
                blank = np.zeros((term.source.size, starts[-1]))
                merged[key] = Term(term.source, blank, blank.copy())
            merged[key].weight[:, columns] = term.weight
            merged[key].magnitude[:, columns] = term.magnitude
    terms = tuple(
        Term(t.source, t.weight[:, index], t.magnitude[:, index]) for t in merged.values()
    )
    return _affine(shape, terms, bias[index])


def concat(nodes: Sequence[Node], axis: int = -1) -> Node:
    """Concatenation along an axis of the sample."""
    return rearrange(nodes, lambda ids: np.concatenate(ids, axis))


def stack(nodes: Sequence[Node], axis: int = 0) -> Node:
    """Stack along a new axis of the sample."""
    return rearrange(nodes, lambda ids: np.stack(ids, axis))


def reshape(node: Node, *shape: int) -> Node:
    """The same features in another shape."""
    return rearrange([node], lambda ids: ids[0].reshape(shape))


def permute(node: Node, *axes: int) -> Node:
    """Axes of the sample in another order."""
    return rearrange([node], lambda ids: ids[0].transpose(axes))


def take(node: Node, *key: int | slice) -> Node:
    """`node[key]`, axes counted without the batch."""
    return rearrange([node], lambda ids: np.asarray(ids[0][key]))


def reachable(output: Node) -> list[Node]:
    """The nodes that `output` needs, in the order they were made, which is topological."""
    found: dict[int, Node] = {}
    pending = [output]
    while pending:
        node = pending.pop()
        if node.serial not in found:
            found[node.serial] = node
            pending.extend(node.parents)
    return [found[serial] for serial in sorted(found)]


@dataclass
class Forward:
    """Values and their float32 rounding bounds (both (n, features)) by node serial.

    A product sum that float32 accumulates term by term is off by eps/4 · Σ|terms| in the mean (each
    partial sum rounds by half an eps of itself); 4 · eps · Σ|terms| is the bound of one linear node
    here, half as much again as the worst of ten thousand random graphs. Roundings of different
    units are independent, so the bounds of the inputs add to it in quadrature, times the weights.
    `margin` (n,) is the smallest |pre-activation| before a ReLU in units of its bound: where it is
    ≤ 1 a ReLU may flip, and the gradient with it.
    """

    values: dict[int, Array]
    bounds: dict[int, Array]
    margin: Array


def forward(output: Node, x: npt.ArrayLike) -> Forward:
    """Evaluate the graph on a batch `x` (n, *shape)."""
    batch = np.asarray(x, np.float64)
    run = Forward({}, {}, np.full(batch.shape[0], np.inf))
    for node in reachable(output):
        run.values[node.serial], run.bounds[node.serial] = _evaluate(node, batch, run)
        if isinstance(node, Relu) and isinstance(node.parent, Affine):
            z, bound = run.values[node.parent.serial], run.bounds[node.parent.serial]
            ratio = np.divide(np.abs(z), bound, out=np.full_like(z, np.inf), where=bound > 0)
            run.margin = np.minimum(run.margin, ratio.min(axis=1, initial=np.inf))
    return run


def _evaluate(node: Node, batch: Array, run: Forward) -> tuple[Array, Array]:
    n = batch.shape[0]
    own = [(run.values[p.serial], run.bounds[p.serial]) for p in node.parents]
    match node:
        case Input():
            value = batch.reshape(n, node.size)
            return value, np.zeros_like(value)
        case Constant():
            value = np.tile(node.value, (n, 1))
            return value, np.zeros_like(value)
        case Relu():
            z, bound = own[0]
            return np.maximum(z, 0.0), np.where(z > -bound, bound, 0.0)
        case Gather():
            value, bound = (np.concatenate(parts, axis=1) for parts in zip(*own, strict=True))
            return value[:, node.index], bound[:, node.index]
        case Sum():
            value, bound = (np.sum(parts, axis=0) for parts in zip(*own, strict=True))
            return value, bound + EPS32 * value
        case Affine():
            return _evaluate_affine(node, own)
    raise TypeError(type(node).__name__)


def _evaluate_affine(node: Affine, own: list[tuple[Array, Array]]) -> tuple[Array, Array]:
    value = np.tile(node.bias, (own[0][0].shape[0], 1))
    magnitude, variance = np.abs(value), np.zeros_like(value)
    for term, (activation, bound) in zip(node.terms, own, strict=True):
        value = value + activation @ term.weight
        magnitude = magnitude + np.abs(activation) @ term.magnitude
        variance = variance + bound**2 @ term.weight**2
    return value, np.sqrt(variance + (4 * EPS32 * magnitude) ** 2)
