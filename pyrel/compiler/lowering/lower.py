# SPDX-License-Identifier: Apache-2.0
"""From a graph and a method to a program."""

from __future__ import annotations

from pyrel.compiler.graph.carries import mark_carries
from pyrel.compiler.graph.nodes import Floats, Graph
from pyrel.compiler.graph.ranges import propagate
from pyrel.compiler.lowering.backward import Backward
from pyrel.compiler.passes.chain_pools import chain_pools, pool_before_relu
from pyrel.compiler.passes.contiguous import lay_out
from pyrel.compiler.passes.even_maxima import write_out_even_maxima
from pyrel.compiler.passes.fold import fold, split_mixed_rows
from pyrel.compiler.passes.gated_sums import gather_gated_sums
from pyrel.compiler.passes.gradient_stops import prepared
from pyrel.compiler.passes.lone_sums import keep_stabilised
from pyrel.compiler.program.loop_memory import plan_items
from pyrel.compiler.program.loops import roll
from pyrel.compiler.program.memory import plan
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.schedule import schedule
from pyrel.methods import Method

# Instructions from which memory is planned by loops: block by block it takes less memory, but time
# with the square of the number of blocks.
_MANY = 2000


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
        If its ``pooling`` was asked for by name and does not fit a layer.
    """
    return _finished(lower_apart(graph, method, low, high, precision))


def lower_apart(
    graph: Graph, method: Method, low: Floats, high: Floats, precision: str = "float32"
) -> Program:
    """Do what `lower` does, but leave every value a place of its own.

    `pyrel.compiler.program.generalise` needs that.
    """
    lowering = _lowering(graph, method, low, high, precision)
    lowering.forward()
    lowering.backward()
    return _scheduled(lowering)


def lower_forward(graph: Graph, method: Method, low: Floats, high: Floats) -> Program:
    """Make the forward part of what `lower` makes in float32: outputs and the predicted class."""
    return _finished(lower_forward_apart(graph, method, low, high))


def lower_forward_apart(graph: Graph, method: Method, low: Floats, high: Floats) -> Program:
    """Do what `lower_forward` does, but leave every value a place of its own."""
    lowering = _lowering(graph, method, low, high, "float32")
    lowering.forward(denominators=False)
    lowering.seed()
    return _scheduled(lowering)


def _lowering(graph: Graph, method: Method, low: Floats, high: Floats, precision: str) -> Backward:
    graph = keep_stabilised(prepared(graph, method), method, low, high)
    if method.folds:
        graph = fold(graph, low, high)
    if not method.conserves:
        graph = write_out_even_maxima(graph)
    if method.conserves:
        if method.gates == "half":
            graph = mark_carries(graph)
        graph = gather_gated_sums(graph)
        graph = split_mixed_rows(graph, low, high)
        if method.pooling == "winner":
            graph = pool_before_relu(graph)
    graph = lay_out(chain_pools(graph, low, high, method.pooling != "winner"))
    return Backward(graph, method, propagate(graph, low, high), precision)


def _scheduled(lowering: Backward) -> Program:
    program = lowering.program
    operations, arena_size = lowering.operations, lowering.arena_size
    program.instructions = schedule(operations, program.input_size, arena_size)
    return program


def _finished(program: Program) -> Program:
    instructions = tuple(program.every_instruction())
    if len(instructions) > _MANY:
        program.instructions, program.arena_size = plan_items(roll(instructions))
    else:
        planned, program.arena_size = plan(instructions)
        program.instructions = roll(planned)
    return program
