# SPDX-License-Identifier: Apache-2.0
"""The forward pass of a program: values, and the denominators that nothing in it waits for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.gates import GatedSum, find_gates
from pyrel.compiler.graph.intervals import (
    Integers,
    by_vector,
    common_runs,
    runs,
)
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
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
    StopGradient,
    picked,
)
from pyrel.compiler.graph.nodes import Scale as ScaleNode
from pyrel.compiler.graph.ranges import Domains
from pyrel.compiler.graph.recurrences import find_recurrences
from pyrel.compiler.graph.relevant_zeros import relevant_at_zero
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.passes.contiguous import MAX_SEGMENTS, SHORT_RUN
from pyrel.compiler.program.enums import Post, Scale, Space
from pyrel.compiler.program.instructions import (
    Activate,
    Embed,
    Epilogue,
    Gather,
    Offsets,
    PoolRoute,
)
from pyrel.compiler.program.instructions import MaxPool as MaxPoolOf
from pyrel.compiler.program.instructions import Normalise as NormaliseRows
from pyrel.compiler.program.program import Program
from pyrel.errors import UnsupportedModelError
from pyrel.methods import Method, UnsuitableDomainError
from pyrel.methods.enums import Start
from pyrel.methods.rules import Denominator, Factor, LinearRule, Mask


class Forward(Emitter):
    """Emits the operations that compute a graph.

    `pyrel.compiler.lowering.backward` goes on from there.
    """

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
        # By factor and addresses: where they lie less their lower or upper bound.
        self._shifted: dict[tuple[Factor, bytes], Offsets] = {}
        self._relevant_at_zero = relevant_at_zero(graph, domains.boxed if method.folds else None)
        self._recurrences = find_recurrences(graph)
        self._reached = self._find_reached()
        self._pooled = np.zeros(graph.size, dtype=bool)
        for node in graph.nodes:
            if isinstance(node, MaxPool):
                self._pooled[node.inputs[node.inputs >= 0]] = True
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
            here = reached[node.start : node.start + node.size].any()
            if not here or isinstance(node, StopGradient | Lookup):
                continue
            inputs = node.inputs
            if isinstance(node, Product) and self._method.conserves:
                inputs = np.concatenate([part for part, _ in self._shares(node)])
            if isinstance(node, GatedSum) and not whole:
                inputs = node.members
            if isinstance(node, EvenMaximum | Choice):
                inputs = node.values
            reached[self._live(inputs[inputs >= 0])] = True
        return reached

    def _live(self, addresses: Addresses) -> Addresses:
        """Leave out what no gradient goes through to the input."""
        if self._method.conserves:
            return addresses
        return addresses[~self._gates.is_stopped[addresses]]

    def _shares(self, node: Product) -> list[tuple[Addresses, Floats | None]]:
        """Return what gets relevance of a product, and its share; None is all.

        The signal all, or gate and signal half each but where the signal is a state carried on.
        A factor that is detached is a constant, which gets none.
        """
        stopped = self._gates.split_stopped(node)
        if stopped is not None:
            return [(stopped[1], None)]
        parts = self._gates.split(node)
        if self._method.gates != "half":
            return [(part, None) for part in (node.inputs if parts is None else parts[1:])]
        halves = np.full(node.size, 0.5)
        if parts is None or node.carried is None:
            return [(factor, halves) for factor in node.inputs]
        gates = np.where(node.carried, -1, parts[0])  # nothing where the signal has all
        return [(gates, halves), (parts[1], np.where(node.carried, 1.0, 0.5))]

    def forward(self, denominators: bool = True) -> None:
        """Emit what computes every node, and its denominators if they are wanted."""
        for node in self._graph.nodes:
            match node:
                case Linear():
                    self._forward_linear(node, denominators)
                case Relu():
                    self._map_runs(node.inputs, node.start, Epilogue(post=Post.relu))
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
                case Choice():
                    self._forward_choice(node)
                case MaxPool():
                    self._forward_max_pool(node)
                case AtMaximum():
                    self._forward_at_maximum(node)
                case EvenMaximum():
                    self._map_runs(node.inputs[-1], node.start, Epilogue())
                case Normalise():
                    self._forward_normalise(node)
                case Embedding():
                    self._forward_embedding(node)
                case Copy() | StopGradient():
                    self._forward_copy(node)

    def _forward_linear(self, node: Linear, denominators: bool) -> None:
        constant = np.asarray((node.inputs < 0).all(axis=0))
        bias = node.bias + node.weight @ self._graph.constant_values(node.inputs[0])
        epilogue = Epilogue(bias=self._vector(bias), post=Post.relu if node.relu else Post.none)
        recurrence = self._recurrences.get(node.start)
        if recurrence is None:
            self._multiply(node, node.inputs, ~constant, self._rows(node), epilogue)
        else:
            if node.start == recurrence.starts[0]:
                early = ~recurrence.late
                self._multiply(node, recurrence.inputs, early, recurrence.starts, epilogue)
            then = Epilogue(accumulate=True)
            self._multiply(node, node.inputs, recurrence.late, self._rows(node), then)
        if not self._reached[node.start : node.start + node.size].any():
            return
        self._rules[node.start] = rule = self._rule(node)
        denominator = rule.denominator
        if not denominators or denominator is None or not denominator.terms:
            return
        if not self._divides_at_once(node, denominator):
            offset = self._denominators[node.start] = self._reserve(node.size)
            place = Space.arena, offset + self._rows(node) - node.start
            self._form_denominator(node, denominator, place)

    def _multiply(
        self, node: Linear, inputs: Addresses, features: Mask, rows: Addresses, epilogue: Epilogue
    ) -> None:
        """Emit the products of a node's weights with the ``features`` of rows of inputs."""
        segments = self._segments(inputs[:, features])
        matrix = node.weight[:, features].T
        self._gemm(segments, matrix, self._value(rows), epilogue, bf16=self._bf16_forward)

    def _rule(self, node: Linear) -> LinearRule:
        inputs = self._domains.linear_inputs(node, self._positive(node))
        try:
            return self._method.linear(inputs)
        except UnsuitableDomainError as error:
            raise UnsupportedModelError(str(error), operator="linear", module=node.module) from None

    def _positive(self, node: Linear) -> bool:
        """Whether relevance arrives at outputs above zero only."""
        if node.start == int(self._graph.outputs[0]):
            return self._method.start == Start.positive_output
        return node.relu and not self._relevant_at_zero[node.addresses].any()

    @staticmethod
    def _rows(node: Linear) -> Addresses:
        """Where the outputs of each row start."""
        return node.start + np.arange(node.inputs.shape[0]) * node.width

    def _divides_at_once(self, node: Linear, denominator: Denominator) -> bool:
        """Whether the product that is the denominator divides the relevance, and is not stored.

        Relevance from pools, which cannot divide it, would be read once more for that.
        """
        if len(denominator.terms) != 1:
            return False
        runs = common_runs(node.inputs[:, denominator.terms[0].features])
        return (
            len(list(runs)) <= MAX_SEGMENTS  # a single product, that reads before it writes
            and not denominator.output
            and not denominator.epsilon
            and (denominator.constant.ndim == 1 or not denominator.constant.any())
            and self._positive(node)
            and node.start not in self._members
            and bool(self._pooled[node.addresses].all())
        )

    def _form_denominator(
        self, node: Linear, denominator: Denominator, place: Place, divides: bool = False
    ) -> None:
        """Emit the products of a denominator; nothing in the forward pass waits for them.

        Where it ``divides`` there is one product, by which what is at the place is divided.
        """
        alike = denominator.constant.ndim == 1
        vector = self._vector(denominator.constant) if alike else -1
        if denominator.output:
            self._map(self._value(node.start), node.size, (place[0], place[1][:1]))
        for index, term in enumerate(denominator.terms):
            accumulate = denominator.output or index > 0
            epilogue = Epilogue(bias=vector if index == 0 else -1, accumulate=accumulate)
            operands: list[Offsets] = []
            if divides:
                epilogue = replace(epilogue, post=Post.divide_operand, post_space=place[0])
                operands = [place[1]]
            features, matrix = term.features, term.matrix
            segments = self._factor_segments(node.inputs[:, features], term.factor)
            if len(segments) > MAX_SEGMENTS:
                # Too many pieces: read all inputs, those between them with weights of zero.
                variable = (node.inputs >= 0).all(axis=0)
                segments = self._factor_segments(node.inputs[:, variable], term.factor)
                spread = np.zeros((node.width, node.inputs.shape[1]))
                spread[:, features] = matrix
                matrix = spread[:, variable]
            op = self._gemm(
                segments, matrix.T, place, epilogue, *operands, bf16=self._bf16_relevance
            )
            if divides:
                self._record(op, node.start, node.size)

    def _factor_segments(self, addresses: Addresses, factor: Factor) -> list[tuple[Place, int]]:
        """Return where a factor of rows of operands lies, as `_segments` does for the operands."""
        read = np.unique(addresses)
        bounds = self._bounds(read, factor)
        if not bounds.any():
            return self._segments(addresses)
        places = self._less_bounds(read, factor)[np.searchsorted(read, addresses)]
        return [((Space.arena, places[:, i]), j - i) for i, j in common_runs(places)]

    def _less_bounds(self, addresses: Addresses, factor: Factor) -> Offsets:
        """Return where values less their bounds lie, in the arena."""
        key = factor, addresses.tobytes()
        if key not in self._shifted:
            self._shifted[key] = self._shift(addresses, self._bounds(addresses, factor))
        return self._shifted[key]

    def _bounds(self, addresses: Addresses, factor: Factor) -> Floats:
        """Return what a factor takes from the values at these addresses."""
        if factor not in (Factor.above_low, Factor.below_high):
            return np.zeros(addresses.size)
        bounds = self._domains.of(addresses)[factor == Factor.below_high]
        # Between the inputs of the term may lie others without bounds: nothing is summed there.
        return np.where(np.isfinite(bounds), bounds, 0.0)

    def _shift(self, addresses: Addresses, bounds: Floats) -> Offsets:
        """Emit values less their bounds; return where each lies."""
        places = np.empty_like(addresses)
        for first, stop in runs(addresses):
            offset = self._reserve(stop - first)
            epilogue = Epilogue(bias=self._vector(-bounds[first:stop]))
            place = Space.arena, np.array([offset])
            self._map(self._value(int(addresses[first])), stop - first, place, epilogue)
            places[first:stop] = offset + np.arange(stop - first)
        return places

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

    def _map_runs(self, inputs: Addresses, address: int, epilogue: Epilogue) -> None:
        """Map runs of values to their places from ``address`` on; constants are left out."""
        variable = np.flatnonzero(inputs >= 0)
        for size, first in self._row_groups(np.stack([inputs[variable], address + variable])):
            where = variable[first]
            self._map(self._value(inputs[where]), size, self._value(address + where), epilogue)

    def _forward_activation(self, node: Activation) -> None:
        for size, first in self._row_groups(node.inputs[None]):
            source, out = self._value(node.inputs[first]), self._value(node.start + first)
            template = Activate(source[0], size, out[0], node.function, node.parameter)
            self._emit(template, source[1], out[1])

    def _forward_scale(self, node: ScaleNode) -> None:
        for size, first in self._row_groups(node.inputs[None]):
            for factors, some in by_vector(node.coefficients, first, size):
                vector = self.program.vector(factors)
                epilogue = Epilogue(scale=Scale.vector, scale_vector=vector)
                out = self._value(node.start + some)
                self._map(self._value(node.inputs[some]), size, out, epilogue)

    def _forward_add(self, node: Add) -> None:
        if node.alone:
            self._map_runs(node.inputs[0], node.start, Epilogue())
            return
        constants = self._graph.constant_values(node.inputs).sum(axis=0)
        self._map(None, node.size, self._value(node.start), Epilogue(bias=self._vector(constants)))
        for addend in node.inputs:
            self._map_runs(addend, node.start, Epilogue(accumulate=True))

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

    def _forward_choice(self, node: Choice) -> None:
        accumulates = False
        for value, mask in zip(node.values, node.masks, strict=True):
            for size, first in self._row_groups(np.stack([value, mask, node.addresses])):
                source, factor = self._value(value[first]), self._value(mask[first])
                epilogue = Epilogue(
                    scale=Scale.operand, scale_space=factor[0], accumulate=accumulates
                )
                self._map(source, size, self._value(node.start + first), epilogue, factor[1])
            accumulates = True
        for added in node.beside:
            self._map_runs(added, node.start, Epilogue(accumulate=True))

    def _forward_max_pool(self, node: MaxPool) -> None:
        for size, first in self._row_groups(node.inputs):
            sources = [self._value(each[first]) for each in node.inputs]
            out = self._value(node.start + first)
            template = MaxPoolOf(tuple(space for space, _ in sources), size, out[0])
            self._emit(template, *(offsets for _, offsets in sources), out[1])

    def _forward_at_maximum(self, node: AtMaximum) -> None:
        """Route 1 to each value that is not less than the largest, which goes behind it."""
        width = node.inputs.shape[1]
        values, largest = node.inputs[:-1].ravel(), np.resize(node.inputs[-1], node.size)
        ones = Space.arena, np.array([self._reserve(width)])
        self._map(None, width, ones, Epilogue(bias=self._vector(np.ones(width))))
        rest = self._reserve(node.size)
        columns = np.resize(np.arange(width), node.size)
        read = np.stack([values, largest, self._graph.size + columns, node.addresses])
        for size, first in self._row_groups(read):
            places: list[Place] = [
                self._value(values[first]),
                self._value(largest[first]),
                (Space.arena, ones[1] + columns[first]),
                self._value(node.start + first),
                (Space.arena, rest + first),
            ]
            value, most, one, out, beside = (space for space, _ in places)
            template = PoolRoute((value, most), size, one, (out, beside))
            self._emit(template, *(offsets for _, offsets in places))

    def _forward_normalise(self, node: Normalise) -> None:
        rows, width = node.inputs.shape
        source = self._value(node.inputs[:, 0])
        out = self._value(node.start + np.arange(rows) * width)
        self._emit(NormaliseRows(source[0], width, out[0], node.epsilon), source[1], out[1])

    def _forward_embedding(self, node: Embedding) -> None:
        width = node.table.shape[1]
        source = self._value(node.inputs)
        out = self._value(node.start + np.arange(node.inputs.size) * width)
        template = Embed(source[0], self.program.table(node.table), width, out[0])
        self._emit(template, source[1], out[1])

    def _forward_copy(self, node: Node) -> None:
        constant = node.inputs < 0
        if constant.any():
            values = np.where(constant, self._graph.constant_values(node.inputs), 0.0)
            out = self._value(node.start)
            self._map(None, node.size, out, Epilogue(bias=self._vector(values)))
        whole, short = self._copied_parts(node)
        for inputs in whole:
            self._map_runs(inputs, node.start, Epilogue())
        for first, stop in short:
            addresses = node.inputs[first:stop]
            origin = int(addresses.min())
            index = self.program.index(addresses - origin)
            space, source = self._value(origin)
            span = int(addresses.max()) - origin + 1
            out_space, offset = self._value(node.start + first)
            template = Gather(space, span, index, stop - first, out_space)
            self._emit(template, source, offset)

    def _copied_parts(self, node: Node) -> tuple[list[Addresses], list[tuple[int, int]]]:
        """Split a copy at constants, and where its inputs change from one node to another.

        Where there would be many parts shorter than a vector, only between constants, the graph's
        input and nodes. Returns what is copied run by run, for each node of which something is the
        node's inputs with −1 in place of others; and (first, stop) of parts that lie in short runs.
        """
        owner = picked(self._owners, node.inputs, -2)
        breaks = np.flatnonzero(np.diff(owner)) + 1
        if breaks.size >= MAX_SEGMENTS and node.size < SHORT_RUN * (breaks.size + 1):
            breaks = np.flatnonzero(np.diff(np.sign(owner + 1) - (owner == -2))) + 1
        edges = [0, *breaks.tolist(), node.size]
        short = []
        copied = owner != -2
        for first, stop in zip(edges[:-1], edges[1:], strict=True):
            pieces = len(list(runs(node.inputs[first:stop])))
            if copied[first] and pieces > 1 and pieces * SHORT_RUN > stop - first:
                short.append((first, stop))
                copied[first:stop] = False
        owners = np.unique(owner[copied]).tolist()
        return [np.where(copied & (owner == o), node.inputs, -1) for o in owners], short
