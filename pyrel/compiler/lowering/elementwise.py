# SPDX-License-Identifier: Apache-2.0
"""Elementwise functions, factors, choices, copies and what is detached."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.intervals import by_vector, runs
from pyrel.compiler.graph.nodes import (
    Activation,
    Addresses,
    Choice,
    Copy,
    Node,
    Relu,
    picked,
)
from pyrel.compiler.graph.nodes import Scale as ScaleNode
from pyrel.compiler.limits import SEGMENTS
from pyrel.compiler.lowering import linear
from pyrel.compiler.lowering.emitter import Emitter
from pyrel.compiler.lowering.linear import divide_by
from pyrel.compiler.lowering.parts import at
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance
from pyrel.compiler.passes.contiguous import SHORT_RUN
from pyrel.compiler.program.enums import Post, Scale, Space
from pyrel.compiler.program.instructions import Activate, Epilogue, Gather, Scatter, Slope
from pyrel.methods import other_rules

# ReLUs that no linear node has joined


def forward_relu(node: Relu, emitter: Emitter, _: Placement | None) -> None:
    """Keep what is above zero."""
    emitter.map_runs(node.inputs, node.start, Epilogue(post=Post.relu))


def back_relu(node: Relu, relevance: Relevance, placement: Placement) -> None:
    """Do what the method does at a ReLU."""
    linear.finish_relu(node, relevance, placement)
    relevance.pass_on(node, node.inputs)


# Activations


def forward_activation(node: Activation, emitter: Emitter, _: Placement | None) -> None:
    """Compute the function."""
    for size, first in emitter.row_groups(node.inputs[None]):
        source, out = emitter.value(node.inputs[first]), emitter.value(node.start + first)
        template = Activate(source[0], size, out[0], node.function, node.parameter)
        emitter.emit(template, source[1], out[1])


def back_activation(node: Activation, relevance: Relevance, placement: Placement) -> None:
    """Pass relevance on, whole or a part; or multiply by the slope."""
    rule = placement.rules[node.start]
    if isinstance(rule, other_rules.Centred):
        _back_centred(node, relevance, placement)
    elif isinstance(rule, other_rules.Open):
        _back_open(node, relevance)
    elif isinstance(rule, other_rules.Slope):
        _back_slope(node, relevance)
    else:
        relevance.pass_on(node, node.inputs)


def _back_slope(node: Activation, relevance: Relevance) -> None:
    emitter = relevance.emitter
    for size, first in relevance.rows_apart(node.inputs):
        addresses = node.inputs[first]
        accumulate = relevance.accumulates(addresses, size)
        source, value = relevance.place(node.start + first), emitter.value(addresses)
        out = relevance.place(addresses)
        template = Slope(
            source[0], value[0], size, out[0], node.function, node.parameter, accumulate
        )
        op = emitter.emit(template, source[1], value[1], out[1])
        relevance.record(op, addresses, size)


def _back_open(node: Activation, relevance: Relevance) -> None:
    """R where the slope is 1, which is 0 elsewhere; what is not handed on is absorbed."""
    emitter = relevance.emitter
    relevance.absorb_all(node)
    space, place = Space.arena, emitter.reserve(node.size)
    for size, first in emitter.row_groups(node.inputs[None]):
        source, value = relevance.place(node.start + first), emitter.value(node.inputs[first])
        template = Slope(source[0], value[0], size, space, node.function, node.parameter)
        emitter.emit(template, source[1], value[1], place + first)
    everything = space, np.array([place])
    relevance.absorb(everything, node.size, vector=np.full(node.size, -1.0))
    relevance.pass_on(node, node.inputs, shares=at(everything))


def _back_centred(node: Activation, relevance: Relevance, placement: Placement) -> None:
    """R (σ − ½)/σ: the ½ that a sigmoid is at zero is a constant, which absorbs its share.

    σ − ½ is ½ tanh(z/2), without what a difference would lose where z is near zero.
    """
    emitter = relevance.emitter
    halves = np.full(node.size, 0.5)
    divide_by(node, relevance, placement, node.start, None, 0.0, never_zero=True)
    relevance.absorb_weighted(node, halves)
    space, place = Space.arena, emitter.reserve(node.size)
    halved = Epilogue(scale=Scale.vector, scale_vector=emitter.program.vector(halves))
    everything = space, np.array([place])
    for size, first in emitter.row_groups(node.inputs[None]):
        part = replace(halved, scale_vector=emitter.program.vector(halves[:size]))
        emitter.map(emitter.value(node.inputs[first]), size, (space, place + first), part)
    tanh = Activate(space, node.size, space, Function.tanh)
    emitter.emit(tanh, everything[1], everything[1])
    emitter.map(everything, node.size, everything, halved)
    for size, first in relevance.rows_apart(node.inputs):
        addresses = node.inputs[first]
        accumulate = relevance.accumulates(addresses, size)
        epilogue = Epilogue(scale=Scale.operand, scale_space=space, accumulate=accumulate)
        source, out = relevance.place(node.start + first), relevance.place(addresses)
        op = emitter.map(source, size, out, epilogue, place + first)
        relevance.record(op, addresses, size)


# Factors


def forward_scale(node: ScaleNode, emitter: Emitter, _: Placement | None) -> None:
    """Multiply by the coefficients."""
    for size, first in emitter.row_groups(node.inputs[None]):
        for factors, some in by_vector(node.coefficients, first, size):
            vector = emitter.program.vector(factors)
            epilogue = Epilogue(scale=Scale.vector, scale_vector=vector)
            out = emitter.value(node.start + some)
            emitter.map(emitter.value(node.inputs[some]), size, out, epilogue)


def back_scale(node: ScaleNode, relevance: Relevance, placement: Placement) -> None:
    """Pass relevance on whole, as there is one input; a gradient times the coefficient."""
    slope = isinstance(placement.rules[node.start], other_rules.Slope)
    relevance.pass_on(node, node.inputs, node.coefficients if slope else None)


# Choices


def forward_choice(node: Choice, emitter: Emitter, _: Placement | None) -> None:
    """Add up the values times their masks."""
    accumulates = False
    for value, mask in zip(node.values, node.masks, strict=True):
        for size, first in emitter.row_groups(np.stack([value, mask, node.addresses])):
            source, factor = emitter.value(value[first]), emitter.value(mask[first])
            epilogue = Epilogue(scale=Scale.operand, scale_space=factor[0], accumulate=accumulates)
            out = emitter.value(node.start + first)
            emitter.map(source, size, out, epilogue, factor[1])
        accumulates = True
    for added in node.beside:
        emitter.map_runs(added, node.start, Epilogue(accumulate=True))


def back_choice(node: Choice, relevance: Relevance, placement: Placement) -> None:
    """Give all to the value that is chosen."""
    for value, mask in zip(node.values, node.masks, strict=True):
        is_stopped = placement.facts.gates.is_stopped[value]
        stopped = is_stopped & (not placement.method.conserves)
        relevance.pass_on(node, np.where(stopped, -1, value), operands=mask)


# Copies


def forward_copy(node: Node, emitter: Emitter, _: Placement | None) -> None:
    """Copy runs of values, gather what lies in short ones, write constants."""
    constant = node.inputs < 0
    if constant.any():
        values = np.where(constant, emitter.graph.constant_values(node.inputs), 0.0)
        out = emitter.value(node.start)
        emitter.map(None, node.size, out, Epilogue(bias=emitter.vector(values)))
    whole, short = _copied_parts(node, emitter)
    for inputs in whole:
        emitter.map_runs(inputs, node.start, Epilogue())
    for first, stop in short:
        addresses = node.inputs[first:stop]
        origin = int(addresses.min())
        index = emitter.program.index(addresses - origin)
        space, source = emitter.value(origin)
        span = int(addresses.max()) - origin + 1
        out_space, offset = emitter.value(node.start + first)
        template = Gather(space, span, index, stop - first, out_space)
        emitter.emit(template, source, offset)


def back_copy(node: Copy, relevance: Relevance, placement: Placement) -> None:
    """Give relevance back to what was copied; constants absorb theirs."""
    if placement.method.conserves:
        relevance.absorb_weighted(node, placement.facts.absorbing(node).astype(float))
    emitter = relevance.emitter
    whole, short = _copied_parts(node, emitter)
    for inputs in whole:
        relevance.pass_on(node, inputs)
    for first, stop in short:
        addresses = node.inputs[first:stop]
        origin, span = int(addresses.min()), int(addresses.max() - addresses.min()) + 1
        relevance.clear_unwritten(origin, span)
        space, source = relevance.place(node.start + first)
        out_space, out = relevance.place(origin)
        index = emitter.program.index(addresses - origin)
        template = Scatter(space, span, index, stop - first, out_space)
        relevance.record(emitter.emit(template, source, out), origin, span)


def _owners(node: Node, emitter: Emitter) -> Addresses:
    """Assign a number to what each input of a copy comes from: a node, or −2 for constants.

    Those of the graph's input are −1, or with several inputs of the model −3 and less: steps of one
    lie further from a static one with each step, so that one index would not do for all steps.
    """
    owner = picked(emitter.facts.owners, node.inputs, -2)
    layout = emitter.graph.layout
    if layout is not None:
        of_input = owner == -1
        starts = [part.start for part in layout.slices]
        owner[of_input] = -2 - np.searchsorted(starts, node.inputs[of_input], "right")
    return owner


def _copied_parts(node: Node, emitter: Emitter) -> tuple[list[Addresses], list[tuple[int, int]]]:
    """Split a copy at constants, and where its inputs change from one node to another.

    Where there would be many parts shorter than a vector, only between constants, the graph's
    input and nodes. Returns what is copied run by run, for each node of which something is the
    node's inputs with −1 in place of others; and (first, stop) of parts that lie in short runs.
    Outputs of all steps, of several classes each, are copied step by step: then the rows of one
    instruction grow with the number of steps, which an index for each element would not do evenly.
    """
    owner = _owners(node, emitter)
    breaks = np.flatnonzero(np.diff(owner)) + 1
    if breaks.size >= SEGMENTS and node.size < SHORT_RUN * (breaks.size + 1):
        breaks = np.flatnonzero(np.diff(np.sign(owner + 1) - (owner == -2))) + 1
    edges = [0, *breaks.tolist(), node.size]
    short = []
    copied, is_output = owner != -2, node.start == int(emitter.graph.outputs[0])
    for first, stop in zip(edges[:-1], edges[1:], strict=True):
        lengths = [end - begin for begin, end in runs(node.inputs[first:stop])]
        pieces = len(lengths)
        if is_output and len(set(lengths)) == 1 < lengths[0]:
            continue
        if copied[first] and pieces > 1 and pieces * SHORT_RUN > stop - first:
            short.append((first, stop))
            copied[first:stop] = False
    owners = np.unique(owner[copied]).tolist()
    return [np.where(copied & (owner == o), node.inputs, -1) for o in owners], short


# What no relevance goes through


def back_stop(node: Node, relevance: Relevance, placement: Placement) -> None:
    """Absorb what arrives; gradients do not count it."""
    if isinstance(placement.rules[node.start], other_rules.Absorbing):
        relevance.absorb_all(node)
