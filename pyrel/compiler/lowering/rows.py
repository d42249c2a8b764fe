# SPDX-License-Identifier: Apache-2.0
"""The way back of linear nodes of many rows, such as the positions of a kernel."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.intervals import Integers, apart, common_runs
from pyrel.compiler.graph.nodes import Addresses, Floats, Linear
from pyrel.compiler.lowering.cache import Matrix
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.lowering.relevance import Relevance, Shares
from pyrel.compiler.lowering.transposed_convolution import Blocks, WayBack, find_way_back
from pyrel.compiler.program.enums import Scale, Space
from pyrel.compiler.program.instructions import Epilogue, Offsets
from pyrel.compiler.program.program import Contents
from pyrel.methods.terms import Factor, Term


def back_rows(node: Linear, relevance: Relevance, terms: tuple[Term, ...], shares: Shares) -> None:
    """Give relevance to what many rows read."""
    for alike in _alike(terms):
        columns = np.flatnonzero(alike[0].features)
        found = _find_way_back(node, relevance.emitter, columns, len(alike))
        if found is None:
            for term in alike:
                _add_up(node, relevance, term, shares)
            continue
        way_back, first = found
        for number, blocks in enumerate(way_back.blocks):
            if way_back.together:
                _give_together(node, relevance, shares, (way_back, number, first), alike)
                continue
            for term in alike:
                matrix = _matrix(way_back, number, term)
                _give(node, relevance, shares, blocks, first, matrix, term.factor)


def _alike(terms: tuple[Term, ...]) -> Iterator[tuple[Term, ...]]:
    """Group terms for the same inputs, such as the two of the z^β rule for pixels."""
    for term in terms:
        same = [t for t in terms if np.array_equal(t.features, term.features)]
        if same[0] is term:
            yield tuple(same)


def _find_way_back(
    node: Linear, emitter: Emitter, columns: Integers, terms: int
) -> tuple[WayBack, int] | None:
    """Find blocks for some columns of a node's inputs, and the address they count from.

    What the inputs are copies of gets the relevance at once, unless it lies in more pieces.
    """
    facts = emitter.facts
    inputs = node.inputs[:, columns]
    sources = facts.sources(emitter.program.conserves)[inputs]
    copies = np.where(sources < 0, -1, inputs)
    if _breaks(sources) > _breaks(copies):
        sources = copies
    first, last = int(sources[sources >= 0].min(initial=facts.graph.size)), int(sources.max())
    owners = facts.owners[first : last + 1]
    lowest = owners[owners >= 0].min(initial=len(facts.graph.nodes))
    owners = np.where(owners < 0, -1, owners - lowest)
    width = node.width // node.positions
    support = np.ones((node.positions, columns.size), dtype=bool)
    if node.positions > 1 and node.connected is not None:
        connected = node.connected[:, columns].reshape(node.positions, -1, columns.size)
        support = np.asarray(connected.any(axis=1))
    # A row that is one position reads all, whatever its weights.
    read = (inputs - inputs.min(), np.where(sources < 0, -1, sources - first), owners, support)
    key = (*(Contents(np.ascontiguousarray(part)) for part in read), width, terms)
    if key not in emitter.cache.ways_back:
        emitter.cache.ways_back[key] = find_way_back(*read, width, terms)
    way_back = emitter.cache.ways_back[key]
    return None if way_back is None else (way_back, first)


def _breaks(addresses: Addresses) -> int:
    """How often addresses do not go on within a row, those below zero left out."""
    left, right = addresses[:, :-1], addresses[:, 1:]
    return int(((right - left != 1) & (left >= 0) & (right >= 0)).sum())


def _matrix(way_back: WayBack, number: int, *terms: Term) -> Matrix:
    """Return the weights of the product for some blocks, those of several terms side by side."""
    blocks = way_back.blocks[number]

    def make() -> Floats:
        return np.concatenate([way_back.matrix(blocks, term.matrix) for term in terms], axis=1)

    return Matrix((way_back, number, terms), blocks.size * len(terms), make)


def _segments_of(node: Linear, shares: Shares, blocks: Blocks) -> list[tuple[Place, int]]:
    """Where the shares of the positions lie that read some blocks."""
    width = node.width // node.positions
    return [
        (shares(firsts * width), length * width)
        for firsts, length in zip(blocks.firsts, blocks.lengths, strict=True)
    ]


def _give(
    node: Linear,
    relevance: Relevance,
    shares: Shares,
    blocks: Blocks,
    first: int,
    matrix: Matrix,
    factor: Factor,
) -> None:
    """Give relevance to blocks of what many rows read, by one product."""
    emitter, starts = relevance.emitter, first + blocks.starts
    epilogue, offsets = factor_epilogue(emitter, factor, starts, blocks.size)
    epilogue = replace(epilogue, accumulate=relevance.accumulates(starts, blocks.size))
    segments, out = _segments_of(node, shares, blocks), relevance.place(starts)
    bf16 = emitter.bf16_relevance
    op = emitter.gemm(segments, matrix, out, epilogue, *offsets, bf16=bf16)
    relevance.record(op, starts, blocks.size)


def _give_together(
    node: Linear,
    relevance: Relevance,
    shares: Shares,
    found: tuple[WayBack, int, int],
    terms: tuple[Term, ...],
) -> None:
    """Do what `_give` does for terms whose sums lie side by side, where one would be short."""
    way_back, number, first = found
    emitter, blocks = relevance.emitter, way_back.blocks[number]
    starts, size = first + blocks.starts, blocks.size
    columns = size * len(terms)
    sums = emitter.reserve(columns * starts.size) + columns * np.arange(starts.size)
    segments, matrix = _segments_of(node, shares, blocks), _matrix(way_back, number, *terms)
    emitter.gemm(segments, matrix, (Space.arena, sums), Epilogue(), bf16=emitter.bf16_relevance)
    for place, term in enumerate(terms):
        epilogue, offsets = factor_epilogue(emitter, term.factor, starts, size)
        epilogue = replace(epilogue, accumulate=relevance.accumulates(starts, size))
        source, out = (Space.arena, sums + place * size), relevance.place(starts)
        relevance.record(emitter.map(source, size, out, epilogue, *offsets), starts, size)


def _add_up(node: Linear, relevance: Relevance, term: Term, shares: Shares) -> None:
    """Add up what each row gives its inputs, by products whose rows do not overlap.

    Where there is a factor, the sums are formed apart and then multiplied.
    """
    emitter = relevance.emitter
    inputs = node.inputs[:, term.features]
    rows = shares(np.arange(len(inputs)) * node.width)
    owners = emitter.facts.owners[inputs[0]]
    for owner in np.unique(owners).tolist():
        own = np.flatnonzero(owners == owner)
        addresses = inputs[:, own]
        first = int(addresses.min())
        size = int(addresses.max()) + 1 - first
        if term.factor == Factor.one:
            relevance.clear_unwritten(first, size)
            sums = relevance.place(first)
        else:
            sums = Space.arena, np.array([emitter.reserve(size)])
            emitter.map(None, size, sums)
        for i, j in common_runs(addresses):
            columns = own[i:j]
            matrix = Matrix((term, columns.tobytes()), j - i, _columns_of(term, columns))
            starts = addresses[:, i]
            for some in apart(starts, j - i):
                op = emitter.gemm(
                    [((rows[0], rows[1][some]), node.width)],
                    matrix,
                    (sums[0], sums[1] + starts[some] - first),
                    Epilogue(accumulate=True),
                    bf16=emitter.bf16_relevance,
                )
                if term.factor == Factor.one:
                    relevance.record(op, starts[some], j - i)
        if term.factor != Factor.one:
            epilogue, offsets = factor_epilogue(emitter, term.factor, np.array([first]), size)
            epilogue = replace(epilogue, accumulate=relevance.accumulates(first, size))
            op = emitter.map(sums, size, relevance.place(first), epilogue, *offsets)
            relevance.record(op, first, size)


def _columns_of(term: Term, columns: Integers) -> Callable[[], Floats]:
    return lambda: term.matrix[:, columns]


def factor_epilogue(
    emitter: Emitter, factor: Factor, addresses: Addresses, size: int
) -> tuple[Epilogue, list[Offsets]]:
    """Return the epilogue that multiplies by a factor, and its operands' places.

    ``addresses`` are those of rows of ``size`` inputs.
    """
    if factor == Factor.one:
        return Epilogue(), []
    if factor.is_clipped:
        return _factor_operand(emitter, factor, addresses, size)
    space, offsets = emitter.value(addresses)
    every = addresses[:, None] + np.arange(size)
    bounds = emitter.bounds(every.ravel(), factor).reshape(every.shape)
    if not bounds.any():
        return Epilogue(scale=Scale.operand, scale_space=space), [offsets]
    if (bounds != bounds[0]).any():
        return _factor_operand(emitter, factor, addresses, size)
    vector = emitter.program.vector(bounds[0])
    scale = Scale.operand_minus_vector
    return Epilogue(scale=scale, scale_space=space, scale_vector=vector), [offsets]


def _factor_operand(
    emitter: Emitter, factor: Factor, addresses: Addresses, size: int
) -> tuple[Epilogue, list[Offsets]]:
    """Form the factors in the arena, and multiply by them."""
    span = np.arange(addresses.min(), addresses.max() + size)
    offsets = emitter.factor_places(span, factor)[addresses - span[0]]
    return Epilogue(scale=Scale.operand, scale_space=Space.arena), [offsets]
