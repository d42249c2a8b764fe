# SPDX-License-Identifier: Apache-2.0
"""From a graph and a method to a program: forward, then relevance backward, row by row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pyrel._core import Post, Scale, Space
from pyrel.domains import Domains, fold, propagate
from pyrel.emit import Emitter
from pyrel.errors import UnsupportedModelError
from pyrel.graph import Add, Addresses, Copy, Floats, Graph, Linear, Node, Relu, runs
from pyrel.graph import Scale as ScaleNode
from pyrel.layout import MAX_SEGMENTS, SHORT_RUN, lay_out
from pyrel.memory import plan
from pyrel.methods import Method, UnsuitableDomainError
from pyrel.program import Absorb, Epilogue, Gather, Program, Scatter, Seed
from pyrel.rules import Denominator, LinearInputs, LinearRule, Term
from pyrel.schedule import RowOp, schedule


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
        Of `pyrel.precision.PRECISIONS`.

    Raises
    ------
    UnsupportedModelError
        If the method has no rule for a node with what is known of its inputs.
    """
    lowering = _lowering(graph, method, low, high, precision)
    lowering.forward()
    lowering.backward()
    return lowering.program()


def lower_forward(graph: Graph, method: Method, low: Floats, high: Floats) -> Program:
    """Make the forward part of what `lower` makes in float32: outputs and the predicted class."""
    lowering = _lowering(graph, method, low, high, "float32")
    lowering.forward(denominators=False)
    lowering.seed()
    return lowering.program()


def _lowering(graph: Graph, method: Method, low: Floats, high: Floats, precision: str) -> _Lowering:
    if method.conserves:
        graph = fold(graph, low, high)
    graph = lay_out(graph)
    return _Lowering(graph, method, propagate(graph, low, high), precision)


class _Lowering(Emitter):
    def __init__(self, graph: Graph, method: Method, domains: Domains, precision: str) -> None:
        super().__init__(graph, Program(graph.input_size, graph.classes, method.conserves))
        self._method = method
        self._domains = domains
        self._owners = graph.owners()
        self._bf16_relevance = precision != "float32"
        self._bf16_forward = precision == "bf16_all"
        self._rules: dict[int, LinearRule] = {}  # by the start of the linear node
        self._denominators: dict[int, int] = {}  # likewise: where in the arena it is formed

    def program(self) -> Program:
        instructions = schedule(self._ops, self._program.input_size, self._arena)
        self._program.instructions, self._program.arena_size = plan(instructions)
        return self._program

    # Forward

    def forward(self, denominators: bool = True) -> None:
        for node in self._graph.nodes:
            match node:
                case Linear():
                    self._forward_linear(node, denominators)
                case Relu():
                    self._forward_runs(node, Epilogue(post=Post.relu))
                case ScaleNode():
                    self._forward_scale(node)
                case Add():
                    self._forward_add(node)
                case Copy():
                    self._forward_copy(node)

    def _forward_linear(self, node: Linear, denominators: bool) -> None:
        constant = node.inputs < 0
        bias = node.bias + node.weight @ self._graph.constant_values(node.inputs)
        epilogue = Epilogue(
            bias=self._program.vector(bias) if bias.any() else -1,
            post=Post.relu if node.relu else Post.none,
        )
        matrix = node.weight[:, ~constant].T
        out = self._value(node.start)
        self._gemm(self._segments(node.inputs), matrix, out, epilogue, bf16=self._bf16_forward)
        self._rules[node.start] = rule = self._rule(node)
        if denominators and rule.denominator is not None and rule.denominator.products:
            self._denominators[node.start] = self._form_denominator(node, rule.denominator)

    def _form_denominator(self, node: Linear, denominator: Denominator) -> int:
        """Emit the products of a denominator; nothing in the forward pass waits for them."""
        place = (Space.arena, self._reserve(node.size))
        vector = self._program.vector(denominator.constant) if denominator.constant.any() else -1
        if denominator.output:
            self._map(self._value(node.start), node.size, place)
        for index, (features, matrix) in enumerate(denominator.products):
            accumulate = denominator.output or index > 0
            epilogue = Epilogue(bias=vector if index == 0 else -1, accumulate=accumulate)
            segments = self._segments(node.inputs[features])
            if len(segments) > MAX_SEGMENTS:
                # Too many pieces: read all inputs, those between them with weights of zero.
                variable = node.inputs >= 0
                segments = self._segments(node.inputs[variable])
                spread = np.zeros((node.size, node.inputs.size))
                spread[:, features] = matrix
                matrix = spread[:, variable]
            self._gemm(segments, matrix.T, place, epilogue, bf16=self._bf16_relevance)
        return place[1]

    def _segments(self, addresses: Addresses) -> list[tuple[tuple[Space, int], int]]:
        return [(self._value(int(addresses[i])), j - i) for i, j in runs(addresses)]

    def _forward_runs(self, node: Node, epilogue: Epilogue) -> None:
        for first, stop in runs(node.inputs):
            source, out = int(node.inputs[first]), node.start + first
            self._map(self._value(source), stop - first, self._value(out), epilogue)

    def _forward_scale(self, node: ScaleNode) -> None:
        for first, stop in runs(node.inputs):
            vector = self._program.vector(node.coefficients[first:stop])
            epilogue = Epilogue(scale=Scale.vector, scale_vector=vector)
            source, out = int(node.inputs[first]), node.start + first
            self._map(self._value(source), stop - first, self._value(out), epilogue)

    def _forward_add(self, node: Add) -> None:
        constants = self._graph.constant_values(node.inputs).sum(axis=0)
        bias = Epilogue(bias=self._program.vector(constants) if constants.any() else -1)
        self._map(None, node.size, self._value(node.start), bias)
        for addend in node.inputs:
            self._forward_runs(replace(node, inputs=addend), Epilogue(accumulate=True))

    def _forward_copy(self, node: Copy) -> None:
        for first, stop in self._copied_parts(node):
            addresses = node.inputs[first:stop]
            origin = int(addresses.min())
            index = self._program.index(addresses - origin)
            space, source = self._value(origin)
            span = int(addresses.max()) - origin + 1
            out_space, out = self._value(node.start + first)
            template = Gather(space, span, index, stop - first, out_space)
            self._emit(RowOp(template, [source, out]))

    def _copied_parts(self, node: Copy) -> list[tuple[int, int]]:
        """Split a copy where its inputs change from one node to another.

        Where the parts would be shorter than a vector, only between the graph's input and nodes.
        """
        owner = self._owners[node.inputs]
        breaks = np.flatnonzero(np.diff(owner)) + 1
        if node.size < SHORT_RUN * (breaks.size + 1):
            breaks = np.flatnonzero(np.diff(owner >= 0)) + 1
        edges = [0, *breaks.tolist(), node.size]
        return list(zip(edges[:-1], edges[1:], strict=True))

    # Backward

    def backward(self) -> None:
        self.seed()
        for node in reversed(self._graph.nodes):
            if (self._writer[node.start : node.start + node.size] < 0).all():
                continue
            self._clear_unwritten(node.start, node.size)
            match node:
                case Linear():
                    self._backward_linear(node)
                case Relu():
                    self._finish_relu(node)
                    self._pass_on(node, node.inputs)
                case ScaleNode():
                    self._backward_scale(node)
                case Add():
                    self._backward_add(node)
                case Copy():
                    self._backward_copy(node)
        self._clear_unwritten(0, self._graph.input_size)
        self._finish_input()

    def seed(self) -> None:
        outputs = self._graph.outputs
        start = int(outputs[0])
        template = Seed(outputs.size, self._method.start)
        offsets = [self._value(start)[1], self._relevance_of(start)[1]]
        self._record(self._emit(RowOp(template, offsets)), start, outputs.size)

    def _finish_relu(self, node: Node) -> None:
        if self._method.relu != Post.none:
            self._finish(node.start, node.size, self._method.relu, node.start)

    def _backward_linear(self, node: Linear) -> None:
        rule = self._rules[node.start]
        if node.relu:
            self._finish_relu(node)
        if rule.denominator is not None:
            self._divide(node, rule.denominator)
        slot = self._relevance_of(node.start)
        if rule.absorbed is not None and rule.absorbed.any():
            vector = self._program.vector(rule.absorbed)
            self._emit(RowOp(Absorb(slot[0], vector, node.size), [slot[1]]))
        for term in rule.terms:
            self._backward_term(node, term)

    def _rule(self, node: Linear) -> LinearRule:
        low, high = self._domains.of(node.inputs)
        inputs = LinearInputs(
            node.weight,
            node.bias,
            low,
            high,
            node.inputs < 0,
            self._graph.constant_values(node.inputs),
            self._domains.raw[np.maximum(node.inputs, 0)] & (node.inputs >= 0),
        )
        try:
            return self._method.linear(inputs)
        except UnsuitableDomainError as error:
            raise UnsupportedModelError(str(error), operator="linear", module=node.module) from None

    def _divide(self, node: Linear, denominator: Denominator) -> None:
        if node.start in self._denominators:
            self._finish(node.start, node.size, Post.divide, -1 - self._denominators[node.start])
            return
        constant = denominator.constant
        vector = self._program.vector(constant) if constant.any() else -1
        self._finish(node.start, node.size, Post.divide, node.start, vector)

    def _backward_term(self, node: Linear, term: Term) -> None:
        addresses = node.inputs[term.features]
        segments = [(self._relevance_of(node.start), node.size)]
        for first, stop in runs(addresses):
            address, size = int(addresses[first]), stop - first
            epilogue, offsets = self._factor(term, slice(first, stop), address)
            epilogue = replace(epilogue, accumulate=self._accumulates(address, size))
            matrix = term.matrix[:, first:stop]
            out = self._relevance_of(address)
            bf16 = self._bf16_relevance
            op = self._gemm(segments, matrix, out, epilogue, *offsets, bf16=bf16)
            self._record(op, address, size)

    def _factor(self, term: Term, part: slice, address: int) -> tuple[Epilogue, list[int]]:
        if term.minus is None:
            return Epilogue(), []
        space, offset = self._value(address)
        if not term.minus[part].any():
            return Epilogue(scale=Scale.operand, scale_space=space), [offset]
        vector = self._program.vector(term.minus[part])
        scale = Scale.operand_minus_vector
        return Epilogue(scale=scale, scale_space=space, scale_vector=vector), [offset]

    def _pass_on(
        self, node: Node, inputs: Addresses, vector: Floats | None = None, activation: bool = False
    ) -> None:
        """Give each input its output's relevance, times a vector or times the input's value."""
        for first, stop in runs(inputs):
            address, size = int(inputs[first]), stop - first
            epilogue, offsets = Epilogue(), []
            if activation:
                space, offset = self._value(address)
                epilogue, offsets = Epilogue(scale=Scale.operand, scale_space=space), [offset]
            elif vector is not None:
                index = self._program.vector(vector[first:stop])
                epilogue = Epilogue(scale=Scale.vector, scale_vector=index)
            epilogue = replace(epilogue, accumulate=self._accumulates(address, size))
            source, out = self._relevance_of(node.start + first), self._relevance_of(address)
            self._record(self._map(source, size, out, epilogue, *offsets), address, size)

    def _backward_scale(self, node: ScaleNode) -> None:
        # One input, so relevance passes whole; a gradient is multiplied by the coefficient.
        self._pass_on(node, node.inputs, None if self._method.conserves else node.coefficients)

    def _backward_add(self, node: Add) -> None:
        if not self._method.conserves:
            for addend in node.inputs:
                self._pass_on(node, addend)
            return
        if (self._domains.of(node.inputs)[0] < 0).any():
            raise UnsupportedModelError(
                "deep_taylor has no rule for a sum of values that may be negative; "
                "try gradient_x_input",
                operator="add",
                module=node.module,
            )
        # R_i = a_i R / Σ a: in proportion to the addends, constants absorbing theirs.
        self._finish(node.start, node.size, Post.divide, node.start)
        constants = self._graph.constant_values(node.inputs).sum(axis=0)
        slot = self._relevance_of(node.start)
        if constants.any():
            vector = self._program.vector(constants)
            self._emit(RowOp(Absorb(slot[0], vector, node.size), [slot[1]]))
        for addend in node.inputs:
            self._pass_on(node, addend, activation=True)

    def _backward_copy(self, node: Copy) -> None:
        for first, stop in self._copied_parts(node):
            addresses = node.inputs[first:stop]
            origin, span = int(addresses.min()), int(addresses.max() - addresses.min()) + 1
            self._clear_unwritten(origin, span)
            space, source = self._relevance_of(node.start + first)
            out_space, out = self._relevance_of(origin)
            index = self._program.index(addresses - origin)
            template = Scatter(space, span, index, stop - first, out_space)
            self._record(self._emit(RowOp(template, [source, out])), origin, span)

    def _finish_input(self) -> None:
        post = self._method.finish
        if post == Post.none:
            return
        multiply = post == Post.multiply
        writer = self._writer[: self._graph.input_size]
        breaks = np.flatnonzero(np.diff(writer) != 0) + 1
        edges = [0, *breaks.tolist(), writer.size]
        for first, stop in zip(edges[:-1], edges[1:], strict=True):
            self._finish(first, stop - first, post, first if multiply else None)
