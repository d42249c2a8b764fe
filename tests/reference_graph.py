# SPDX-License-Identifier: Apache-2.0
"""The graphs that the reference explains: nodes over one sample's features, float64 NumPy.

A model is built with `linear`, `relu`, `add`, `concat`, ... on top of `input_node`. A sum of
pre-activations is one linear node over the concatenated inputs, a gate times a pre-activation among
them scales its part; only sums of activations stay sums. It shares no code with the package.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Shape = tuple[int, ...]

EPS32 = float(np.finfo(np.float32).eps)

_serial = itertools.count()


class MixedDomainError(ValueError):
    """A linear node reads values that no deep Taylor rule covers."""


@dataclass(eq=False, kw_only=True)
class Node:
    """One tensor of the graph: `shape` is that of one sample, `low`/`high` are its flat domain."""

    shape: Shape
    low: Array
    high: Array
    serial: int = field(default_factory=lambda: next(_serial))

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=int))

    @property
    def parents(self) -> tuple[Node, ...]:
        return ()


@dataclass(eq=False, kw_only=True)
class Input(Node):
    """The model's input, real where `low`/`high` are infinite; whole numbers for `Embedding`."""


@dataclass(eq=False, kw_only=True)
class Constant(Node):
    """A value that no input changes: an initial state, padding, a parameter."""

    value: Array


@dataclass(eq=False, kw_only=True)
class Elementwise(Node):
    """A function of one parent, element by element."""

    parent: Node

    @property
    def parents(self) -> tuple[Node, ...]:
        return (self.parent,)


@dataclass(eq=False, kw_only=True)
class Relu(Elementwise):
    """max(0, parent)."""


@dataclass(eq=False, kw_only=True)
class Activation(Elementwise):
    """A function of `reference_functions` with its parameter."""

    function: str
    parameter: float = 0.0


@dataclass(eq=False, kw_only=True)
class Scale(Elementwise):
    """`coefficients` · parent."""

    coefficients: Array


@dataclass(eq=False, kw_only=True)
class Gather(Node):
    """Features of the concatenated `sources` in a new order: slice, reshape, stack, permute."""

    sources: tuple[Node, ...]
    index: Index

    @property
    def parents(self) -> tuple[Node, ...]:
        return self.sources


@dataclass(eq=False, kw_only=True)
class Sum(Node):
    """Sum of activations; of one that zeros were added to, such as a first state's share."""

    addends: tuple[Node, ...]

    @property
    def parents(self) -> tuple[Node, ...]:
        return self.addends


@dataclass(eq=False, kw_only=True)
class Product(Node):
    """gate · signal; without a known gate (`two_signals`) only `gates="half"` explains it.

    `carries`: the signal is a state, the sum that reads the product is the next one.
    """

    gate: Node
    signal: Node
    two_signals: bool = False
    carries: bool = False

    @property
    def parents(self) -> tuple[Node, ...]:
        return (self.gate, self.signal)


@dataclass(eq=False, kw_only=True)
class MaxPool(Elementwise):
    """The largest of each column of `windows` (window, size), features of the parent; −1 is none.

    The winner is the first largest.
    """

    windows: Index


@dataclass(eq=False, kw_only=True)
class Normalise(Elementwise):
    """(a − mean) / √(variance + epsilon) over each row of `width` features."""

    width: int
    epsilon: float


@dataclass(eq=False, kw_only=True)
class Embedding(Elementwise):
    """Rows of `table` (vocabulary, width) that the parent's whole numbers name."""

    table: Array


@dataclass(eq=False)
class Term:
    """`source` @ `weight` (features, outputs); `magnitude` ≥ |weight| is for Σ|terms|."""

    source: Node
    weight: Array
    magnitude: Array


@dataclass(eq=False)
class Part:
    """gate · (Σ source @ weight + bias), without gate where it is None."""

    terms: tuple[Term, ...]
    bias: Array
    gate: Node | None = None
    carries: bool = False


@dataclass(eq=False, kw_only=True)
class Affine(Node):
    """One linear node: the sum of its parts. Its output is a pre-activation (domain real)."""

    units: tuple[Part, ...]

    @property
    def parents(self) -> tuple[Node, ...]:
        found: list[Node] = []
        for part in self.units:
            found += [term.source for term in part.terms]
            found += [part.gate] if part.gate is not None else []
        return tuple(found)

    @property
    def plain(self) -> bool:
        """Whether it has no gates: one part."""
        return all(part.gate is None for part in self.units)


def flat(value: npt.ArrayLike, shape: Shape) -> Array:
    """`value` broadcast to `shape`, then flattened."""
    return np.broadcast_to(np.asarray(value, np.float64), shape).reshape(-1).copy()


def input_node(shape: Shape, low: npt.ArrayLike = -np.inf, high: npt.ArrayLike = np.inf) -> Input:
    """The input of one sample; `low` and `high` broadcast to `shape`."""
    return Input(shape=shape, low=flat(low, shape), high=flat(high, shape))


def constant(value: npt.ArrayLike) -> Constant:
    """A constant; its domain is the hull of 0 and the value, so zeros have low = high = 0."""
    array = np.asarray(value, np.float64)
    values = array.reshape(-1)
    low, high = np.minimum(values, 0.0), np.maximum(values, 0.0)
    return Constant(shape=array.shape, low=low, high=high, value=values)


def zeros(*shape: int) -> Constant:
    """An initial state."""
    return constant(np.zeros(shape))


def affine(shape: Shape, units: Sequence[Part]) -> Affine:
    """A linear node of these parts; those without a gate become one."""
    plain = [part for part in units if part.gate is None]
    joined = [part for part in units if part.gate is not None]
    if plain:
        terms = tuple(term for part in plain for term in part.terms)
        joined.insert(0, Part(terms, np.sum([part.bias for part in plain], axis=0)))
    real = np.full(int(np.prod(shape, dtype=int)), np.inf)
    return Affine(shape=shape, low=-real, high=real, units=tuple(joined))


def mapped(node: Node, matrix: Array, shift: Array, shape: Shape) -> Node:
    """`node` @ `matrix` + `shift`, the matrix being (features of one sample, outputs)."""
    if isinstance(node, Constant):
        return constant((node.value @ matrix + shift).reshape(shape))
    return affine(shape, [Part((Term(node, matrix, np.abs(matrix)),), shift)])


def linear(node: Node, weight: npt.ArrayLike, bias: npt.ArrayLike | None = None) -> Node:
    """`node` @ `weight`ᵀ + `bias` over the last axis; `weight` is (outputs, inputs) as in torch."""
    matrix = np.asarray(weight, np.float64).T
    shape = (*node.shape[:-1], matrix.shape[1])
    rows = int(np.prod(node.shape[:-1], dtype=int))
    full = matrix if rows == 1 else np.kron(np.eye(rows), matrix)
    return mapped(node, full, flat(0.0 if bias is None else bias, shape), shape)


def relu(node: Node) -> Node:
    """max(0, node), domain [0, ∞)."""
    if isinstance(node, Constant):
        return constant(np.maximum(node.value, 0.0).reshape(node.shape))
    low, high = np.zeros(node.size), np.full(node.size, np.inf)
    return Relu(shape=node.shape, low=low, high=high, parent=node)


def scale(node: Node, coefficients: npt.ArrayLike) -> Node:
    """`coefficients` · node; a multiple of a pre-activation is a pre-activation."""
    factors = flat(coefficients, node.shape)
    if isinstance(node, Constant):
        return constant((node.value * factors).reshape(node.shape))
    before = _is_preactivation(node)
    if before.any() and not before.all():
        return _by_mask(before, lambda at: scale(_at(node, at), factors[at]), node.shape)
    if before.all():
        (part,) = _parts(node)
        terms = [Term(t.source, t.weight * factors, t.magnitude * abs(factors)) for t in part.terms]
        return affine(node.shape, [Part(tuple(terms), part.bias * factors)])
    ends = np.stack([node.low, node.high])
    ends = np.multiply(ends, factors, where=factors != 0, out=np.zeros_like(ends))
    low, high = ends.min(axis=0), ends.max(axis=0)
    return Scale(shape=node.shape, low=low, high=high, parent=node, coefficients=factors)


def add(*nodes: Node) -> Node:
    """Sum: one linear node where an addend is a pre-activation, else a sum that splits.

    Zeros beside pre-activations are nothing. Beside one activation they make a sum, c = i ⊙ g + 0,
    whose share is c / (c + ε sign c) in Arras et al. (2017) as that of any other.
    """
    shape = np.broadcast_shapes(*(node.shape for node in nodes))
    nodes = tuple(broadcast(node, shape) for node in nodes)
    if all(isinstance(node, Constant) for node in nodes):
        return constant(sum(node.value for node in nodes).reshape(shape))  # type: ignore[attr-defined]
    if len(nodes) == 1:
        return nodes[0]
    return _sum([n for n in nodes if not (isinstance(n, Constant) and (n.value == 0).all())], shape)


def _sum(nodes: Sequence[Node], shape: Shape) -> Node:
    if len(nodes) == 1 and _is_preactivation(nodes[0]).all():
        return nodes[0]
    merges = np.any([_is_preactivation(n) | _is_gated_preactivation(n) for n in nodes], axis=0)
    if merges.all():
        return affine(shape, [part for node in nodes for part in _parts(node)])
    if merges.any():
        return _by_mask(merges, lambda at: _sum([_at(n, at) for n in nodes], at.shape), shape)
    low, high = (
        np.sum(ends, axis=0) for ends in zip(*((n.low, n.high) for n in nodes), strict=True)
    )
    return Sum(shape=shape, low=low, high=high, addends=tuple(nodes))


def gated(gate: Node, signal: Node) -> Node:
    """gate · signal: the domain is the hull of 0 and the signal's times the gate's."""
    return _product(gate, signal, two_signals=False)


def carried(gate: Node, state: Node) -> Node:
    """gate · state, an addend of the next state: with half gates, too, the state has all."""
    node = gated(gate, state)
    if isinstance(node, Product):
        node.carries = True
    return node


def multiply(one: Node, other: Node) -> Node:
    """The product of two gates, or of two signals."""
    return _product(one, other, two_signals=True)


def _product(gate: Node, signal: Node, *, two_signals: bool) -> Node:
    shape = np.broadcast_shapes(gate.shape, signal.shape)
    gate, signal = broadcast(gate, shape), broadcast(signal, shape)
    if isinstance(gate, Constant):
        return scale(signal, gate.value.reshape(shape))
    with np.errstate(invalid="ignore"):
        ends = [a * b for a in (gate.low, gate.high) for b in (signal.low, signal.high)]
    ends = np.nan_to_num(ends, nan=0.0, posinf=np.inf, neginf=-np.inf)  # 0 · ∞
    low, high = np.minimum(ends.min(axis=0), 0.0), np.maximum(ends.max(axis=0), 0.0)
    return Product(
        shape=shape, low=low, high=high, gate=gate, signal=signal, two_signals=two_signals
    )


def blend(z: Node, one: Node, other: Node, state: Node | None) -> Node:
    """(1 − z) · one + z · other, a convex combination: its domain is the hull of both.

    `state` is that of them which is the state before, if one is.
    """
    rest = add(scale(z, -1.0), constant(np.ones(z.shape)))
    pairs = [(rest, one), (z, other)]
    node = add(*((carried if s is state else gated)(gate, s) for gate, s in pairs))
    node.low, node.high = np.minimum(one.low, other.low), np.maximum(one.high, other.high)
    return node


def broadcast(node: Node, shape: Shape) -> Node:
    """`node` repeated along axes to have this shape."""
    if node.shape == shape:
        return node
    return rearrange([node], lambda ids: np.broadcast_to(ids[0], shape))


# Which elements are pre-activations


def _is_preactivation(node: Node) -> Mask:
    if isinstance(node, Gather):
        return np.concatenate([_is_preactivation(source) for source in node.sources])[node.index]
    return np.full(node.size, isinstance(node, Affine) and node.plain)


def _is_gated_preactivation(node: Node) -> Mask:
    gated_signal = isinstance(node, Product) and not node.two_signals
    return np.full(node.size, gated_signal and bool(_is_preactivation(node.signal).all()))  # type: ignore[attr-defined]


def _parts(node: Node) -> list[Part]:
    """An addend of a linear node: what a pre-activation is made of, others with the identity.

    A gated constant is a gated bias, as U h + b is at the first step.
    """
    match node:
        case Affine():
            return list(node.units)
        case Constant():
            return [Part((), node.value)]
        case Product(signal=Constant()) if not node.two_signals:
            return [Part((), node.signal.value, node.gate)]  # type: ignore[attr-defined]
        case Product() if _is_gated_preactivation(node).all():
            (part,) = _parts(node.signal)
            return [Part(part.terms, part.bias, node.gate, node.carries)]
        case Gather() if _is_preactivation(node).any():
            return list(_gathered(node.sources, node.index).units)
    eye = np.eye(node.size)
    return [Part((Term(node, eye, eye),), np.zeros(node.size))]


def _at(node: Node, positions: Index) -> Node:
    return rearrange([node], lambda ids: ids[0].reshape(-1)[positions])


def _by_mask(mask: Mask, make: Callable[[Index], Node], shape: Shape) -> Node:
    """What `make` gives for the marked positions and for the others, put together again."""
    positions = [np.flatnonzero(mask), np.flatnonzero(~mask)]
    order = np.argsort(np.concatenate(positions))
    made = [make(at) for at in positions]
    return rearrange(made, lambda ids: np.concatenate(ids)[order].reshape(shape))


# Moving elements


def rearrange(nodes: Sequence[Node], order: Callable[[list[Index]], Index]) -> Node:
    """Slice, reshape, permute, stack or concatenate, as `order` does with the features' numbers."""
    starts = np.cumsum([0, *(node.size for node in nodes)])
    ids = [
        np.arange(start, start + node.size).reshape(node.shape)
        for start, node in zip(starts, nodes, strict=False)
    ]
    placed = order(ids)
    index = placed.reshape(-1).astype(np.intp)
    sources, index = _without_gathers(nodes, starts, index)
    if all(isinstance(source, Constant) for source in sources):
        values = np.concatenate([source.value for source in sources])  # type: ignore[attr-defined]
        return constant(values[index].reshape(placed.shape))
    if all(isinstance(s, Constant) or _is_preactivation(s).all() for s in sources):
        gathered = _gathered(sources, index)
        return affine(placed.shape, gathered.units)
    low = np.concatenate([node.low for node in sources])[index]
    high = np.concatenate([node.high for node in sources])[index]
    return Gather(shape=placed.shape, low=low, high=high, sources=tuple(sources), index=index)


def _without_gathers(
    nodes: Sequence[Node], starts: Index, index: Index
) -> tuple[list[Node], Index]:
    """The nodes that hold the values, each once, and where the features lie in them."""
    places: dict[int, int] = {}
    sources: list[Node] = []
    width = 0
    moved: list[Index] = []
    for node in nodes:
        inner = node.sources if isinstance(node, Gather) else (node,)
        own: list[Index] = []
        for source in inner:
            if source.serial not in places:
                places[source.serial] = width
                sources.append(source)
                width += source.size
            own.append(places[source.serial] + np.arange(source.size))
        flat_own = np.concatenate(own)
        moved.append(flat_own[node.index] if isinstance(node, Gather) else flat_own)
    return _used(sources, np.concatenate(moved)[index])


def _used(sources: list[Node], index: Index) -> tuple[list[Node], Index]:
    starts = np.cumsum([0, *(source.size for source in sources)])
    kept: list[Node] = []
    shift = np.zeros(len(index), np.intp)
    width = 0
    for source, start in zip(sources, starts, strict=False):
        inside = (index >= start) & (index < start + source.size)
        if inside.any():
            shift[inside] = width - start
            kept.append(source)
            width += source.size
    return kept, index + shift


def _gathered(sources: Sequence[Node], index: Index) -> Affine:
    """Features of pre-activations and others side by side as one linear node without gates.

    Nodes side by side have disjoint outputs, so their terms over one source are one matrix; two
    terms of one node over the same source (a sum) overlap and stay apart: hence the counter.
    """
    starts = np.cumsum([0, *(source.size for source in sources)])
    merged: dict[tuple[int, int], Term] = {}
    bias = np.zeros(index.size)
    for start, source in zip(starts, sources, strict=False):
        (part,) = _parts(source)
        at = np.flatnonzero((index >= start) & (index < start + source.size))
        units = index[at] - start
        bias[at] = part.bias[units]
        seen: dict[int, int] = {}
        for term in part.terms:
            count = seen[term.source.serial] = seen.get(term.source.serial, -1) + 1
            key = (term.source.serial, count)
            if key not in merged:
                blank = np.zeros((term.source.size, index.size))
                merged[key] = Term(term.source, blank, blank.copy())
            merged[key].weight[:, at] = term.weight[:, units]
            merged[key].magnitude[:, at] = term.magnitude[:, units]
    return affine((index.size,), [Part(tuple(merged.values()), bias)])


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
