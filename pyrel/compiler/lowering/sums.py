# SPDX-License-Identifier: Apache-2.0
"""Sums of activations, and the sums of powers in L^q norms."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pyrel.compiler.graph.nodes import Add, Addresses, picked
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.lowering.linear import divide_by
from pyrel.compiler.lowering.parts import Division, Divisor, at, divide_evenly
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance, Shares
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Epilogue, Reduce
from pyrel.methods import other_rules
from pyrel.methods.terms import Part


def forward_add(node: Add, emitter: Emitter, _: Placement | None) -> None:
    """Add up."""
    if node.alone:
        emitter.map_runs(node.inputs[0], node.start, Epilogue())
        return
    _add_up(node.inputs, emitter.value(node.start), emitter)


def _add_up(addends: Addresses, out: Place, emitter: Emitter) -> None:
    """Write the sum over the first axis of addends, (addends, size), from a place on."""
    size = addends.shape[1]
    constants = emitter.graph.constant_values(addends).sum(axis=0)
    parts = list(_equally_spaced(addends, emitter))
    accumulate = bool(constants.any()) or parts[0][1] == 1
    if accumulate:
        emitter.map(None, size, out, Epilogue(bias=emitter.vector(constants)))
    for first, stop in parts:
        addend = addends[first]
        known = np.flatnonzero(addend >= 0)
        # Behind all addresses, so that no run ends where one leaves the input.
        rows = np.stack([addend[known], emitter.graph.size + known])
        for columns, begins in emitter.row_groups(rows):
            where = known[begins]
            source, place = emitter.value(addend[where]), out[1] + where
            if stop - first == 1:
                emitter.map(source, columns, (out[0], place), Epilogue(accumulate=True))
                continue
            stride = int(addends[first + 1, 0] - addend[0])
            template = Reduce(source[0], stop - first, stride, columns, out[0], accumulate)
            emitter.emit(template, source[1], place)
        accumulate = True


def _equally_spaced(inputs: Addresses, emitter: Emitter) -> Iterator[tuple[int, int]]:
    """Cut addends into runs of one node's values at equal distances; yields (first, stop).

    So are the positions that a mean over maps adds up. Addends with constants stand alone.
    """
    owners = picked(emitter.facts.owners, inputs, -2)
    steps = np.diff(inputs, axis=0)
    follows = (owners[:-1] == owners[1:]) & (owners[:-1] != -2) & (steps == steps[:, :1])
    linked = follows.all(axis=1) & (steps[:, 0] > 0)
    first = 0
    while first < len(inputs):
        stop = first + 1
        while stop < len(inputs) and linked[stop - 1] and steps[stop - 1, 0] == steps[first, 0]:
            stop += 1
        yield first, stop
        first = stop


def back_add(node: Add, relevance: Relevance, placement: Placement) -> None:
    """R_i = a_i R / Σ a: in proportion to the addends, constants absorbing theirs.

    At a norm with the rule `ByValues` a_i is the value whose power is added. A gradient goes to
    every addend.
    """
    rule = placement.rules[node.start]
    if isinstance(rule, other_rules.ByValues):
        values = placement.facts.norms[node.start]
        divisor = Divisor(_sum_of(values, relevance.emitter), None, 0.0, np.zeros(node.size))
        _share(node, values, divisor, relevance, placement)
    elif isinstance(rule, other_rules.Proportional):
        signed = bool((placement.facts.domains.of(node.inputs)[0] < 0).any())
        constants = placement.facts.graph.constant_values(node.inputs).sum(axis=0)
        divisor = Divisor(node.start, None, rule.epsilon if signed else 0.0, constants)
        _share(node, node.inputs, divisor, relevance, placement)
    else:
        _pass_on(node, node.inputs, relevance)


def _sum_of(values: Addresses, emitter: Emitter) -> int:
    """Form Σ x; return the operand, as of `Relevance.finish`."""
    place = emitter.reserve(values.shape[1])
    _add_up(values, (Space.arena, np.array([place])), emitter)
    return -1 - place


def _share(
    node: Add, values: Addresses, divisor: Divisor, relevance: Relevance, placement: Placement
) -> None:
    """Share out in proportion to ``values``, one for each addend; ``divisor`` is their sum."""
    if placement.shares_bias:
        _share_sum(node, values, divisor, relevance, placement)
        return
    total, epsilon = divisor.operand, divisor.epsilon
    never_zero = not placement.relevant_at_zero[node.addresses].any() and not epsilon
    formed = total != node.start
    divide_by(node, relevance, placement, total, None, epsilon, never_zero, alone=formed)
    relevance.absorb_weighted(node, divisor.constant)
    _pass_on(node, node.inputs, relevance, values)


def _pass_on(
    node: Add,
    addends: Addresses,
    relevance: Relevance,
    factors: Addresses | None = None,
    shares: Shares | None = None,
) -> None:
    """Give every addend the sum's relevance, times what lies at its ``factors``.

    Those at equal distances get it by one instruction.
    """
    for first, stop in _equally_spaced(addends, relevance.emitter):
        together = addends[first:stop]
        operands = None if factors is None else factors[first:stop]
        if not relevance.is_even(together):
            for number, addend in enumerate(together):
                own = None if operands is None else operands[number]
                relevance.pass_on(node, addend, operands=own, shares=shares)
            continue
        origins = np.tile(np.arange(node.size), stop - first)
        every = None if operands is None else operands.ravel()
        relevance.pass_on(node, together.ravel(), operands=every, shares=shares, origins=origins)


def _share_sum(
    node: Add, values: Addresses, divisor: Divisor, relevance: Relevance, placement: Placement
) -> None:
    """Give the shares of constants and stabiliser to the other addends, in equal parts.

    What is always zero, such as a gate times a first state of zeros, gets none.
    """
    division = Division(node, relevance, placement.shares_bias)
    parts = [Part(())]
    (place,) = division.divide(parts, [divisor], exchanges=False)
    left = division.left_over(parts, [place], [divisor])
    assert left is not None
    _pass_on(node, node.inputs, relevance, values, at(place))
    low, high = placement.facts.domains.of(node.inputs)
    counted = (node.inputs >= 0) & ((low < 0) | (high > 0))
    number = counted.sum(axis=0)
    divide_evenly(node, relevance, left, number)
    _pass_on(node, np.where(counted, node.inputs, -1), relevance, shares=at(left))
