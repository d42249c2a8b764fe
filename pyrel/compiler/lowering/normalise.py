# SPDX-License-Identifier: Apache-2.0
"""Layer normalisation."""

from __future__ import annotations

import numpy as np

from pyrel.compiler.graph.intervals import apart
from pyrel.compiler.graph.nodes import Normalise
from pyrel.compiler.lowering.emitter import Emitter
from pyrel.compiler.lowering.linear import divide_by
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance
from pyrel.compiler.program.instructions import Normalise as NormaliseRows
from pyrel.compiler.program.instructions import NormaliseBack
from pyrel.methods import other_rules


def forward_normalise(node: Normalise, emitter: Emitter, _: Placement | None) -> None:
    """Normalise each row."""
    rows, width = node.inputs.shape
    source = emitter.value(node.inputs[:, 0])
    out = emitter.value(node.start + np.arange(rows) * width)
    emitter.emit(NormaliseRows(source[0], width, out[0], node.epsilon), source[1], out[1])


def back_normalise(node: Normalise, relevance: Relevance, placement: Placement) -> None:
    """Take the derivative; or, of relevance, take the standard deviation for a constant."""
    rule, emitter = placement.rules[node.start], relevance.emitter
    detached = isinstance(rule, other_rules.ConstantDeviation)
    if isinstance(rule, other_rules.ConstantDeviation):
        divide_by(node, relevance, placement, node.start, None, rule.epsilon, False)
    width = node.inputs.shape[1]
    rows = np.arange(node.inputs.shape[0]) * width
    addresses = node.inputs[:, 0]
    for some in apart(addresses, width):
        accumulate = relevance.accumulates(addresses[some], width)
        source = relevance.place(node.start + rows[some])
        value, out = emitter.value(addresses[some]), relevance.place(addresses[some])
        template = NormaliseBack(
            source[0], value[0], width, out[0], node.epsilon, detached, accumulate
        )
        op = emitter.emit(template, source[1], value[1], out[1])
        relevance.record(op, addresses[some], width)
