# SPDX-License-Identifier: Apache-2.0
"""Softmaxes: R of a logit x_i is x_i (R_i − s_i Σ R), R being the relevance of the weights s."""

from __future__ import annotations

import numpy as np

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.softmax import Softmax
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.lowering.parts import at
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance
from pyrel.compiler.passes.finite_masks import FINITE, is_source
from pyrel.compiler.program.enums import Scale, Share, Space
from pyrel.compiler.program.instructions import Activate, Epilogue, Gather, Reduce


def forward_softmax(node: Softmax, emitter: Emitter, _: Placement | None) -> None:
    """Multiply exponentials by the reciprocals of their sums."""
    emitter.multiply(node.inputs[:2], node.start)


def back_softmax(node: Softmax, relevance: Relevance, placement: Placement) -> None:
    """Give each logit x_i (R_i − s_i Σ R); what these do not sum to is absorbed.

    What has no logit but a constant is absorbed, too.
    """
    emitter = relevance.emitter
    relevance.absorb_all(node)
    share, logits = _without_mean(node, relevance), _side_by_side(node, emitter)
    # Nothing of this is absorbed: it measures Σ |R|, which may be more than arrived.
    relevance.absorb(share, node.size, Share.stabiliser, operand=-1 - int(logits[1][0]))
    epilogue = Epilogue(scale=Scale.operand, scale_space=logits[0])
    emitter.map(share, node.size, share, epilogue, logits[1])
    variable = (node.logits >= 0).astype(float)
    relevance.absorb(share, node.size, vector=-variable)
    relevance.pass_on(node, node.logits, shares=at(share))


def _without_mean(node: Softmax, relevance: Relevance) -> Place:
    """Form R_i − s_i Σ R, the sum being over the row of each weight."""
    emitter = relevance.emitter
    place = Space.arena, np.array([emitter.reserve(node.size)])
    emitter.map(relevance.place(node.start), node.size, place)
    starts, lengths = node.rows
    minus = Epilogue(scale=Scale.vector, scale_vector=emitter.program.vector(np.array([-1.0])))
    for length in np.unique(lengths).tolist():
        rows = starts[lengths == length]
        source, weights = relevance.place(node.start + rows), emitter.value(node.start + rows)
        total = Space.arena, emitter.reserve(rows.size) + np.arange(rows.size)
        emitter.emit(Reduce(source[0], length, 1, 1, total[0]), source[1], total[1])
        emitter.map(total, 1, total, minus)
        index = emitter.program.index(np.zeros(length, dtype=np.int64))
        repeated = Space.arena, emitter.reserve(rows.size * length) + np.arange(rows.size) * length
        emitter.emit(Gather(total[0], 1, index, length, repeated[0]), total[1], repeated[1])
        times = Epilogue(scale=Scale.operand, scale_space=weights[0], accumulate=True)
        emitter.map(repeated, length, (place[0], place[1] + rows), times, weights[1])
    return place


def _side_by_side(node: Softmax, emitter: Emitter) -> Place:
    """Copy the logits; one that a mask of token ids made −∞, whose weight is 0, becomes 0."""
    place = Space.arena, np.array([emitter.reserve(node.size)])
    constant = node.logits < 0
    if constant.any():
        values = np.where(constant, emitter.graph.constant_values(node.logits), 0.0)
        emitter.map(None, node.size, place, Epilogue(bias=emitter.vector(values)))
    variable = np.flatnonzero(~constant)
    for size, first in emitter.row_groups(np.stack([node.logits[variable], node.start + variable])):
        where = variable[first]
        emitter.map(emitter.value(node.logits[where]), size, (place[0], place[1] + where))
    if any(is_source(each) for each in emitter.graph.nodes):
        _zero_left_out(place, node.size, emitter)
    return place


def _zero_left_out(place: Place, size: int, emitter: Emitter) -> None:
    """Make numbers 0 that are below what a mask makes of logits that it leaves out."""
    template = Activate(place[0], size, place[0], Function.at_least, -FINITE)
    emitter.emit(template, place[1], place[1])
    above = Space.arena, np.array([emitter.reserve(size)])
    bias = emitter.vector(np.full(size, FINITE / 10))
    emitter.map(place, size, above, Epilogue(bias=bias))
    emitter.emit(Activate(above[0], size, above[0], Function.step), above[1], above[1])
    times = Epilogue(scale=Scale.operand, scale_space=above[0])
    emitter.map(place, size, place, times, above[1])
