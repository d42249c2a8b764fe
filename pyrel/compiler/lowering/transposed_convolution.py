# SPDX-License-Identifier: Apache-2.0
"""The way back through rows that overlap, such as the positions of a kernel, as products.

What a convolution hands down is its transpose times s. Written out for a block of addresses, such
as a few pixels of a line, that is one product: of the s of all positions that read something of the
block with their weights, zeros where a position does not read an address. Each result is written
once, and multiplied by its factor in the same instruction. Blocks that are read alike are rows of
one instruction; those at the border, which fewer positions read, are others'.

Larger blocks have more zeros among their weights, but fill vectors, and share what a row costs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from pyrel.compiler.graph.intervals import Integers, common_runs
from pyrel.compiler.graph.nodes import Addresses, Floats
from pyrel.compiler.limits import LINE, RESULT_COST, ROW_COST, SEGMENTS
from pyrel.methods.terms import Mask

Count = TypeVar("Count", int, Integers)

# As in `pyrel.compiler.passes.join_positions`, in multiply-adds of vectors: a run of a row's
# operands; an instruction.
_RUN, _PRODUCT = 2, 40
_MOST_COLUMNS = 48  # of blocks of several pieces
# In all products of a term: a second-level cache. Borders have weights of their own, so that with
# many channels they would come to several times the kernel's. Then few lanes are left empty anyhow.
_MOST_WEIGHTS = 1 << 18


@dataclass(frozen=True, eq=False)
class Blocks:
    """Blocks of addresses that positions read alike.

    Attributes
    ----------
    starts : ndarray of int64, shape (blocks,)
        The first address of each.
    size : int
        Addresses of a block.
    firsts : ndarray of int64, shape (runs, blocks)
        The first of each run of positions that read something of a block.
    lengths : tuple of int
        Positions in each run.
    reads : ndarray of int64, shape (3, reads)
        What is read: by which of these positions, which address of the block, with which tap.
    """

    starts: Addresses
    size: int
    firsts: Integers
    lengths: tuple[int, ...]
    reads: Integers

    def matrix(self, taps: Floats) -> Floats:
        """Return the weights of the product, (positions x outputs, size), from those of the taps.

        ``taps`` is (taps, outputs of a position).
        """
        position, element, tap = self.reads
        matrix = np.zeros((sum(self.lengths), self.size, taps.shape[1]))
        np.add.at(matrix, (position, element), taps[tap])
        return matrix.swapaxes(1, 2).reshape(-1, self.size)

    def pieces(self) -> Iterator[Blocks]:
        """Cut blocks with more runs than a product can read into some whose results add up."""
        edges = np.concatenate([[0], np.cumsum(self.lengths)])
        for runs in np.array_split(np.arange(len(self.lengths)), _products(len(self.lengths))):
            first, stop = edges[runs[0]], edges[runs[-1] + 1]
            reads = self.reads[:, (self.reads[0] >= first) & (self.reads[0] < stop)]
            yield replace(
                self,
                firsts=self.firsts[runs],
                lengths=self.lengths[runs[0] : runs[-1] + 1],
                reads=reads - np.array([[first], [0], [0]]),
            )


@dataclass(frozen=True, eq=False)
class WayBack:
    """How to form what the rows of a node hand down.

    ``together`` says that one product forms the sums of all terms, side by side. ``support`` is as
    for `find_way_back`.
    """

    blocks: tuple[Blocks, ...]
    together: bool
    support: Mask

    def matrix(self, blocks: Blocks, weight: Floats) -> Floats:
        """Return the weights of the product for some blocks; ``weight`` is (outputs, inputs)."""
        positions, inputs = self.support.shape
        part, column = np.nonzero(self.support)
        taps = weight.reshape(positions, -1, inputs)[part, :, column]
        return blocks.matrix(taps)


def find_way_back(
    inputs: Addresses,
    sources: Addresses,
    owners: Integers,
    support: Mask,
    width: int,
    terms: int,
) -> WayBack | None:
    """Choose blocks by a count of vectors.

    Parameters
    ----------
    inputs : ndarray of int64, shape (rows, inputs)
        The addresses that each row reads.
    sources : ndarray of int64, shape (rows, inputs)
        The addresses that get the relevance, from 0 on: the inputs, or what they are copies of.
        Below 0 where nobody asks for it.
    owners : ndarray of int64
        By such an address: the node it belongs to, below 0 for the graph's input.
    support : ndarray of bool, shape (positions, inputs)
        Which of a row's inputs each of its positions reads.
    width : int
        Outputs of a position.
    terms : int
        How many sums each address needs: each has weights of its own.

    Returns
    -------
    WayBack or None
        None if blocks would take more time than products that add up what each row hands down, or
        too many weights.
    """
    if not (sources[:, support.any(axis=0)] >= 0).any():
        return WayBack((), False, support)
    pieces = _Pieces(inputs, sources, owners, support)
    most = max(_MOST_WEIGHTS, width * support.size)
    best, least = None, _cost_of_adding_up(inputs, width * len(support), terms)
    for count in pieces.counts():
        cut = _Cut(pieces, count)
        if int((cut.sizes * cut.depths)[cut.examples].sum()) * width > most:
            continue
        for together in {False, terms > 1}:
            cost = cut.cost(width, terms, together)
            if cost < least:
                best, least = (cut, together), cost
    if best is None:
        return None
    return WayBack(tuple(best[0].blocks()), best[1], support)


class _Pieces:
    """Runs of addresses that the same positions read, such as the channels of a pixel."""

    def __init__(
        self, inputs: Addresses, sources: Addresses, owners: Integers, support: Mask
    ) -> None:
        part, column = np.nonzero(support)
        address = sources[:, column]
        position = np.arange(len(inputs))[:, None] * len(support) + part
        self.positions = len(inputs) * len(support)
        where = np.flatnonzero(address >= 0)
        tap = where % column.size
        order = np.lexsort((tap, position.ravel()[where], address.ravel()[where]))
        where, self.tap = where[order], tap[order]
        self.address, self.position = address.ravel()[where], position.ravel()[where]
        new = np.diff(self.address, prepend=-1) != 0
        first = np.flatnonzero(new)  # read of each address
        count = np.diff(first, append=self.address.size)
        number = np.cumsum(new) - 1  # of each read's address
        before = np.concatenate([[0], count[:-1]])
        alike = (count == before)[number]
        alike &= self.position == self.position[np.arange(number.size) - before[number]]
        read = self.address[first]
        apart = (np.diff(read, prepend=-2) != 1) | (np.diff(owners[read], prepend=-2) != 0)
        cuts = np.flatnonzero(~np.logical_and.reduceat(alike, first) | apart)
        self.edges = np.append(first[cuts], self.address.size)  # of the reads of each piece
        self.starts = read[cuts]
        self.sizes = np.diff(cuts, append=first.size)
        self.first_positions = self.position[first[cuts]]
        self.kinds = self._kinds(owners[self.starts] < 0)
        # Which position reads which piece: all read its first address.
        pairs = count[cuts]
        self.pair_pieces = np.repeat(np.arange(cuts.size), pairs)
        offsets = np.arange(self.pair_pieces.size) - np.repeat(np.cumsum(pairs) - pairs, pairs)
        self.pair_positions = self.position[np.repeat(first[cuts], pairs) + offsets]
        line = _lines(inputs, len(support) > 1)[:, column].ravel()[where[first[cuts]]]
        self._in_run = _places(apart[cuts])
        self._in_line = _places(apart[cuts] | (np.diff(line, prepend=line[:1]) != 0))

    def _kinds(self, raw: Mask) -> Integers:
        """Give pieces that are read alike, by positions as far apart, the same number.

        Those of the graph's input, which are ``raw``, have others.
        """
        reads = np.stack([self.address, self.position, self.tap], axis=1)
        moved = np.stack([self.starts, self.first_positions, raw.astype(np.int64)], axis=1)
        reads -= np.repeat(moved, np.diff(self.edges), axis=0)
        return _numbered(reads, self.edges)

    def counts(self) -> list[int]:
        """List how many pieces to try to make a block: equal parts of a line, or whole lines."""
        longest = int(self._in_line.max()) + 1
        counts = {-(-longest // blocks) for blocks in range(1, longest + 1)}
        most = min(int(self._in_run.max()) + 1, _MOST_COLUMNS // int(np.median(self.sizes)))
        counts.update(range(longest, most + 1, longest))
        return sorted(count for count in counts if count <= max(1, most))

    def begin(self, count: int) -> Mask:
        """Mark the pieces at which blocks of so many begin."""
        places = self._in_line if count <= self._in_line.max() + 1 else self._in_run
        begins: Mask = places % count == 0
        return begins


class _Cut:
    """Lines cut into blocks of so many pieces."""

    def __init__(self, pieces: _Pieces, count: int) -> None:
        self._pieces = pieces
        new = pieces.begin(count)
        block = np.cumsum(new) - 1  # of each piece
        self._edges = np.append(np.flatnonzero(new), new.size)  # of the pieces of each block
        self.sizes = np.add.reduceat(pieces.sizes, self._edges[:-1])
        both = np.unique(block[pieces.pair_pieces] * pieces.positions + pieces.pair_positions)
        self._block, self._position = np.divmod(both, pieces.positions)
        self.depths = np.bincount(self._block)  # in positions
        new_run = (np.diff(both, prepend=-2) != 1) | (np.diff(self._block, prepend=-1) != 0)
        self._run = np.flatnonzero(new_run)
        self._runs = np.bincount(self._block[self._run])
        self._first = self._position[np.cumsum(self.depths) - self.depths]
        offsets = pieces.first_positions - self._first[block]
        self._kinds = _numbered(np.stack([pieces.kinds, offsets], axis=1), self._edges)
        self.examples = np.unique(self._kinds, return_index=True)[1]  # a block of each kind

    def cost(self, width: int, terms: int, together: bool) -> int:
        """Vector multiply-adds of all products; ``together`` with what follows for each term."""
        products = _products(self._runs)
        depth = width * self.depths + products * RESULT_COST
        rest = products * ROW_COST + _RUN * self._runs
        if together:
            apart = terms * (_vectors(self.sizes) * RESULT_COST + ROW_COST)
            each = _vectors(terms * self.sizes) * depth + rest + apart
        else:
            each = terms * (_vectors(self.sizes) * depth + rest)
        return int(each.sum()) + _PRODUCT * terms * self.examples.size

    def blocks(self) -> Iterator[Blocks]:
        """Yield blocks of each kind, as many as a product can have runs at a time."""
        pieces = self._pieces
        runs = np.append(self._run, self._position.size)
        for kind, example in enumerate(self.examples.tolist()):
            some = np.flatnonzero(self._kinds == kind)
            first, last = self._edges[example], self._edges[example + 1]
            own = slice(pieces.edges[first], pieces.edges[last])
            number = np.flatnonzero(self._block[self._run] == example)
            positions = self._position[self._block == example]
            yield from Blocks(
                starts=pieces.starts[self._edges[some]],
                size=int(self.sizes[example]),
                firsts=(self._position[self._run[number]] - self._first[example])[:, None]
                + self._first[some],
                lengths=tuple((runs[number + 1] - runs[number]).tolist()),
                reads=np.stack(
                    [
                        np.searchsorted(positions, pieces.position[own]),
                        pieces.address[own] - pieces.starts[first],
                        pieces.tap[own],
                    ]
                ),
            ).pieces()


def _numbered(rows: Integers, edges: Integers) -> Integers:
    """Give equal stretches of rows the same number; numbers in the order they come in."""
    known: dict[bytes, int] = {}
    parts = [
        rows[first:stop].tobytes()
        for first, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)
    ]
    return np.array([known.setdefault(part, len(known)) for part in parts])


def _lines(inputs: Addresses, joined: bool) -> Integers:
    """Return numbers of the lines that addresses lie in, as the starts of rows show them.

    Where these stop going on evenly a line begins. ``joined`` rows that never do are a line each.
    """
    starts = inputs[:, 0]
    steps = np.diff(starts)
    breaks = np.flatnonzero(steps != steps[:1])
    period = int(starts[breaks[0] + 1] - starts[0]) if breaks.size else 0
    if joined and steps.size and not breaks.size:
        period = int(steps[0])
    lines: Integers = (inputs - starts[0]) // period if period > 0 else np.zeros_like(inputs)
    return lines


def _places(new: Mask) -> Integers:
    """Count from 0 wherever ``new`` says so."""
    places: Integers = np.arange(new.size) - np.flatnonzero(new)[np.cumsum(new) - 1]
    return places


def _cost_of_adding_up(inputs: Addresses, width: int, terms: int) -> int:
    """Vector multiply-adds of products that read what is there already, and add to it."""
    each = sum(
        _vectors(j - i) * (width + 2 * RESULT_COST) + ROW_COST for i, j in common_runs(inputs)
    )
    return terms * len(inputs) * int(each)


def _products(runs: Count) -> Count:
    return -(-runs // SEGMENTS)


def _vectors(columns: Count) -> Count:
    return -(-columns // LINE)
