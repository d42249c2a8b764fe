# SPDX-License-Identifier: Apache-2.0
"""What deep Taylor makes of values that may be negative: they join the linear nodes that read them.

A linear layer after a linear layer is one product; so are multiples, and sums of signed or boxed
values. A sum with a product of a gate among its addends is an activation (a state of GRU or LSTM).
"""

from __future__ import annotations

import dataclasses

import numpy as np
from reference_graph import (
    Affine,
    Array,
    Constant,
    Elementwise,
    Gather,
    Node,
    Part,
    Product,
    Relu,
    Scale,
    Sum,
    Term,
    affine,
    reachable,
)


def folded(output: Node) -> Node:
    """The graph whose linear nodes read what deep Taylor has rules for, as far as there are."""
    made: dict[int, Node] = {}
    for node in reachable(output):
        made[node.serial] = _rebuilt(node, made)
    return _linear_at_sum(made[output.serial])


def _rebuilt(node: Node, made: dict[int, Node]) -> Node:
    match node:
        case Affine():
            parts = [
                Part(tuple(_term(term, made) for term in part.terms), part.bias, _new(part, made))
                for part in node.units
            ]
            return affine(node.shape, [_folded_part(part) for part in parts])
        case Relu():
            parent = _linear_at_sum(made[node.parent.serial])
            return dataclasses.replace(node, parent=parent, serial=_next())
        case Elementwise():
            parent = made[node.parent.serial]
            return dataclasses.replace(node, parent=parent, serial=_next())
        case Gather():
            sources = tuple(made[source.serial] for source in node.sources)
            return dataclasses.replace(node, sources=sources, serial=_next())
        case Sum():
            addends = tuple(made[addend.serial] for addend in node.addends)
            return dataclasses.replace(node, addends=addends, serial=_next())
        case Product():
            gate, signal = made[node.gate.serial], made[node.signal.serial]
            return dataclasses.replace(node, gate=gate, signal=signal, serial=_next())
        case _:
            return node


def _next() -> int:
    """A serial beyond all others: dataclass fields made anew would keep the old one."""
    return Constant(shape=(0,), low=np.empty(0), high=np.empty(0), value=np.empty(0)).serial


def _term(term: Term, made: dict[int, Node]) -> Term:
    return Term(made[term.source.serial], term.weight, term.magnitude)


def _new(part: Part, made: dict[int, Node]) -> Node | None:
    return None if part.gate is None else made[part.gate.serial]


def _folded_part(part: Part) -> Part:
    terms: list[Term] = []
    bias = part.bias.copy()
    pending = list(part.terms)[::-1]
    while pending:
        term = pending.pop()
        inner, shift = _inside(term)
        if inner is None:
            terms.append(term)
        else:
            bias += shift
            pending += inner[::-1]
    return Part(tuple(terms), bias, part.gate)


def _inside(term: Term) -> tuple[list[Term] | None, Array | float]:
    """What a term's source is made of, and the constant that comes with it; None: it stays."""
    source, weight, magnitude = term.source, term.weight, term.magnitude
    match source:
        case Affine() if source.plain:
            (part,) = source.units
            inner = [Term(t.source, t.weight @ weight, t.magnitude @ magnitude) for t in part.terms]
            return inner, part.bias @ weight
        case Scale():
            c = source.coefficients[:, None]
            return [Term(source.parent, c * weight, abs(c) * magnitude)], 0.0
        case Sum() if _joins(source):
            constants = [a for a in source.addends if isinstance(a, Constant)]
            others = [a for a in source.addends if not isinstance(a, Constant)]
            shift = sum((c.value @ weight for c in constants), np.zeros(weight.shape[1]))
            return [Term(addend, weight, magnitude) for addend in others], shift
        case Gather() if any(_foldable(inner) for inner in source.sources):
            return _through_gather(source, weight, magnitude), 0.0
    return None, 0.0


def _foldable(node: Node) -> bool:
    plain = isinstance(node, Affine) and node.plain
    return plain or isinstance(node, Scale) or (isinstance(node, Sum) and _joins(node))


def _joins(node: Sum) -> bool:
    """Whether a sum joins its readers: a product makes it an activation, as does [0, ∞)."""
    addends = [
        inner
        for addend in node.addends
        for inner in (addend.sources if isinstance(addend, Gather) else (addend,))
    ]
    if any(isinstance(addend, Product) for addend in addends):
        return False
    return bool(any((a.low < 0).any() for a in node.addends) or np.isfinite(node.high).any())


def _through_gather(node: Gather, weight: Array, magnitude: Array) -> list[Term]:
    width = sum(source.size for source in node.sources)
    spread = np.zeros((2, width, weight.shape[1]))
    np.add.at(spread[0], node.index, weight)
    np.add.at(spread[1], node.index, magnitude)
    terms: list[Term] = []
    start = 0
    for source in node.sources:
        rows = slice(start, start + source.size)
        terms.append(Term(source, spread[0, rows], spread[1, rows]))
        start += source.size
    return terms


def _linear_at_sum(node: Node) -> Node:
    """A signed sum that a ReLU or the output reads is a linear node of its addends."""
    if not _signed(node):
        return node
    eye = np.eye(node.size)
    part = Part((Term(node, eye, eye),), np.zeros(node.size))
    return affine(node.shape, [_folded_part(part)])


def _signed(node: Node) -> bool:
    if isinstance(node, Gather):
        return any(_signed(source) for source in node.sources)
    joins = isinstance(node, Sum) and _joins(node)
    return joins or (isinstance(node, Scale) and bool((node.low < 0).any()))
