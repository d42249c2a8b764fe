# SPDX-License-Identifier: Apache-2.0
"""Linear nodes: their products forward, the denominators of their rules, and the way back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.intervals import common_runs, runs
from pyrel.compiler.graph.nodes import Addresses, Floats, Linear, Node
from pyrel.compiler.limits import SEGMENTS
from pyrel.compiler.lowering.cache import Matrix
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.lowering.parts import divide_into_parts
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance, Shares
from pyrel.compiler.lowering.rows import back_rows, factor_epilogue
from pyrel.compiler.program.enums import Post, Scale, Share, Space
from pyrel.compiler.program.instructions import Epilogue, Offsets
from pyrel.methods import AtRelu
from pyrel.methods.enums import Start
from pyrel.methods.terms import Denominator, Mask, Term, columns

AT_RELU = {
    AtRelu.pass_on: Post.none,
    AtRelu.mask: Post.mask,
    AtRelu.guided: Post.guided,
    AtRelu.rectify: Post.relu,
}


def forward_linear(node: Linear, emitter: Emitter, placement: Placement | None) -> None:
    """Multiply, for all steps of a recurrence at once what does not depend on the step before.

    Without a ``placement`` no denominators are formed.
    """
    graph = emitter.graph
    constant = np.asarray((node.inputs < 0).all(axis=0))
    bias = node.bias
    if (node.inputs[0] < 0).any():
        bias = bias + node.weight @ graph.constant_values(node.inputs[0])
    epilogue = Epilogue(bias=emitter.vector(bias), post=Post.relu if node.relu else Post.none)
    recurrence = emitter.facts.recurrences.get(node.start)
    if recurrence is None:
        _multiply(emitter, node, node.inputs, ~constant, rows_of(node), epilogue)
    else:
        if node.start == recurrence.starts[0]:
            hoisted = ~recurrence.late
            _multiply(emitter, node, recurrence.inputs, hoisted, recurrence.starts, epilogue)
        then = Epilogue(accumulate=True)
        _multiply(emitter, node, node.inputs, recurrence.late, rows_of(node), then)
    if placement is not None and placement.reached[node.start : node.start + node.size].any():
        _form_denominators(node, emitter, placement)


def _multiply(
    emitter: Emitter,
    node: Linear,
    inputs: Addresses,
    features: Mask,
    rows: Addresses,
    epilogue: Epilogue,
) -> None:
    """Emit the products of a node's weights with the ``features`` of rows of inputs."""
    key = node.named, "forward", features.tobytes()
    matrix = Matrix(key, node.width, lambda: columns(node.weight, features).T)
    segments = emitter.segments(inputs[:, features])
    emitter.gemm(segments, matrix, emitter.value(rows), epilogue, bf16=emitter.bf16_forward)


def rows_of(node: Linear) -> Addresses:
    """Where the outputs of each row start."""
    return node.start + np.arange(node.inputs.shape[0]) * node.width


# Denominators


def _form_denominators(node: Linear, emitter: Emitter, placement: Placement) -> None:
    """Form those that are sums of terms, unless a product divides relevance as it forms one."""
    propagation = placement.propagation(node)
    for number, part in enumerate(propagation.parts):
        denominator = part.denominator
        if denominator is None or not denominator.terms:
            continue
        if propagation.is_whole and _divides_at_once(node, denominator, placement):
            continue
        offset = placement.denominators[node.start, number] = emitter.reserve(node.size)
        place = Space.arena, offset + rows_of(node) - node.start
        _form_denominator(node, emitter, denominator, place)


def _divides_at_once(node: Linear, denominator: Denominator, placement: Placement) -> bool:
    """Whether the product that is the denominator divides the relevance, and is not stored.

    Relevance from pools, which cannot divide it, would be read once more for that.
    """
    if len(denominator.terms) != 1 or denominator.terms[0].factor.is_clipped:
        return False
    pieces = common_runs(node.inputs[:, denominator.terms[0].features])
    return (
        len(list(pieces)) <= SEGMENTS  # a single product, that reads before it writes
        and not denominator.output
        and not denominator.epsilon
        and not placement.shares_bias
        and (denominator.constant.ndim == 1 or not denominator.constant.any())
        and placement.never_divides_by_zero(node)
        and node.start not in placement.facts.members
        and bool(placement.facts.pooled[node.addresses].all())
    )


def _form_denominator(
    node: Linear,
    emitter: Emitter,
    denominator: Denominator,
    place: Place,
    relevance: Relevance | None = None,
) -> None:
    """Emit the products of a denominator; nothing in the forward pass depends on them.

    With ``relevance`` there is one product, by which what is at the place is divided.
    """
    alike = denominator.constant.ndim == 1
    vector = emitter.vector(denominator.constant) if alike else -1
    if denominator.output:
        emitter.map(emitter.value(node.start), node.size, (place[0], place[1][:1]))
    for index, term in enumerate(denominator.terms):
        accumulate = denominator.output or index > 0
        epilogue = Epilogue(bias=vector if index == 0 else -1, accumulate=accumulate)
        operands: list[Offsets] = []
        if relevance is not None:
            epilogue = replace(epilogue, post=Post.divide_operand, post_space=place[0])
            operands = [place[1]]
        segments, matrix = _denominator_product(node, emitter, term)
        op = emitter.gemm(segments, matrix, place, epilogue, *operands, bf16=emitter.bf16_relevance)
        if relevance is not None:
            relevance.record(op, node.start, node.size)


def _denominator_product(
    node: Linear, emitter: Emitter, term: Term
) -> tuple[list[tuple[Place, int]], Matrix]:
    segments = emitter.factor_segments(node.inputs[:, term.features], term.factor)
    if len(segments) <= SEGMENTS:
        return segments, Matrix((term, "denominator"), node.width, lambda: term.matrix.T)
    # Too many pieces: read all inputs, those between them with weights of zero.
    variable = (node.inputs >= 0).all(axis=0)

    def spread() -> Floats:
        whole = np.zeros((node.width, node.inputs.shape[1]))
        whole[:, term.features] = term.matrix
        return whole[:, variable].T

    segments = emitter.factor_segments(node.inputs[:, variable], term.factor)
    return segments, Matrix((term, "spread", variable.tobytes()), node.width, spread)


# The way back


def back_linear(node: Linear, relevance: Relevance, placement: Placement) -> None:
    """Divide the relevance, and give each input its share."""
    if node.relu:
        finish_relu(node, relevance, placement)
    propagation = placement.propagation(node)
    if propagation.is_whole and not placement.shares_bias:
        part = propagation.parts[0]
        if node.start not in placement.facts.members:
            if part.denominator is not None:
                _divide(node, relevance, placement, part.denominator)
            if part.absorbed is not None:
                relevance.absorb_weighted(node, part.absorbed)
        give(node, relevance, part.terms, relevance.of(node))
        return
    for terms, shares in divide_into_parts(node, relevance, placement, propagation):
        give(node, relevance, terms, shares)


def finish_relu(node: Node, relevance: Relevance, placement: Placement) -> None:
    """Do what the method does at a ReLU."""
    post = AT_RELU[placement.method.relu]
    if post != Post.none:
        relevance.finish(node.start, node.size, post, None if post == Post.relu else node.start)


def give(node: Linear, relevance: Relevance, terms: tuple[Term, ...], shares: Shares) -> None:
    """Give the inputs of a node what the terms make of the shares of its outputs."""
    if len(node.inputs) > 1:
        back_rows(node, relevance, terms, shares)
        return
    for term in terms:
        _give_term(node, relevance, term, shares)


def _give_term(node: Linear, relevance: Relevance, term: Term, shares: Shares) -> None:
    """Give relevance to what one row reads: a product for each run of addresses."""
    emitter = relevance.emitter
    addresses = node.inputs[0, term.features]
    segments = [(shares(0), node.size)]
    for first, stop in runs(addresses):
        address, size = int(addresses[first]), stop - first
        epilogue, offsets = factor_epilogue(emitter, term.factor, np.array([address]), size)
        epilogue = replace(epilogue, accumulate=relevance.accumulates(address, size))
        matrix = Matrix((term, first, stop), size, _columns(term, first, stop))
        out = relevance.place(address)
        bf16 = emitter.bf16_relevance
        op = emitter.gemm(segments, matrix, out, epilogue, *offsets, bf16=bf16)
        relevance.record(op, address, size)


def _columns(term: Term, first: int, stop: int) -> Callable[[], Floats]:
    return lambda: term.matrix[:, first:stop]


def _divide(
    node: Linear, relevance: Relevance, placement: Placement, denominator: Denominator
) -> None:
    """Make s = R / denominator of the relevance of a node's outputs."""
    never_zero = placement.never_divides_by_zero(node)
    constant = np.resize(denominator.constant, node.size)
    formed = placement.denominators.get((node.start, 0))
    if formed is not None:
        in_product = denominator.constant.ndim == 1
        vector = None if in_product or not constant.any() else constant
        operand = -1 - formed
    elif denominator.terms:
        place = relevance.place(rows_of(node))
        _form_denominator(node, relevance.emitter, denominator, place, relevance)
        return
    elif denominator.output:
        operand, vector = node.start, constant if constant.any() else None
    else:
        _divide_by_constant(node, relevance, constant)
        return
    divide_by(node, relevance, placement, operand, vector, denominator.epsilon, never_zero)


def divide_by(
    node: Node,
    relevance: Relevance,
    placement: Placement,
    operand: int,
    vector: Floats | None,
    epsilon: float,
    never_zero: bool,
    alone: bool = False,
) -> None:
    """Divide the relevance of a node's outputs; count what meets zero, or the stabiliser.

    ``alone`` as for `Relevance.finish`: for an operand that was formed after the relevance arrived.
    """
    place = relevance.place(node.start)
    if epsilon:
        post = Post.divide_stabilised
        relevance.finish(node.start, node.size, post, operand, vector, epsilon, alone)
        relevance.absorb(place, node.size, Share.stabiliser, vector, operand, epsilon)
        return
    # The score that is explained is above zero where there is relevance to put in.
    is_output = node.start == int(placement.facts.graph.outputs[0])
    counts = not never_zero and not (is_output and placement.method.start == Start.positive_output)
    if counts:
        relevance.absorb(place, node.size, Share.undivided, vector, operand)
    relevance.finish(node.start, node.size, Post.divide, operand, vector, alone=alone or counts)


def _divide_by_constant(node: Linear, relevance: Relevance, constant: Floats) -> None:
    relevance.absorb_weighted(node, (constant == 0).astype(float))
    inverse = np.divide(1.0, constant, out=np.zeros_like(constant), where=constant != 0)
    emitter = relevance.emitter
    epilogue = Epilogue(scale=Scale.vector, scale_vector=emitter.program.vector(inverse))
    slot = relevance.place(node.start)
    relevance.record(emitter.map(slot, node.size, slot, epilogue), node.start, node.size)
