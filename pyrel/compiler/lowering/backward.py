# SPDX-License-Identifier: Apache-2.0
"""The way back through a program: what each node does with the relevance of its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import cached_property

import numpy as np

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.gates import GatedSum
from pyrel.compiler.graph.intervals import (
    Integers,
    apart,
    by_vector,
    common_runs,
    runs,
)
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
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
from pyrel.compiler.lowering.emitter import Place
from pyrel.compiler.lowering.forward import Forward
from pyrel.compiler.lowering.transposed_convolution import Blocks, WayBack, find_way_back
from pyrel.compiler.program.enums import Post, Scale, Share, Space
from pyrel.compiler.program.instructions import (
    Absorb,
    Activate,
    Epilogue,
    NormaliseBack,
    Offsets,
    PoolRoute,
    Scatter,
    Seed,
    Slope,
)
from pyrel.compiler.program.program import content_of
from pyrel.errors import UnsupportedModelError
from pyrel.methods import Method
from pyrel.methods.enums import Start
from pyrel.methods.rules import Denominator, Factor, Mask, Term


class Backward(Forward):
    """Emits the operations that hand relevance down, from the outputs to the input."""

    def __init__(self, graph: Graph, method: Method, domains: Domains, precision: str) -> None:
        super().__init__(graph, method, domains, precision)
        self._ways_back: dict[tuple[object, ...], WayBack | None] = {}

    def backward(self) -> None:
        """Emit the whole way back, in the order in which nodes get their relevance complete."""
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
                case Choice():
                    self._backward_choice(node)
                case MaxPool():
                    self._backward_max_pool(node)
                case EvenMaximum():
                    self._backward_even_maximum(node)
                case Normalise():
                    self._backward_normalise(node)
                case Lookup():
                    self._absorb_weighted(node, np.ones(node.size))
                case Embedding():
                    self._backward_embedding(node)
                case Copy():
                    self._backward_copy(node)
                case StopGradient():
                    if self._method.conserves:
                        self._absorb_weighted(node, np.ones(node.size))
        self._clear_unwritten(0, self._graph.input_size)
        if not self._graph.vocabulary:
            self._finish_input(0, self._graph.input_size)

    def seed(self) -> None:
        """Emit the choice of the target and the relevance that it starts with."""
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
                self._divide(node, rule.denominator, never_zero=self._positive(node))
            if rule.absorbed is not None:
                self._absorb_weighted(node, rule.absorbed)
        if len(node.inputs) > 1:
            for terms in _alike(rule.terms):
                self._backward_rows(node, terms)
            return
        for term in rule.terms:
            self._backward_term(node, term)

    def _absorb_weighted(self, node: Node, weights: Floats) -> None:
        """Count relevance times ``weights``, which are for all outputs or for those of a row."""
        if weights.any():
            self._absorb(node, vector=np.resize(weights, node.size))

    def _divide(self, node: Linear, denominator: Denominator, never_zero: bool) -> None:
        """Make s = R / denominator of the relevance of a node's outputs."""
        constant = np.resize(denominator.constant, node.size)
        if node.start in self._denominators:
            operand = -1 - self._denominators[node.start]
            in_product = denominator.constant.ndim == 1
            vector = None if in_product or not constant.any() else constant
        elif denominator.terms:
            self._form_denominator(node, denominator, self._relevance_of(self._rows(node)), True)
            return
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
        alone: bool = False,
    ) -> None:
        """Divide the relevance of a node's outputs; count what meets zero, or the stabiliser.

        ``alone`` as for `_finish`: for an operand that was formed after the relevance arrived.
        """
        if epsilon:
            self._finish(node.start, node.size, Post.divide_stabilised, operand, vector, epsilon)
            self._absorb(node, Share.stabiliser, vector, operand, epsilon)
            return
        # The score that is explained is above zero where there is relevance to put in.
        is_output = node.start == int(self._graph.outputs[0])
        counts = not never_zero and not (is_output and self._method.start == Start.positive_output)
        if counts:
            self._absorb(node, Share.undivided, vector, operand)
        self._finish(node.start, node.size, Post.divide, operand, vector, alone=alone or counts)

    def _divide_by_constant(self, node: Linear, constant: Floats) -> None:
        self._absorb_weighted(node, (constant == 0).astype(float))
        inverse = np.divide(1.0, constant, out=np.zeros_like(constant), where=constant != 0)
        epilogue = Epilogue(scale=Scale.vector, scale_vector=self.program.vector(inverse))
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

        ``addresses`` are those of rows of ``size`` inputs.
        """
        if factor == Factor.one:
            return Epilogue(), []
        space, offsets = self._value(addresses)
        every = addresses[:, None] + np.arange(size)
        bounds = self._bounds(every.ravel(), factor).reshape(every.shape)
        if not bounds.any():
            return Epilogue(scale=Scale.operand, scale_space=space), [offsets]
        if (bounds != bounds[0]).any():
            span = np.arange(addresses.min(), addresses.max() + size)
            offsets = self._less_bounds(span, factor)[addresses - span[0]]
            return Epilogue(scale=Scale.operand, scale_space=Space.arena), [offsets]
        vector = self.program.vector(bounds[0])
        scale = Scale.operand_minus_vector
        return Epilogue(scale=scale, scale_space=space, scale_vector=vector), [offsets]

    def _backward_rows(self, node: Linear, terms: tuple[Term, ...]) -> None:
        """Give relevance to what many rows read, such as the positions of a kernel.

        ``terms`` are for the same inputs. See `pyrel.compiler.lowering.transposed_convolution`.
        """
        columns = np.flatnonzero(terms[0].features)
        found = self._find_way_back(node, columns, len(terms))
        if found is None:
            for term in terms:
                self._add_up(node, term)
            return
        way_back, first = found
        factors = [term.factor for term in terms]
        for blocks in way_back.blocks:
            matrices = [way_back.matrix(blocks, term.matrix) for term in terms]
            if way_back.together:
                self._give_together(node, blocks, first, matrices, factors)
                continue
            for matrix, factor in zip(matrices, factors, strict=True):
                self._give(node, blocks, first, matrix, factor)

    def _find_way_back(
        self, node: Linear, columns: Integers, terms: int
    ) -> tuple[WayBack, int] | None:
        """Find blocks for some columns of a node's inputs, and the address they count from.

        What the inputs are copies of gets the relevance at once, unless it lies in more pieces.
        """
        inputs = node.inputs[:, columns]
        sources = self._sources[inputs]
        copies = np.where(sources < 0, -1, inputs)
        if _breaks(sources) > _breaks(copies):
            sources = copies
        first, last = int(sources[sources >= 0].min(initial=self._graph.size)), int(sources.max())
        owners = self._owners[first : last + 1]
        lowest = owners[owners >= 0].min(initial=len(self._graph.nodes))
        owners = np.where(owners < 0, -1, owners - lowest)
        weight = node.weight[:, columns].reshape(node.positions, -1, columns.size)
        # A row that is one position reads all, whatever its weights.
        support = (weight != 0).any(axis=1) | (node.positions == 1)
        width = weight.shape[1]
        read = (inputs - inputs.min(), np.where(sources < 0, -1, sources - first), owners, support)
        key = (*(content_of(np.ascontiguousarray(part)) for part in read), width, terms)
        if key not in self._ways_back:
            self._ways_back[key] = find_way_back(*read, width, terms)
        way_back = self._ways_back[key]
        return None if way_back is None else (way_back, first)

    @cached_property
    def _sources(self) -> Addresses:
        """By address: what it is a copy of, -1 for a constant; itself where it is none.

        Copies that absorb relevance count as none: it must arrive there.
        """
        sources = np.arange(self._graph.size)
        for node in self._graph.nodes:
            if isinstance(node, Copy) and not (
                self._method.conserves and self._absorbing(node).any()
            ):
                sources[node.addresses] = picked(sources, node.inputs, -1)
        return sources

    def _segments_of(self, node: Linear, blocks: Blocks) -> list[tuple[Place, int]]:
        """Where the relevance of the positions lies that read some blocks."""
        width = node.width // node.positions
        return [
            (self._relevance_of(node.start + firsts * width), length * width)
            for firsts, length in zip(blocks.firsts, blocks.lengths, strict=True)
        ]

    def _give(
        self, node: Linear, blocks: Blocks, first: int, matrix: Floats, factor: Factor
    ) -> None:
        """Give relevance to blocks of what many rows read, by one product."""
        starts = first + blocks.starts
        epilogue, offsets = self._factor(factor, starts, blocks.size)
        epilogue = replace(epilogue, accumulate=self._accumulates(starts, blocks.size))
        segments, out = self._segments_of(node, blocks), self._relevance_of(starts)
        op = self._gemm(segments, matrix, out, epilogue, *offsets, bf16=self._bf16_relevance)
        self._record(op, starts, blocks.size)

    def _give_together(
        self,
        node: Linear,
        blocks: Blocks,
        first: int,
        matrices: list[Floats],
        factors: list[Factor],
    ) -> None:
        """Do what `_give` does for terms whose sums lie side by side, where one would be short."""
        starts, size = first + blocks.starts, blocks.size
        columns = size * len(matrices)
        sums = self._reserve(columns * starts.size) + columns * np.arange(starts.size)
        segments = self._segments_of(node, blocks)
        matrix = np.concatenate(matrices, axis=1)
        self._gemm(segments, matrix, (Space.arena, sums), Epilogue(), bf16=self._bf16_relevance)
        for number, factor in enumerate(factors):
            epilogue, offsets = self._factor(factor, starts, size)
            epilogue = replace(epilogue, accumulate=self._accumulates(starts, size))
            source, out = (Space.arena, sums + number * size), self._relevance_of(starts)
            self._record(self._map(source, size, out, epilogue, *offsets), starts, size)

    def _add_up(self, node: Linear, term: Term) -> None:
        """Add up what each row hands down, by products whose rows do not overlap.

        Where there is a factor, the sums are formed apart and then multiplied.
        """
        inputs = node.inputs[:, term.features]
        rows = self._relevance_of(self._rows(node))
        owners = self._owners[inputs[0]]
        for owner in np.unique(owners).tolist():
            own = np.flatnonzero(owners == owner)
            addresses, matrix = inputs[:, own], term.matrix[:, own]
            first = int(addresses.min())
            size = int(addresses.max()) + 1 - first
            if term.factor == Factor.one:
                self._clear_unwritten(first, size)
                sums = self._relevance_of(first)
            else:
                sums = Space.arena, np.array([self._reserve(size)])
                self._map(None, size, sums)
            for i, j in common_runs(addresses):
                starts = addresses[:, i]
                for some in apart(starts, j - i):
                    op = self._gemm(
                        [((rows[0], rows[1][some]), node.width)],
                        matrix[:, i:j],
                        (sums[0], sums[1] + starts[some] - first),
                        Epilogue(accumulate=True),
                        bf16=self._bf16_relevance,
                    )
                    if term.factor == Factor.one:
                        self._record(op, starts[some], j - i)
            if term.factor != Factor.one:
                epilogue, offsets = self._factor(term.factor, np.array([first]), size)
                epilogue = replace(epilogue, accumulate=self._accumulates(first, size))
                op = self._map(sums, size, self._relevance_of(first), epilogue, *offsets)
                self._record(op, first, size)

    def _pass_on(
        self,
        node: Node,
        inputs: Addresses,
        vector: Floats | None = None,
        operands: Addresses | None = None,
    ) -> None:
        """Give each input its output's relevance, times a vector or what lies at ``operands``."""
        variable = np.flatnonzero(inputs >= 0)
        read = [inputs[variable], node.start + variable]
        if operands is not None:
            read.append(operands[variable])
        for size, first in self._row_groups(np.stack(read)):
            where = variable[first]
            if vector is None:
                self._pass_rows(node, inputs, where, size, Epilogue(), operands)
                continue
            for factors, some in by_vector(vector, where, size):
                index = self.program.vector(factors)
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
        for some in apart(inputs[where], size):
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
            if node.function == Function.sigmoid and self._method.centres_sigmoids:
                self._backward_centred(node)
            else:
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

    def _backward_centred(self, node: Activation) -> None:
        """R (σ − ½)/σ: the ½ that a sigmoid is at zero is a constant, which absorbs its share.

        σ − ½ is ½ tanh(z/2), without what a difference would lose where z is near zero.
        """
        halves = np.full(node.size, 0.5)
        self._divide_by(node, node.start, None, 0.0, never_zero=True)
        self._absorb_weighted(node, halves)
        space, place = Space.arena, self._reserve(node.size)
        halved = Epilogue(scale=Scale.vector, scale_vector=self.program.vector(halves))
        everything = space, np.array([place])
        for size, first in self._row_groups(node.inputs[None]):
            part = replace(halved, scale_vector=self.program.vector(halves[:size]))
            self._map(self._value(node.inputs[first]), size, (space, place + first), part)
        self._emit(Activate(space, node.size, space, Function.tanh), everything[1], everything[1])
        self._map(everything, node.size, everything, halved)
        for size, first in self._row_groups(node.inputs[None]):
            addresses = node.inputs[first]
            accumulate = self._accumulates(addresses, size)
            epilogue = Epilogue(scale=Scale.operand, scale_space=space, accumulate=accumulate)
            source, out = self._relevance_of(node.start + first), self._relevance_of(addresses)
            op = self._map(source, size, out, epilogue, place + first)
            self._record(op, addresses, size)

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
        never_zero = not self._relevant_at_zero[node.addresses].any()
        epsilon = self._method.epsilon if signed else 0.0
        self._divide_by(node, node.start, None, epsilon, never_zero and not signed)
        self._absorb_weighted(node, self._graph.constant_values(node.inputs).sum(axis=0))
        for addend in node.inputs:
            self._pass_on(node, addend, operands=addend)

    def _backward_product(self, node: Product) -> None:
        if not self._method.conserves:
            constant = picked(self._gates.is_stopped, node.inputs, False)
            live = np.where(constant, -1, node.inputs)
            self._pass_on(node, live[0], operands=node.inputs[1])
            self._pass_on(node, live[1], operands=node.inputs[0])
            return
        stopped = self._gates.split_stopped(node)
        signal = self._gates.split(node) if stopped is None else stopped
        if self._method.gates == "signal" and signal is None:
            raise UnsupportedModelError(
                f"{self._method.name} hands relevance to the signal of a product of a gate (a "
                "sigmoid's output) and a signal; here both or neither is a gate. "
                'gates="half" gives each factor half; gradient_x_input needs no rule',
                operator="mul",
                module=node.module,
            )
        for factor, share in self._shares(node):
            self._pass_on(node, factor, share)

    def _backward_choice(self, node: Choice) -> None:
        for value, mask in zip(node.values, node.masks, strict=True):
            stopped = self._gates.is_stopped[value] & (not self._method.conserves)
            self._pass_on(node, np.where(stopped, -1, value), operands=mask)

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
            self._divide_by(node, place, None, 0.0, False, alone=True)
            self._absorb_weighted(node, bias)
        for index, (member, rule) in enumerate(zip(members, rules, strict=True)):
            self._hand_to_member(node, index, member, denominators[index])
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

    def _hand_to_member(self, node: GatedSum, index: int, member: Node, denominator: Place) -> None:
        """Write gate · s where the member's relevance lies."""
        gates, carried = node.gates[index], node.carried[index]
        if (gates < 0).all():
            self._pass_on(node, member.addresses)
            return
        self._pass_on(node, member.addresses, operands=gates)
        if self._method.gates != "half" or carried.all():
            return
        # The gate gets half of what the member would: ½ s · gate · denominator.
        slot = self._relevance_of(member.start)
        halves = self.program.vector(np.full(member.size, 0.5))
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
        """Give relevance to the first of the largest, or share it out: R_i = a_i R / Σ a.

        The latter is Montavon et al. 2017, section 5.2.
        """
        padding = picked(self._padding, node.inputs, False)
        shares = self._pools_in_proportion(node, padding)
        if shares and self._relevant_at_zero[node.addresses].any():
            # All of a window may be zero where relevance arrives.
            self._absorb(node, Share.undivided, operand=node.start)
        for size, first in _without_self_overlap(self._row_groups(node.inputs), node, ~padding):
            real = ~padding[:, first]
            for some in _apart_but_padding(node.inputs[:, first], real, size):
                rows = first[some]
                addresses = node.inputs[:, rows]
                accumulate = self._accumulates(addresses[real[:, some]], size)
                values = [self._value(each) for each in addresses]
                source = self._relevance_of(node.start + rows)
                outs = self._outs_but_padding(addresses, real[:, some], size, accumulate)
                template = PoolRoute(
                    tuple(space for space, _ in values),
                    size,
                    source[0],
                    tuple(space for space, _ in outs),
                    shares,
                    accumulate,
                )
                places = [*values, source, *outs]
                op = self._emit(template, *(offsets for _, offsets in places))
                self._record(op, np.unique(addresses[real[:, some]]), size)

    def _backward_even_maximum(self, node: EvenMaximum) -> None:
        self._divide_by(node, int(node.inputs[-2, 0]), None, 0.0, never_zero=True)
        for values, marks in zip(node.values, node.marks, strict=True):
            self._pass_on(node, values, operands=marks)

    def _pools_in_proportion(self, node: MaxPool, padding: Mask) -> bool:
        if self._method.pooling == "winner":
            return False
        nonneg = bool((padding | (self._domains.of(node.inputs)[0] >= 0)).all())
        if self._method.pooling == "proportional" and not nonneg:
            where = f"module '{node.module}'" if node.module else "the model itself"
            raise ValueError(
                f'pooling="proportional": values of the maximum in {where} may be below zero; '
                'give pooling="winner"'
            )
        return nonneg

    @cached_property
    def _padding(self) -> Mask:
        """The addresses that hold −∞, beside which anything is the largest."""
        padding = np.zeros(self._graph.size, dtype=bool)
        for node in self._graph.nodes:
            if isinstance(node, Copy):
                padding[node.addresses] = np.isneginf(self._graph.constant_values(node.inputs))
        return padding

    def _outs_but_padding(
        self, addresses: Addresses, real: Mask, size: int, accumulate: bool
    ) -> list[Place]:
        """Where the relevance of a window's elements goes; that of padding, zero, goes aside."""
        outs = [self._relevance_of(each) for each in addresses]
        if real.all():
            return outs
        aside = np.array([self._reserve(size)])
        if accumulate:
            self._map(None, size, (Space.arena, aside))
        return [
            (space, np.where(here, offsets, aside)) if space == Space.arena else (space, offsets)
            for (space, offsets), here in zip(outs, real, strict=True)
        ]

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
        for some in apart(addresses, width):
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
        for some in apart(node.inputs, 1):
            addresses = node.inputs[some]
            epilogue = Epilogue(accumulate=self._accumulates(addresses, 1))
            out = self._relevance_of(addresses)
            op = self._gemm([(self._relevance_of(rows[some]), width)], ones, out, epilogue)
            self._record(op, addresses, 1)

    def _backward_copy(self, node: Copy) -> None:
        if self._method.conserves:
            self._absorb_weighted(node, self._absorbing(node).astype(float))
        whole, short = self._copied_parts(node)
        for inputs in whole:
            self._pass_on(node, inputs)
        for first, stop in short:
            addresses = node.inputs[first:stop]
            origin, span = int(addresses.min()), int(addresses.max() - addresses.min()) + 1
            self._clear_unwritten(origin, span)
            space, source = self._relevance_of(node.start + first)
            out_space, out = self._relevance_of(origin)
            index = self.program.index(addresses - origin)
            template = Scatter(space, span, index, stop - first, out_space)
            self._record(self._emit(template, source, out), origin, span)

    def _absorbing(self, node: Copy) -> Mask:
        """Mark the constants that may get relevance: all but zeros that only linear nodes read.

        No rule gives those any. The rule of squared weights writes something there, but does not
        count it in its totals.
        """
        constant = node.inputs < 0
        if not constant.any():
            return constant
        zero = constant & (self._graph.constant_values(node.inputs) == 0)
        kept: Mask = constant & ~(zero & ~self._read_by_others[node.addresses])
        return kept

    @cached_property
    def _read_by_others(self) -> Mask:
        """The addresses that nodes read that are not linear."""
        read = np.zeros(self._graph.size, dtype=bool)
        read[self._graph.outputs] = True
        for node in self._graph.nodes:
            if not isinstance(node, Linear):
                read[node.inputs[node.inputs >= 0]] = True
        return read

    def _finish_input(self, start: int, size: int) -> None:
        """Do what the method does with what arrives at the input, or at embeddings."""
        post = self._method.finish
        if post == Post.none:
            return
        self._finish(start, size, post, start if post == Post.multiply else None)


def _breaks(addresses: Addresses) -> int:
    """How often addresses do not go on within a row, those below zero left out."""
    left, right = addresses[:, :-1], addresses[:, 1:]
    return int(((right - left != 1) & (left >= 0) & (right >= 0)).sum())


def _apart_but_padding(addresses: Addresses, real: Mask, size: int) -> Iterator[Integers]:
    """Cut the windows of a pool into groups that do not overlap but in padding."""
    beyond = int(addresses.max()) + size
    numbers = np.arange(addresses.size).reshape(addresses.shape)
    yield from apart(np.where(real, addresses, beyond + size * numbers), size)


def _alike(terms: tuple[Term, ...]) -> Iterator[tuple[Term, ...]]:
    """Group terms for the same inputs, such as the two of the z^β rule for pixels."""
    for term in terms:
        same = [t for t in terms if np.array_equal(t.features, term.features)]
        if same[0] is term:
            yield tuple(same)


def _without_self_overlap(
    groups: Iterable[tuple[int, Integers]], node: MaxPool, real: Mask
) -> Iterator[tuple[int, Integers]]:
    """Cut runs of windows so short that the elements of one window lie in runs apart.

    With a stride of 1 the first elements of all windows are a run, as the second are, further on.
    """
    for size, first in groups:
        addresses = np.sort(np.where(real[:, first], node.inputs[:, first], -1), axis=0)
        gaps = np.diff(addresses, axis=0)[addresses[:-1] >= 0]
        width = min(size, int(gaps.min(initial=size)))
        whole = size // width * width
        starts = first[:, None] + np.arange(0, whole, width)
        yield width, starts.ravel()
        if whole < size:
            yield size - whole, first + whole
