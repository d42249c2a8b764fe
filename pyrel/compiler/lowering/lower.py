# SPDX-License-Identifier: Apache-2.0
"""From a graph and a method to a program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from pyrel.compiler.graph.elements import are_floats, pieces
from pyrel.compiler.graph.facts import Facts
from pyrel.compiler.graph.gates import GatedSum
from pyrel.compiler.graph.matrices import Matmul
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    AtMaximum,
    Choice,
    Copy,
    Embedding,
    EvenMaximum,
    Floats,
    Graph,
    Linear,
    Lookup,
    MaxPool,
    Node,
    Normalise,
    Product,
    Relu,
    Scale,
    StopGradient,
)
from pyrel.compiler.graph.rewrites import compact
from pyrel.compiler.graph.softmax import Softmax
from pyrel.compiler.lowering import (
    elementwise,
    embedding,
    gated,
    linear,
    matrix_products,
    normalise,
    pooling,
    softmax,
    sums,
)
from pyrel.compiler.lowering.cache import LoweringCache
from pyrel.compiler.lowering.emitter import Emitter
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance
from pyrel.compiler.lowering.rule_table import PlacedRule, placed_rules
from pyrel.compiler.passes.chain_pools import pool_before_relu
from pyrel.compiler.passes.pipeline import run_passes
from pyrel.compiler.program.instructions import Seed
from pyrel.compiler.program.keep_forward import forward_first
from pyrel.compiler.program.loops import roll
from pyrel.compiler.program.memory import plan
from pyrel.compiler.program.moves import without_moves
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.schedule import schedule
from pyrel.methods import BothFactors, Method


class Kind(NamedTuple):
    """How nodes of one kind are lowered: their values, and their relevance."""

    forward: Callable[[Any, Emitter, Placement | None], None]
    back: Callable[[Any, Relevance, Placement], None]


def _nothing(node: Node, *_: object) -> None:
    """Do nothing: no relevance goes through marks of the largest values."""


KINDS: dict[type[Node], Kind] = {
    Linear: Kind(linear.forward_linear, linear.back_linear),
    Relu: Kind(elementwise.forward_relu, elementwise.back_relu),
    Activation: Kind(elementwise.forward_activation, elementwise.back_activation),
    Scale: Kind(elementwise.forward_scale, elementwise.back_scale),
    Add: Kind(sums.forward_add, sums.back_add),
    Product: Kind(gated.forward_product, gated.back_product),
    Matmul: Kind(matrix_products.forward_matmul, matrix_products.back_matmul),
    GatedSum: Kind(gated.forward_gated_sum, gated.back_gated_sum),
    Choice: Kind(elementwise.forward_choice, elementwise.back_choice),
    MaxPool: Kind(pooling.forward_max_pool, pooling.back_max_pool),
    AtMaximum: Kind(pooling.forward_at_maximum, _nothing),
    EvenMaximum: Kind(pooling.forward_even_maximum, pooling.back_even_maximum),
    Normalise: Kind(normalise.forward_normalise, normalise.back_normalise),
    Softmax: Kind(softmax.forward_softmax, softmax.back_softmax),
    Embedding: Kind(embedding.forward_embedding, embedding.back_embedding),
    Lookup: Kind(embedding.forward_embedding, elementwise.back_stop),
    Copy: Kind(elementwise.forward_copy, elementwise.back_copy),
    StopGradient: Kind(elementwise.forward_copy, elementwise.back_stop),
}


def lower(
    graph: Graph, method: Method, low: Floats, high: Floats, precision: str = "float32"
) -> Program:
    """Make the program that explains ``graph`` by ``method``.

    Parameters
    ----------
    graph : Graph
    method : Method
    low, high : ndarray, shape (input size,)
        Range of every input element; −∞ and ∞ where nothing is known.
    precision : str
        Of `pyrel.engine.precision.PRECISIONS`.

    Raises
    ------
    UnsupportedModelError
        If the method has no rule for a node with what is known of its inputs.
    ValueError
        If its ``pooling`` was asked for by name and does not fit a layer, an assignment of a
        composite is for no node, or the method needs ``low`` and ``high``.
    """
    return lower_with_rules(graph, method, low, high, precision)[0]


def lower_with_rules(
    graph: Graph,
    method: Method,
    low: Floats,
    high: Floats,
    precision: str = "float32",
    *,
    check_sites: bool = True,
    keep_forward: bool = False,
) -> tuple[Program, tuple[PlacedRule, ...]]:
    """Do what `lower` does, and list the rules that the program follows.

    Without ``check_sites`` the method may speak of nodes that are not there, such as those of a
    recurrence in a graph of one step. With ``keep_forward`` the way back can run again, for
    other targets.
    """
    facts, placement = place_rules(graph, method, low, high)
    if check_sites:
        method.check_sites(placement.sites)
    program = _lowered_apart(facts, placement, precision, keep_forward)
    return _finished(program), placed_rules(placement) if method.backward else ()


def lower_apart(
    graph: Graph,
    method: Method,
    low: Floats,
    high: Floats,
    precision: str = "float32",
    cache: LoweringCache | None = None,
    *,
    keep_forward: bool = False,
) -> tuple[Program, Placement]:
    """Do what `lower_with_rules` does, but leave every value a place of its own.

    `pyrel.compiler.program.generalise` needs that. A ``cache`` is for graphs of one model.
    """
    facts, placement = place_rules(graph, method, low, high, cache)
    method.check_sites(placement.sites)
    return _lowered_apart(facts, placement, precision, keep_forward), placement


def _lowered_apart(
    facts: Facts, placement: Placement, precision: str, keep_forward: bool
) -> Program:
    if not placement.method.backward:
        return _forward_apart(facts, placement)
    emitter = Emitter(facts, placement.method.conserves, precision, placement.cache)
    _forward(emitter, placement)
    _back(Relevance(emitter), placement)
    program = _scheduled(emitter)
    if keep_forward:
        program.instructions = forward_first(tuple(program.every_instruction()))
        program.keeps_forward = True
    return program


def lower_forward(graph: Graph, method: Method, low: Floats, high: Floats) -> Program:
    """Make the forward part of what `lower` makes in float32: outputs and the predicted class."""
    return _finished(lower_forward_apart(graph, method, low, high))


def lower_forward_apart(
    graph: Graph, method: Method, low: Floats, high: Floats, cache: LoweringCache | None = None
) -> Program:
    """Do what `lower_forward` does, but leave every value a place of its own."""
    return _forward_apart(*place_rules(graph, method, low, high, cache))


def _forward_apart(facts: Facts, placement: Placement) -> Program:
    method = placement.method
    emitter = Emitter(facts, method.conserves, "float32", placement.cache)
    _forward(emitter, None)
    _seed(Relevance(emitter), method)
    return _scheduled(emitter)


def place_rules(
    graph: Graph, method: Method, low: Floats, high: Floats, cache: LoweringCache | None = None
) -> tuple[Facts, Placement]:
    """Rewrite a graph for a method, and choose the rule of each node; raises as `lower` does."""
    if method.needs_bounds and np.isneginf(low[are_floats(graph)]).any():
        raise ValueError(
            f"{method.name} needs low= and high=, the smallest and largest input values"
        )
    facts = run_passes(graph, method, low, high)
    placement = Placement(method, facts, cache)
    if _shares_out(placement):
        facts = run_passes(graph, method, low, high, single=True)
        placement = Placement(method, facts, cache)
    apart = placement.relus_apart()
    if apart:
        facts = facts.of(_without_relus(facts.graph, apart))
        placement = Placement(method, facts, cache)
    if method.conserves and method.pooling == "winner":
        # Once more: there are rules that give relevance to zeros.
        graph = pool_before_relu(facts, placement.relevant_at_zero)
        if graph is not facts.graph:
            facts = facts.of(graph)
            placement = Placement(method, facts, cache)
    return facts, placement


def _shares_out(placement: Placement) -> bool:
    """Whether a rule is at a matrix product that is one for single products."""
    rules = placement.rules
    return any(
        isinstance(node, Matmul) and not isinstance(rules[node.start], BothFactors)
        for node in placement.facts.graph.nodes
        if node.start in rules
    )


def _without_relus(graph: Graph, starts: set[int]) -> Graph:
    """Take the ReLUs out of some linear nodes, so that values below zero are kept."""
    nodes: list[Node] = []
    position = graph.size
    for node in graph.nodes:
        if isinstance(node, Linear) and node.start in starts:
            nodes.append(replace(node, start=position, relu=False))
            inputs = nodes[-1].addresses
            position += node.size
            node = Relu(node.start, inputs, module=node.module)
        nodes.append(node)
    return compact(replace(graph, nodes=tuple(nodes)))


def _forward(emitter: Emitter, placement: Placement | None) -> None:
    """Emit what computes every node, and with a ``placement`` the denominators of its rules."""
    for node in emitter.graph.nodes:
        KINDS[type(node)].forward(node, emitter, placement)


def _seed(relevance: Relevance, method: Method) -> None:
    """Emit the choice of the target and the relevance that it starts with."""
    emitter, outputs = relevance.emitter, relevance.emitter.graph.outputs
    start = int(outputs[0])
    template = Seed(outputs.size, method.start)
    op = emitter.emit(template, emitter.value(start)[1], relevance.place(start)[1])
    relevance.record(op, start, outputs.size)


def _back(relevance: Relevance, placement: Placement) -> None:
    """Emit the whole way back, in the order in which nodes get their relevance complete."""
    _seed(relevance, placement.method)
    graph = placement.facts.graph
    for node in reversed(graph.nodes):
        out = slice(node.start, node.start + node.size)
        if placement.reached[out].any() and relevance.is_written(node):
            relevance.clear_unwritten(node.start, node.size)
            KINDS[type(node)].back(node, relevance, placement)
    for start, size, is_float in pieces(graph):
        relevance.clear_unwritten(start, size)
        if is_float:
            embedding.finish_input(start, size, relevance, placement)


def _scheduled(emitter: Emitter) -> Program:
    program = emitter.program
    operations = without_moves(emitter.operations, emitter.arena_size)
    program.instructions = schedule(operations, program.input_size, emitter.arena_size)
    return program


def _finished(program: Program) -> Program:
    items = roll(tuple(program.every_instruction()))
    program.instructions, program.arena_size = plan(items, keep_forward=program.keeps_forward)
    return program
