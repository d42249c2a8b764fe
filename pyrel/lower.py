# SPDX-License-Identifier: Apache-2.0
"""From a graph and a method to a program: forward, then relevance backward, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from pyrel._core import Post, Scale, Share, Space, Start
from pyrel.domains import Domains, fold, propagate, split_mixed_rows
from pyrel.emit import Emitter, Place
from pyrel.errors import UnsupportedModelError
from pyrel.gates import GatedSum, find_gates, gather_gated_sums
from pyrel.graph import (
    Activation,
    Add,
    Addresses,
    Copy,
    Embedding,
    Floats,
    Graph,
    Linear,
    MaxPool,
    Node,
    Normalise,
    Product,
    Relu,
    common_runs,
    picked,
    runs,
)
from pyrel.graph import Scale as ScaleNode
from pyrel.layout import MAX_SEGMENTS, SHORT_RUN, lay_out
from pyrel.memory import plan
from pyrel.methods import Method, UnsuitableDomainError
from pyrel.program import (
    Absorb,
    Activate,
    Embed,
    Epilogue,
    Gather,
    MaxRoute,
    NormaliseBack,
    Offsets,
    Program,
    Scatter,
    Seed,
    Slope,
)
from pyrel.program import MaxPool as MaxPoolOf
from pyrel.program import Normalise as NormaliseRows
from pyrel.rules import Denominator, Factor, LinearRule, Mask, Term
from pyrel.schedule import schedule

Integers: TypeAlias = npt.NDArray[np.int64]


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
    if method.folds:
        graph = fold(graph, low, high)
    if method.conserves:
        graph = gather_gated_sums(graph)
        graph = split_mixed_rows(graph, low, high)
    graph = lay_out(graph)
    return _Lowering(graph, method, propagate(graph, low, high), precision)


class _Lowering(Emitter):
    def __init__(self, graph: Graph, method: Method, domains: Domains, precision: str) -> None:
        super().__init__(graph, Program(graph.input_size, graph.classes, method.conserves))
        self._method = method
        self._domains = domains
        self._gates = find_gates(graph)
        self._owners = graph.owners()
        self._bf16_relevance = precision != "float32"
        self._bf16_forward = precision == "bf16_all"
        self._rules: dict[int, LinearRule] = {}  # by the start of the linear node
        self._denominators: dict[int, int] = {}  # likewise: where in the arena it is formed
        self._reached = self._find_reached()
        self._members = {
            int(address)
            for node in graph.nodes
            if isinstance(node, GatedSum)
            for address in node.members[:, 0]
        }

    def _find_reached(self) -> Mask:
        """Mark the addresses that relevance reaches: not gates that get none."""
        reached = np.zeros(self._graph.size, dtype=bool)
        reached[self._graph.outputs] = True
        whole = not self._method.conserves or self._method.gates == "half"
        for node in reversed(self._graph.nodes):
            if not reached[node.start : node.start + node.size].any():
                continue
            inputs = node.inputs
            if isinstance(node, Product) and not whole:
                parts = self._gates.split(node)
                inputs = node.inputs if parts is None else parts[1]
            if isinstance(node, GatedSum) and not whole:
                inputs = node.members
            reached[inputs[inputs >= 0]] = True
        return reached

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
                    self._map_runs(node.inputs, self._value(node.start), Epilogue(post=Post.relu))
                case Activation():
                    self._forward_activation(node)
                case ScaleNode():
                    self._forward_scale(node)
                case Add():
                    self._forward_add(node)
                case Product():
                    self._forward_product(node)
                case GatedSum():
                    self._forward_gated_sum(node)
                case MaxPool():
                    self._forward_max_pool(node)
                case Normalise():
                    self._forward_normalise(node)
                case Embedding():
                    self._forward_embedding(node)
                case Copy():
                    self._forward_copy(node)

    def _forward_linear(self, node: Linear, denominators: bool) -> None:
        constant = (node.inputs < 0).all(axis=0)
        bias = node.bias + node.weight @ self._graph.constant_values(node.inputs[0])
        epilogue = Epilogue(bias=self._vector(bias), post=Post.relu if node.relu else Post.none)
        matrix = node.weight[:, ~constant].T
        segments = self._segments(node.inputs[:, ~constant])
        out = self._value(self._rows(node))
        self._gemm(segments, matrix, out, epilogue, bf16=self._bf16_forward)
        if not self._reached[node.start : node.start + node.size].any():
            return
        self._rules[node.start] = rule = self._rule(node)
        if denominators and rule.denominator is not None and rule.denominator.products:
            self._denominators[node.start] = self._form_denominator(node, rule.denominator)

    @staticmethod
    def _rows(node: Linear) -> Addresses:
        """Where the outputs of each row start."""
        return node.start + np.arange(node.inputs.shape[0]) * node.width

    def _form_denominator(self, node: Linear, denominator: Denominator) -> int:
        """Emit the products of a denominator; nothing in the forward pass waits for them."""
        offset = self._reserve(node.size)
        place = Space.arena, offset + self._rows(node) - node.start
        alike = denominator.constant.ndim == 1
        vector = self._vector(denominator.constant) if alike else -1
        if denominator.output:
            self._map(self._value(node.start), node.size, (Space.arena, np.array([offset])))
        for index, (features, matrix) in enumerate(denominator.products):
            accumulate = denominator.output or index > 0
            epilogue = Epilogue(bias=vector if index == 0 else -1, accumulate=accumulate)
            segments = self._segments(node.inputs[:, features])
            if len(segments) > MAX_SEGMENTS:
                # Too many pieces: read all inputs, those between them with weights of zero.
                variable = (node.inputs >= 0).all(axis=0)
                segments = self._segments(node.inputs[:, variable])
                spread = np.zeros((node.width, node.inputs.shape[1]))
                spread[:, features] = matrix
                matrix = spread[:, variable]
            self._gemm(segments, matrix.T, place, epilogue, bf16=self._bf16_relevance)
        return offset

    def _segments(self, addresses: Addresses) -> list[tuple[Place, int]]:
        """Return where rows of operands lie, (rows, columns), in as few runs as there are."""
        return [(self._value(addresses[:, i]), j - i) for i, j in common_runs(addresses)]

    def _row_groups(self, addresses: Addresses) -> Iterator[tuple[int, Integers]]:
        """Cut (operands, elements) into runs in which all operands are consecutive.

        Yields a length with where all runs of it begin, and none that leave a space of memory.
        """
        pieces = np.array(list(common_runs(addresses)), dtype=np.int64).reshape(-1, 2)
        lengths = pieces[:, 1] - pieces[:, 0]
        inside = (addresses[:, pieces[:, 0]] < self._graph.input_size) * 1
        kinds = np.concatenate([lengths[None], inside]).T
        for kind in np.unique(kinds, axis=0):
            yield int(kind[0]), pieces[(kinds == kind).all(axis=1), 0]

    def _map_runs(self, inputs: Addresses, out: Place, epilogue: Epilogue) -> None:
        """Map each run of values to its place behind ``out``; constants are left out."""
        for part in _variable_parts(inputs):
            for size, first in self._row_groups(inputs[None, part]):
                where = part[first]
                self._map(self._value(inputs[where]), size, (out[0], out[1] + where), epilogue)

    def _forward_activation(self, node: Activation) -> None:
        for size, first in self._row_groups(node.inputs[None]):
            source, out = self._value(node.inputs[first]), self._value(node.start + first)
            template = Activate(source[0], size, out[0], node.function, node.parameter)
            self._emit(template, source[1], out[1])

    def _forward_scale(self, node: ScaleNode) -> None:
        for size, first in self._row_groups(node.inputs[None]):
            for factors, some in _by_vector(node.coefficients, first, size):
                vector = self._program.vector(factors)
                epilogue = Epilogue(scale=Scale.vector, scale_vector=vector)
                out = self._value(node.start + some)
                self._map(self._value(node.inputs[some]), size, out, epilogue)

    def _forward_add(self, node: Add) -> None:
        constants = self._graph.constant_values(node.inputs).sum(axis=0)
        self._map(None, node.size, self._value(node.start), Epilogue(bias=self._vector(constants)))
        for addend in node.inputs:
            self._map_runs(addend, self._value(node.start), Epilogue(accumulate=True))

    def _forward_product(self, node: Product) -> None:
        for size, first in self._row_groups(node.inputs):
            left, right = (self._value(factor[first]) for factor in node.inputs)
            epilogue = Epilogue(scale=Scale.operand, scale_space=right[0])
            self._map(left, size, self._value(node.start + first), epilogue, right[1])

    def _forward_gated_sum(self, node: GatedSum) -> None:
        out = self._value(node.start)
        self._map(None, node.size, out, Epilogue(bias=self._vector(node.bias)))
        for member, gates in zip(node.members, node.gates, strict=True):
            self._add_gated(self._value(int(member[0])), gates, out)

    def _add_gated(self, source: Place, gates: Addresses, out: Place) -> None:
        """Add what lies at ``source``, times its gates, to ``out``."""
        if (gates < 0).all():
            self._map(source, gates.size, out, Epilogue(accumulate=True))
            return
        for first, stop in runs(gates):
            gate = self._value(int(gates[first]))
            epilogue = Epilogue(scale=Scale.operand, scale_space=gate[0], accumulate=True)
            moved = [(place[0], place[1] + first) for place in (source, out)]
            self._map(moved[0], stop - first, moved[1], epilogue, gate[1])

    def _forward_max_pool(self, node: MaxPool) -> None:
        for size, first in self._row_groups(node.inputs):
            sources = [self._value(each[first]) for each in node.inputs]
            out = self._value(node.start + first)
            template = MaxPoolOf(tuple(space for space, _ in sources), size, out[0])
            self._emit(template, *(offsets for _, offsets in sources), out[1])

    def _forward_normalise(self, node: Normalise) -> None:
        rows, width = node.inputs.shape
        source = self._value(node.inputs[:, 0])
        out = self._value(node.start + np.arange(rows) * width)
        self._emit(NormaliseRows(source[0], width, out[0], node.epsilon), source[1], out[1])

    def _forward_embedding(self, node: Embedding) -> None:
        width = node.table.shape[1]
        source = self._value(node.inputs)
        out = self._value(node.start + np.arange(node.inputs.size) * width)
        template = Embed(source[0], self._program.table(node.table), width, out[0])
        self._emit(template, source[1], out[1])

    def _forward_copy(self, node: Copy) -> None:
        constant = node.inputs < 0
        if constant.any():
            values = np.where(constant, self._graph.constant_values(node.inputs), 0.0)
            out = self._value(node.start)
            self._map(None, node.size, out, Epilogue(bias=self._vector(values)))
        for first, stop, short in self._copied_parts(node):
            addresses = node.inputs[first:stop]
            if not short:
                self._map_runs(addresses, self._value(node.start + first), Epilogue())
                continue
            origin = int(addresses.min())
            index = self._program.index(addresses - origin)
            space, source = self._value(origin)
            span = int(addresses.max()) - origin + 1
            out_space, offset = self._value(node.start + first)
            template = Gather(space, span, index, stop - first, out_space)
            self._emit(template, source, offset)

    def _copied_parts(self, node: Copy) -> list[tuple[int, int, bool]]:
        """Split a copy at constants, and where its inputs change from one node to another.

        Where the parts would be shorter than a vector, only between constants, the graph's input
        and nodes. The last of each part says whether it lies in short runs.
        """
        owner = picked(self._owners, node.inputs, -2)
        breaks = np.flatnonzero(np.diff(owner)) + 1
        if node.size < SHORT_RUN * (breaks.size + 1):
            breaks = np.flatnonzero(np.diff(np.sign(owner + 1) - (owner == -2))) + 1
        edges = [0, *breaks.tolist(), node.size]
        parts = []
        for first, stop in zip(edges[:-1], edges[1:], strict=True):
            if owner[first] != -2:
                pieces = len(list(runs(node.inputs[first:stop])))
                parts.append((first, stop, pieces * SHORT_RUN > stop - first))
        return parts

    # Backward

    def backward(self) -> None:
        self.seed()
        for node in reversed(self._graph.nodes):
            out = slice(node.start, node.start + node.size)
            if not self._reached[out].any() or (self._writer[out] < 0).all():
                continue
            self._clear_unwritten(node.start, node.size)
            match node:
                case Linear():
                    self._backward_linear(node)
                case Relu():
                    self._finish_relu(node)
                    self._pass_on(node, node.inputs)
                case Activation():
                    self._backward_activation(node)
                case ScaleNode():
                    self._backward_scale(node)
                case Add():
                    self._backward_add(node)
                case Product():
                    self._backward_product(node)
                case GatedSum():
                    self._backward_gated_sum(node)
                case MaxPool():
                    self._backward_max_pool(node)
                case Normalise():
                    self._backward_normalise(node)
                case Embedding():
                    self._backward_embedding(node)
                case Copy():
                    self._backward_copy(node)
        self._clear_unwritten(0, self._graph.input_size)
        if not self._graph.vocabulary:
            self._finish_input(0, self._graph.input_size)

    def seed(self) -> None:
        outputs = self._graph.outputs
        start = int(outputs[0])
        template = Seed(outputs.size, self._method.start)
        op = self._emit(template, self._value(start)[1], self._relevance_of(start)[1])
        self._record(op, start, outputs.size)

    def _finish_relu(self, node: Node) -> None:
        if self._method.relu != Post.none:
            self._finish(node.start, node.size, self._method.relu, node.start)

    def _absorb(
        self,
        node: Node,
        share: Share = Share.weighted,
        vector: Floats | None = None,
        operand: int | None = None,
        epsilon: float = 0.0,
    ) -> None:
        """Count relevance that goes nowhere; ``operand`` is as for `_finish`."""
        space, origin = self._relevance_of(node.start)
        operand_place = None if operand is None else self._value_or_arena(operand)
        template = Absorb(
            space,
            -1 if vector is None else self._vector(vector),
            node.size,
            share,
            None if operand_place is None else operand_place[0],
            epsilon,
        )
        self._emit(template, origin, *([] if operand_place is None else [operand_place[1]]))

    def _backward_linear(self, node: Linear) -> None:
        rule = self._rules[node.start]
        if node.relu:
            self._finish_relu(node)
        if node.start not in self._members:
            if rule.denominator is not None:
                self._divide(node, rule.denominator, never_zero=node.relu)
            if rule.absorbed is not None:
                self._absorb_weighted(node, rule.absorbed)
        for term in rule.terms:
            if node.inputs.shape[0] == 1:
                self._backward_term(node, term)
            else:
                self._backward_rows(node, term)

    def _absorb_weighted(self, node: Node, weights: Floats) -> None:
        """Count relevance times ``weights``, which are for all outputs or for those of a row."""
        if weights.any():
            self._absorb(node, vector=np.resize(weights, node.size))

    def _rule(self, node: Linear) -> LinearRule:
        inputs = self._domains.linear_inputs(node)
        try:
            return self._method.linear(inputs)
        except UnsuitableDomainError as error:
            raise UnsupportedModelError(str(error), operator="linear", module=node.module) from None

    def _divide(self, node: Linear, denominator: Denominator, never_zero: bool) -> None:
        """Make s = R / denominator of the relevance of a node's outputs."""
        constant = np.resize(denominator.constant, node.size)
        if node.start in self._denominators:
            operand = -1 - self._denominators[node.start]
            in_product = denominator.constant.ndim == 1
            vector = None if in_product or not constant.any() else constant
        elif denominator.output:
            operand, vector = node.start, constant if constant.any() else None
        else:
            self._divide_by_constant(node, constant)
            return
        self._divide_by(node, operand, vector, denominator.epsilon, never_zero)

    def _divide_by(
        self,
        node: Node,
        operand: int,
        vector: Floats | None,
        epsilon: float,
        never_zero: bool,
    ) -> None:
        """Divide the relevance of a node's outputs; count what meets zero, or the stabiliser."""
        if epsilon:
            self._finish(node.start, node.size, Post.divide_stabilised, operand, vector, epsilon)
            self._absorb(node, Share.stabiliser, vector, operand, epsilon)
            return
        # The score that is explained is above zero where there is relevance to put in.
        is_output = node.start == int(self._graph.outputs[0])
        counts = not never_zero and not (is_output and self._method.start == Start.positive_output)
        if counts:
            self._absorb(node, Share.undivided, vector, operand)
        self._finish(node.start, node.size, Post.divide, operand, vector, alone=counts)

    def _divide_by_constant(self, node: Linear, constant: Floats) -> None:
        self._absorb_weighted(node, (constant == 0).astype(float))
        inverse = np.divide(1.0, constant, out=np.zeros_like(constant), where=constant != 0)
        epilogue = Epilogue(scale=Scale.vector, scale_vector=self._program.vector(inverse))
        slot = self._relevance_of(node.start)
        self._record(self._map(slot, node.size, slot, epilogue), node.start, node.size)

    def _backward_term(self, node: Linear, term: Term) -> None:
        """Give relevance to what one row reads: a product for each run of addresses."""
        addresses = node.inputs[0, term.features]
        segments = [(self._relevance_of(node.start), node.size)]
        for first, stop in runs(addresses):
            address, size = int(addresses[first]), stop - first
            epilogue, offsets = self._factor(term.factor, np.array([address]), size)
            epilogue = replace(epilogue, accumulate=self._accumulates(address, size))
            matrix = term.matrix[:, first:stop]
            out = self._relevance_of(address)
            bf16 = self._bf16_relevance
            op = self._gemm(segments, matrix, out, epilogue, *offsets, bf16=bf16)
            self._record(op, address, size)

    def _factor(
        self, factor: Factor, addresses: Addresses, size: int
    ) -> tuple[Epilogue, list[Offsets]]:
        """Return the epilogue that multiplies by a factor, and its operands' places.

        ``addresses`` are those of rows of ``size`` inputs that have the same bounds.
        """
        if factor == Factor.one:
            return Epilogue(), []
        space, offsets = self._value(addresses)
        bound = np.zeros(0)
        if factor != Factor.value:
            read = np.arange(addresses[0], addresses[0] + size)
            bound = self._domains.of(read)[factor == Factor.below_high]
        if not bound.any():
            return Epilogue(scale=Scale.operand, scale_space=space), [offsets]
        vector = self._program.vector(bound)
        scale = Scale.operand_minus_vector
        return Epilogue(scale=scale, scale_space=space, scale_vector=vector), [offsets]

    def _backward_rows(self, node: Linear, term: Term) -> None:
        """Give relevance to what many rows read, such as the positions of a kernel.

        The rows overlap: what they hand down is added up, by products whose rows do not overlap,
        and then multiplied by the factor.
        """
        columns = np.flatnonzero(term.features)
        addresses = node.inputs[:, columns]
        owners = self._owners[addresses[0]]
        for owner in np.unique(owners).tolist():
            own = np.flatnonzero(owners == owner)
            first, stop = int(addresses[:, own].min()), int(addresses[:, own].max()) + 1
            sums = self._relevance_of(first)
            if term.factor == Factor.one:
                self._clear_unwritten(first, stop - first)
            else:
                sums = Space.arena, np.array([self._reserve(stop - first)])
                self._map(None, stop - first, sums)
            record = term.factor == Factor.one
            self._add_up(node, addresses[:, own], term.matrix[:, own], first, sums, record)
            if term.factor != Factor.one:
                epilogue, offsets = self._factor(term.factor, np.array([first]), stop - first)
                accumulate = self._accumulates(first, stop - first)
                epilogue = replace(epilogue, accumulate=accumulate)
                out = self._relevance_of(first)
                op = self._map(sums, stop - first, out, epilogue, *offsets)
                self._record(op, first, stop - first)

    def _add_up(
        self,
        node: Linear,
        addresses: Addresses,
        matrix: Floats,
        first: int,
        sums: Place,
        record: bool,
    ) -> None:
        """Add each row's s @ matrix to ``sums``, in which the address ``first`` comes first."""
        rows = self._relevance_of(self._rows(node))
        for i, j in common_runs(addresses):
            starts = addresses[:, i]
            for some in _apart(starts, j - i):
                out = sums[0], sums[1] + starts[some] - first
                op = self._gemm(
                    [((rows[0], rows[1][some]), node.width)],
                    matrix[:, i:j],
                    out,
                    Epilogue(accumulate=True),
                    bf16=self._bf16_relevance,
                )
                if record:
                    self._record(op, starts[some], j - i)

    def _pass_on(
        self,
        node: Node,
        inputs: Addresses,
        vector: Floats | None = None,
        operands: Addresses | None = None,
    ) -> None:
        """Give each input its output's relevance, times a vector or what lies at ``operands``."""
        read = [inputs] if operands is None else [inputs, operands]
        for part in _variable_parts(inputs):
            for size, first in self._row_groups(np.stack([each[part] for each in read])):
                where = part[first]
                if vector is None:
                    self._pass_rows(node, inputs, where, size, Epilogue(), operands)
                    continue
                for factors, some in _by_vector(vector, where, size):
                    index = self._program.vector(factors)
                    epilogue = Epilogue(scale=Scale.vector, scale_vector=index)
                    self._pass_rows(node, inputs, some, size, epilogue, None)

    def _pass_rows(
        self,
        node: Node,
        inputs: Addresses,
        where: Integers,
        size: int,
        epilogue: Epilogue,
        operands: Addresses | None,
    ) -> None:
        offsets: list[Offsets] = []
        if operands is not None:
            space, offset = self._value(operands[where])
            epilogue, offsets = Epilogue(scale=Scale.operand, scale_space=space), [offset]
        for some in _apart(inputs[where], size):
            rows, addresses = where[some], inputs[where[some]]
            accumulate = self._accumulates(addresses, size)
            op = self._map(
                self._relevance_of(node.start + rows),
                size,
                self._relevance_of(addresses),
                replace(epilogue, accumulate=accumulate),
                *(offset[some] for offset in offsets),
            )
            self._record(op, addresses, size)

    def _backward_activation(self, node: Activation) -> None:
        if self._method.conserves:
            self._pass_on(node, node.inputs)
            return
        for size, first in self._row_groups(node.inputs[None]):
            addresses = node.inputs[first]
            accumulate = self._accumulates(addresses, size)
            source, value = self._relevance_of(node.start + first), self._value(addresses)
            out = self._relevance_of(addresses)
            template = Slope(
                source[0], value[0], size, out[0], node.function, node.parameter, accumulate
            )
            self._record(self._emit(template, source[1], value[1], out[1]), addresses, size)

    def _backward_scale(self, node: ScaleNode) -> None:
        # One input, so relevance passes whole; a gradient is multiplied by the coefficient.
        self._pass_on(node, node.inputs, None if self._method.conserves else node.coefficients)

    def _backward_add(self, node: Add) -> None:
        if not self._method.conserves:
            for addend in node.inputs:
                self._pass_on(node, addend)
            return
        # R_i = a_i R / Σ a: in proportion to the addends, constants absorbing theirs.
        signed = bool((self._domains.of(node.inputs)[0] < 0).any())
        never_zero = bool(np.isposinf(self._domains.of(node.addresses)[1]).all())
        epsilon = self._method.epsilon if signed else 0.0
        self._divide_by(node, node.start, None, epsilon, never_zero and not signed)
        self._absorb_weighted(node, self._graph.constant_values(node.inputs).sum(axis=0))
        for addend in node.inputs:
            self._pass_on(node, addend, operands=addend)

    def _backward_product(self, node: Product) -> None:
        if not self._method.conserves:
            self._pass_on(node, node.inputs[0], operands=node.inputs[1])
            self._pass_on(node, node.inputs[1], operands=node.inputs[0])
            return
        if self._method.gates == "half":
            for factor in node.inputs:
                self._pass_on(node, factor, np.full(node.size, 0.5))
            return
        parts = self._gates.split(node)
        if parts is None:
            raise UnsupportedModelError(
                f"{self._method.name} hands relevance to the signal of a product of a gate (a "
                "sigmoid's output) and a signal; here both or neither is a gate. "
                'gates="half" gives each factor half; gradient_x_input needs no rule',
                operator="mul",
                module=node.module,
            )
        self._pass_on(node, parts[1])

    def _backward_gated_sum(self, node: GatedSum) -> None:
        """S = R / (Σ gate · its member's denominator); each member gets gate · s."""
        members = [self._graph.nodes[self._owners[member[0]]] for member in node.members]
        denominators = [self._denominator_of(member) for member in members]
        rules = [self._rules[member.start] for member in members]
        epsilon = rules[0].denominator.epsilon if rules[0].denominator else 0.0
        if epsilon:
            self._divide_by(node, node.start, None, epsilon, False)
            self._absorb_weighted(node, node.bias)
        else:
            place = -1 - self._reserve(node.size)
            out = self._value_or_arena(place)
            bias = np.maximum(node.bias, 0.0)
            self._map(None, node.size, out, Epilogue(bias=self._vector(bias)))
            for denominator, gates in zip(denominators, node.gates, strict=True):
                self._add_gated(denominator, gates, out)
            self._divide_by(node, place, None, 0.0, False)
            self._absorb_weighted(node, bias)
        for member, gates, rule, denominator in zip(
            members, node.gates, rules, denominators, strict=True
        ):
            self._hand_to_member(node, member, gates, denominator)
            if rule.absorbed is not None:
                self._absorb_weighted(member, rule.absorbed)

    def _denominator_of(self, node: Node) -> Place:
        """Where a member's denominator lies, its constant added; for the ε rule its value."""
        assert isinstance(node, Linear)
        denominator = self._rules[node.start].denominator
        if denominator is None:
            raise UnsupportedModelError(
                f"{self._method.name} has no rule for a sum in which pre-activations are gated and "
                "read unbounded inputs: give low= and high=, the smallest and largest input values",
                operator="add",
                module=node.module,
            )
        if denominator.epsilon:
            return self._value(node.start)
        if node.start in self._denominators:
            return Space.arena, np.array([self._denominators[node.start]])
        place = Space.arena, np.array([self._reserve(node.size)])
        vector = self._vector(np.resize(denominator.constant, node.size))
        source = self._value(node.start) if denominator.output else None
        self._map(source, node.size, place, Epilogue(bias=vector))
        return place

    def _hand_to_member(
        self, node: GatedSum, member: Node, gates: Addresses, denominator: Place
    ) -> None:
        """Write gate · s where the member's relevance lies."""
        half = self._method.gates == "half"
        if (gates < 0).all():
            self._pass_on(node, member.addresses)
            return
        self._pass_on(node, member.addresses, operands=gates)
        if not half:
            return
        # The gate gets half of what the member would: ½ s · gate · denominator.
        slot = self._relevance_of(member.start)
        halves = self._program.vector(np.full(member.size, 0.5))
        halved = Epilogue(scale=Scale.vector, scale_vector=halves)
        self._record(self._map(slot, member.size, slot, halved), member.start, member.size)
        for size, first in self._row_groups(gates[None]):
            addresses = gates[first]
            epilogue = Epilogue(
                scale=Scale.operand,
                scale_space=denominator[0],
                accumulate=self._accumulates(addresses, size),
            )
            op = self._map(
                self._relevance_of(member.start + first),
                size,
                self._relevance_of(addresses),
                epilogue,
                denominator[1] + first,
            )
            self._record(op, addresses, size)

    def _backward_max_pool(self, node: MaxPool) -> None:
        low, high = self._domains.of(node.inputs)
        padding = np.isneginf(low) & (high == 0)
        if self._method.conserves and (padding | (low >= 0)).all():
            self._share_pool(node)
            return
        for size, first in self._row_groups(node.inputs):
            for some in _apart_together(node.inputs[:, first], size):
                rows = first[some]
                addresses = node.inputs[:, rows]
                for each in addresses:
                    for start in each.tolist():
                        self._clear_unwritten(start, size)
                values = [self._value(each) for each in addresses]
                source = self._relevance_of(node.start + rows)
                outs = [self._relevance_of(each) for each in addresses]
                template = MaxRoute(
                    tuple(space for space, _ in values),
                    size,
                    source[0],
                    tuple(space for space, _ in outs),
                )
                places = [*values, source, *outs]
                op = self._emit(template, *(offsets for _, offsets in places))
                for each in addresses:
                    self._record(op, each, size)

    def _share_pool(self, node: MaxPool) -> None:
        """R_i = a_i R / Σ a over the window (Montavon et al. 2017, section 5.2)."""
        place = -1 - self._reserve(node.size)
        space, origin = self._value_or_arena(place)
        self._map(None, node.size, (space, origin))
        inputs = np.where(np.isneginf(self._domains.of(node.inputs)[0]), -1, node.inputs)
        for each in inputs:
            self._map_runs(each, (space, origin), Epilogue(accumulate=True))
        never_zero = bool(np.isposinf(self._domains.of(node.addresses)[1]).all())
        self._divide_by(node, place, None, 0.0, never_zero)
        for each in inputs:
            self._pass_on(node, each, operands=each)

    def _backward_normalise(self, node: Normalise) -> None:
        detached = self._method.conserves
        if detached:
            if self._method.folds:
                raise UnsupportedModelError(
                    f"{self._method.name} has no rule for layer normalisation, whose values may be "
                    "negative; try lrp_epsilon",
                    operator="layer_norm",
                    module=node.module,
                )
            self._divide_by(node, node.start, None, self._method.epsilon, False)
        width = node.inputs.shape[1]
        rows = np.arange(node.inputs.shape[0]) * width
        addresses = node.inputs[:, 0]
        for some in _apart(addresses, width):
            accumulate = self._accumulates(addresses[some], width)
            source = self._relevance_of(node.start + rows[some])
            value, out = self._value(addresses[some]), self._relevance_of(addresses[some])
            template = NormaliseBack(
                source[0], value[0], width, out[0], node.epsilon, detached, accumulate
            )
            op = self._emit(template, source[1], value[1], out[1])
            self._record(op, addresses[some], width)

    def _backward_embedding(self, node: Embedding) -> None:
        """Add up over the dimensions what arrives at an embedding."""
        self._finish_input(node.start, node.size)
        width = node.table.shape[1]
        ones = np.ones((width, 1))
        rows = node.start + np.arange(node.inputs.size) * width
        for some in _apart(node.inputs, 1):
            addresses = node.inputs[some]
            epilogue = Epilogue(accumulate=self._accumulates(addresses, 1))
            out = self._relevance_of(addresses)
            op = self._gemm([(self._relevance_of(rows[some]), width)], ones, out, epilogue)
            self._record(op, addresses, 1)

    def _backward_copy(self, node: Copy) -> None:
        constant = node.inputs < 0
        if self._method.conserves and constant.any():
            self._absorb_weighted(node, constant.astype(float))
        for first, stop, short in self._copied_parts(node):
            addresses = node.inputs[first:stop]
            if not short:
                part = replace(node, start=node.start + first, inputs=addresses)
                self._pass_on(part, addresses)
                continue
            origin, span = int(addresses.min()), int(addresses.max() - addresses.min()) + 1
            self._clear_unwritten(origin, span)
            space, source = self._relevance_of(node.start + first)
            out_space, out = self._relevance_of(origin)
            index = self._program.index(addresses - origin)
            template = Scatter(space, span, index, stop - first, out_space)
            self._record(self._emit(template, source, out), origin, span)

    def _finish_input(self, start: int, size: int) -> None:
        """Do what the method does with what arrives at the input, or at embeddings."""
        post = self._method.finish
        if post == Post.none:
            return
        multiply = post == Post.multiply
        writer = self._writer[start : start + size]
        breaks = start + np.flatnonzero(np.diff(writer) != 0) + 1
        edges = [start, *breaks.tolist(), start + size]
        for first, stop in zip(edges[:-1], edges[1:], strict=True):
            self._finish(first, stop - first, post, first if multiply else None)


def _apart(starts: Addresses, size: int) -> Iterator[Integers]:
    """Cut runs of ``size`` addresses into groups in which none overlaps another."""
    yield from _apart_together(starts[None], size)


def _apart_together(starts: Addresses, size: int) -> Iterator[Integers]:
    """Do the same for rows that write several runs each; ``starts`` is (runs, rows)."""
    order = np.argsort(starts.min(axis=0), kind="stable")
    ends: list[int] = []
    groups: list[list[int]] = []
    for row in order.tolist():
        first, stop = int(starts[:, row].min()), int(starts[:, row].max()) + size
        group = next((g for g, end in enumerate(ends) if end <= first), len(ends))
        if group == len(ends):
            ends.append(0)
            groups.append([])
        ends[group] = stop
        groups[group].append(row)
    for members in groups:
        yield np.array(members)


def _variable_parts(inputs: Addresses) -> Iterator[Integers]:
    """Where consecutive elements are no constants."""
    variable = np.flatnonzero(inputs >= 0)
    for part in np.split(variable, np.flatnonzero(np.diff(variable) != 1) + 1):
        if part.size:
            yield part


def _by_vector(values: Floats, starts: Integers, size: int) -> Iterator[tuple[Floats, Integers]]:
    """Group runs of ``size`` that have the same values; yields values and starts."""
    parts = values[starts[:, None] + np.arange(size)]
    if (parts == parts[0]).all():
        yield parts[0], starts
        return
    distinct, which = np.unique(parts, axis=0, return_inverse=True)
    for number, part in enumerate(distinct):
        yield part, starts[np.ravel(which) == number]
