# SPDX-License-Identifier: Apache-2.0
"""Maxima: pools, and the even ones of gradients."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from pyrel.compiler.graph.intervals import Integers, apart
from pyrel.compiler.graph.nodes import Addresses, AtMaximum, EvenMaximum, MaxPool, picked
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.lowering.linear import divide_by
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance
from pyrel.compiler.program.enums import Share, Space
from pyrel.compiler.program.instructions import Epilogue, PoolRoute
from pyrel.compiler.program.instructions import MaxPool as MaxPoolOf
from pyrel.methods import other_rules
from pyrel.methods.terms import Mask


def forward_max_pool(node: MaxPool, emitter: Emitter, _: Placement | None) -> None:
    """Take the largest of each window."""
    for size, first in emitter.row_groups(node.inputs):
        sources = [emitter.value(each[first]) for each in node.inputs]
        out = emitter.value(node.start + first)
        template = MaxPoolOf(tuple(space for space, _ in sources), size, out[0])
        emitter.emit(template, *(offsets for _, offsets in sources), out[1])


def forward_at_maximum(node: AtMaximum, emitter: Emitter, _: Placement | None) -> None:
    """Route 1 to each value that is not less than the largest, which goes behind it."""
    width = node.inputs.shape[1]
    values, largest = node.inputs[:-1].ravel(), np.resize(node.inputs[-1], node.size)
    ones = Space.arena, np.array([emitter.reserve(width)])
    emitter.map(None, width, ones, Epilogue(bias=emitter.vector(np.ones(width))))
    rest = emitter.reserve(node.size)
    columns = np.resize(np.arange(width), node.size)
    read = np.stack([values, largest, emitter.graph.size + columns, node.addresses])
    for size, first in emitter.row_groups(read):
        places: list[Place] = [
            emitter.value(values[first]),
            emitter.value(largest[first]),
            (Space.arena, ones[1] + columns[first]),
            emitter.value(node.start + first),
            (Space.arena, rest + first),
        ]
        value, most, one, out, beside = (space for space, _ in places)
        template = PoolRoute((value, most), size, one, (out, beside))
        emitter.emit(template, *(offsets for _, offsets in places))


def forward_even_maximum(node: EvenMaximum, emitter: Emitter, _: Placement | None) -> None:
    """Copy the largest."""
    emitter.map_runs(node.inputs[-1], node.start, Epilogue())


def back_max_pool(node: MaxPool, relevance: Relevance, placement: Placement) -> None:
    """Give relevance to the first of the largest, or share it out: R_i = a_i R / Σ a.

    The latter is Montavon et al. 2017, section 5.2.
    """
    emitter = relevance.emitter
    padding = picked(placement.facts.padding, node.inputs, False)
    shares = in_proportion(node, placement)
    if shares and placement.relevant_at_zero[node.addresses].any():
        # All of a window may be zero where relevance arrives.
        place = relevance.place(node.start)
        relevance.absorb(place, node.size, Share.undivided, operand=node.start)
    for size, first in _without_self_overlap(emitter.row_groups(node.inputs), node, ~padding):
        real = ~padding[:, first]
        for some in _apart_but_padding(node.inputs[:, first], real, size):
            rows = first[some]
            addresses = node.inputs[:, rows]
            accumulate = relevance.accumulates(addresses[real[:, some]], size)
            values = [emitter.value(each) for each in addresses]
            source = relevance.place(node.start + rows)
            outs = _outs_but_padding(relevance, addresses, real[:, some], size, accumulate)
            template = PoolRoute(
                tuple(space for space, _ in values),
                size,
                source[0],
                tuple(space for space, _ in outs),
                shares,
                accumulate,
            )
            places = [*values, source, *outs]
            op = emitter.emit(template, *(offsets for _, offsets in places))
            relevance.record(op, np.unique(addresses[real[:, some]]), size)


def back_even_maximum(node: EvenMaximum, relevance: Relevance, placement: Placement) -> None:
    """Give all of the largest values the same."""
    number = int(node.inputs[-2, 0])
    divide_by(node, relevance, placement, number, None, 0.0, never_zero=True)
    for values, marks in zip(node.values, node.marks, strict=True):
        relevance.pass_on(node, values, operands=marks)


def in_proportion(node: MaxPool, placement: Placement) -> bool:
    """Whether all values of a window get relevance."""
    rule = placement.rules[node.start]
    padding = picked(placement.facts.padding, node.inputs, False)
    if not isinstance(rule, other_rules.InProportion):
        return False
    nonneg = bool((padding | (placement.facts.domains.of(node.inputs)[0] >= 0)).all())
    if rule.strict and not nonneg:
        where = f"module '{node.module}'" if node.module else "the model itself"
        raise ValueError(
            f'pooling="proportional": values of the maximum in {where} may be below zero; '
            'give pooling="winner"'
        )
    return nonneg


def _outs_but_padding(
    relevance: Relevance, addresses: Addresses, real: Mask, size: int, accumulate: bool
) -> list[Place]:
    """Where the relevance of a window's elements goes; that of padding, zero, goes aside."""
    outs = [relevance.place(each) for each in addresses]
    if real.all():
        return outs
    aside = np.array([relevance.emitter.reserve(size)])
    if accumulate:
        relevance.emitter.map(None, size, (Space.arena, aside))
    return [
        (space, np.where(here, offsets, aside)) if space == Space.arena else (space, offsets)
        for (space, offsets), here in zip(outs, real, strict=True)
    ]


def _apart_but_padding(addresses: Addresses, real: Mask, size: int) -> Iterator[Integers]:
    """Cut the windows of a pool into groups that do not overlap but in padding."""
    beyond = int(addresses.max()) + size
    numbers = np.arange(addresses.size).reshape(addresses.shape)
    yield from apart(np.where(real, addresses, beyond + size * numbers), size)


def _without_self_overlap(
    groups: Iterable[tuple[int, Integers]], node: MaxPool, real: Mask
) -> Iterator[tuple[int, Integers]]:
    """Cut runs of windows so short that the elements of one window lie in runs apart.

    With a stride of 1 the first elements of all windows are a run, as the second are, further on.
    """
    for size, first in groups:
        addresses = np.sort(np.where(real[:, first], node.inputs[:, first], -1), axis=0)
        gaps = np.diff(addresses, axis=0)[addresses[:-1] >= 0]
        width = min(size, int(gaps.min(initial=size)))
        whole = size // width * width
        starts = first[:, None] + np.arange(0, whole, width)
        yield width, starts.ravel()
        if whole < size:
            yield size - whole, first + whole
