# SPDX-License-Identifier: Apache-2.0
"""Products of a gate and a signal, and sums in which gates multiply pre-activations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pyrel.compiler.graph.gates import GatedSum
from pyrel.compiler.graph.intervals import runs
from pyrel.compiler.graph.layout import Kind
from pyrel.compiler.graph.nodes import Addresses, Copy, Floats, Graph, Linear, Product, picked
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.lowering.linear import divide_by, give
from pyrel.compiler.lowering.parts import Division, Divisor, at, divide_evenly
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance
from pyrel.compiler.program.enums import Scale, Space
from pyrel.compiler.program.instructions import Epilogue
from pyrel.errors import UnsupportedModelError
from pyrel.methods import other_rules
from pyrel.methods.terms import Denominator, Part, Propagation

# Products


def forward_product(node: Product, emitter: Emitter, _: Placement | None) -> None:
    """Multiply both factors."""
    emitter.multiply(node.inputs, node.start)


def back_product(node: Product, relevance: Relevance, placement: Placement) -> None:
    """Give relevance to the signal, or half to each factor; a gradient times the other factor."""
    rule, gates = placement.rules[node.start], placement.facts.gates
    if isinstance(rule, other_rules.BothFactors):
        constant = picked(gates.is_stopped, node.inputs, False)
        live = np.where(constant, -1, node.inputs)
        relevance.pass_on(node, live[0], operands=node.inputs[1])
        relevance.pass_on(node, live[1], operands=node.inputs[0])
        return
    stopped = gates.split_stopped(node)
    signal = gates.split(node) if stopped is None else stopped
    unknown = signal is None and not (placement.method.conserves and gates.is_halved(node))
    if isinstance(rule, other_rules.Signal | other_rules.SignalTimesGate) and unknown:
        raise _two_signals(node, placement)
    if isinstance(rule, other_rules.SignalTimesGate):
        assert signal is not None
        relevance.pass_on(node, signal[1], operands=signal[0])
        return
    for factor, share in placement.shares(node):
        relevance.pass_on(node, factor, share)


def _two_signals(node: Product, placement: Placement) -> UnsupportedModelError:
    """Say that a product has no signal, or two, and what takes it."""
    gates, instead = placement.facts.gates, ""
    if placement.method.conserves:
        instead = 'gates="half" gives each factor half; '
        if gates.is_gate[node.addresses].all() and not picked(gates.is_gate, node.inputs, 0).any():
            instead = 'attention="attnlrp" has a rule for a softmax that is read; '
        for name in _inputs_among_factors(node, placement.facts.graph):
            instead += f'constant=["{name}"] makes that input, if it is a mask, the gate; '
    return UnsupportedModelError(
        f"{placement.method.name} gives relevance to the signal of a product of a gate (a "
        "sigmoid's output) and a signal; here both or neither is a gate. "
        f"{instead}gradient_x_input needs no rule",
        operator="mul",
        module=node.module,
    )


def _inputs_among_factors(node: Product, graph: Graph) -> list[str]:
    """Name those of several inputs, of floats, that are a factor as they are given."""
    if graph.layout is None:
        return []
    source = np.arange(graph.size)
    for each in graph.nodes:
        if isinstance(each, Copy):
            source[each.addresses] = picked(source, each.inputs, graph.size)
    layout, found = graph.layout.of_size(graph.input_size), []
    for leaf, where in zip(layout.leaves, layout.slices, strict=True):
        floats = leaf.elements == Kind.floats
        read = (picked(source, factor, graph.size) for factor in node.inputs)
        if floats and any(((at >= where.start) & (at < where.stop)).all() for at in read):
            found.append(leaf.name)
    return found


# Gated sums


def forward_gated_sum(node: GatedSum, emitter: Emitter, _: Placement | None) -> None:
    """Add up the members times their gates."""
    out = emitter.value(node.start)
    emitter.map(None, node.size, out, Epilogue(bias=emitter.vector(node.bias)))
    for member, gates in zip(node.members, node.gates, strict=True):
        _add_gated(emitter, emitter.value(int(member[0])), gates, out)


def _add_gated(
    emitter: Emitter, source: Place, gates: Addresses, out: Place, power: int = 1
) -> None:
    """Add what lies at ``source``, times its gates to a power, to ``out``."""
    if (gates < 0).all() or power == 0:
        emitter.map(source, gates.size, out, Epilogue(accumulate=True))
        return
    if power > 1:
        once = Space.arena, np.array([emitter.reserve(gates.size)])
        emitter.map(None, gates.size, once)
        _add_gated(emitter, source, gates, once, power - 1)
        source = once
    for first, stop in runs(gates):
        gate = emitter.value(int(gates[first]))
        epilogue = Epilogue(scale=Scale.operand, scale_space=gate[0], accumulate=True)
        moved = [(place[0], place[1] + first) for place in (source, out)]
        emitter.map(moved[0], stop - first, moved[1], epilogue, gate[1])


def back_gated_sum(node: GatedSum, relevance: Relevance, placement: Placement) -> None:
    """S = R / (Σ gate · its member's denominator); each member gets gate · s."""
    members = _members(node, placement)
    propagations = [placement.propagation(member) for member in members]
    single = all(p.is_whole and p.parts[0].power == 1 for p in propagations)
    parts = _GatedParts(node, relevance, placement, members)
    if not single or placement.shares_bias:
        parts.back()
        return
    denominators = [_denominator_of(member, relevance.emitter, placement) for member in members]
    divisor = parts.divisor(0, denominators)
    formed = divisor.operand != node.start
    epsilon = divisor.epsilon
    divide_by(node, relevance, placement, divisor.operand, None, epsilon, False, alone=formed)
    relevance.absorb_weighted(node, divisor.constant)
    for index, (member, propagation) in enumerate(zip(members, propagations, strict=True)):
        _give_member(node, relevance, placement, index, member, denominators[index])
        absorbed = propagation.parts[0].absorbed
        if absorbed is not None:
            relevance.absorb_weighted(member, absorbed)


def _members(node: GatedSum, placement: Placement) -> list[Linear]:
    members = []
    for member in node.members:
        linear = placement.facts.owner(int(member[0]))
        assert isinstance(linear, Linear)
        members.append(linear)
    return members


def _sum_of_denominators(
    node: GatedSum, emitter: Emitter, bias: Floats, denominators: Sequence[Place], power: int = 1
) -> int:
    """Form bias + Σ gate · denominator; return the operand, as of `Relevance.finish`."""
    place = -1 - emitter.reserve(node.size)
    out = emitter.value_or_arena(place)
    emitter.map(None, node.size, out, Epilogue(bias=emitter.vector(bias)))
    for denominator, gates in zip(denominators, node.gates, strict=True):
        _add_gated(emitter, denominator, gates, out, power)
    return place


def _denominator_of(node: Linear, emitter: Emitter, placement: Placement, number: int = 0) -> Place:
    """Where a member's denominator lies, its constant added; for the ε rule its value."""
    denominator = placement.propagation(node).parts[number].denominator
    if denominator is None:
        raise UnsupportedModelError(
            f"{placement.rules[node.start]!r} has no denominator, which it needs at a sum in which "
            "gates multiply pre-activations",
            operator="add",
            module=node.module,
        )
    if _is_value(denominator):
        return emitter.value(node.start)
    if (node.start, number) in placement.denominators:
        return Space.arena, np.array([placement.denominators[node.start, number]])
    place = Space.arena, np.array([emitter.reserve(node.size)])
    vector = emitter.vector(np.resize(denominator.constant, node.size))
    source = emitter.value(node.start) if denominator.output else None
    emitter.map(source, node.size, place, Epilogue(bias=vector))
    return place


def _is_value(denominator: Denominator) -> bool:
    """Whether a denominator is the value of the node itself, as that of the ε rule is."""
    return denominator.output and not denominator.terms and not denominator.constant.any()


def _form_of(propagation: Propagation) -> tuple[object, ...]:
    """Return what members of one sum have in common, as they are divided together."""
    parts = (
        (p.weight, p.sign, p.power, p.denominator and p.denominator.epsilon)
        for p in propagation.parts
    )
    return propagation.exchanges, *parts


def _give_member(
    node: GatedSum,
    relevance: Relevance,
    placement: Placement,
    index: int,
    member: Linear,
    denominator: Place,
) -> None:
    """Write gate · s where the member's relevance lies."""
    gates, carried = node.gates[index], node.carried[index]
    if (gates < 0).all():
        relevance.pass_on(node, member.addresses)
        return
    relevance.pass_on(node, member.addresses, operands=gates)
    if not isinstance(placement.products[node.start], other_rules.Half) or carried.all():
        return
    # The gate gets half of what the member would: ½ s · gate · denominator.
    emitter = relevance.emitter
    slot = relevance.place(member.start)
    halves = emitter.program.vector(np.full(member.size, 0.5))
    halved = Epilogue(scale=Scale.vector, scale_vector=halves)
    op = emitter.map(slot, member.size, slot, halved)
    relevance.record(op, member.start, member.size)
    _give_gate(relevance, gates, slot, denominator)


def _give_gate(relevance: Relevance, gates: Addresses, shares: Place, denominator: Place) -> None:
    """Give the gates what their member gets: shares times its denominator."""
    emitter = relevance.emitter
    for size, first in relevance.rows_apart(gates):
        addresses = gates[first]
        epilogue = Epilogue(
            scale=Scale.operand,
            scale_space=denominator[0],
            accumulate=relevance.accumulates(addresses, size),
        )
        op = emitter.map(
            (shares[0], shares[1] + first),
            size,
            relevance.place(addresses),
            epilogue,
            denominator[1] + first,
        )
        relevance.record(op, addresses, size)


class _GatedParts:
    """The way back of a gated sum whose rule has several parts, or shares its bias."""

    def __init__(
        self,
        node: GatedSum,
        relevance: Relevance,
        placement: Placement,
        members: Sequence[Linear],
    ) -> None:
        self._node, self._relevance, self._placement = node, relevance, placement
        self._members = members
        self._emitter = relevance.emitter
        self._of_members = [placement.propagation(member) for member in members]
        self._of_bias = placement.of_bias(node)
        forms = {_form_of(each) for each in (*self._of_members, self._of_bias)}
        if len(forms) > 1:
            raise UnsupportedModelError(
                f"{placement.rules[node.start]!r} has other parts for some members of a sum in "
                "which gates multiply pre-activations than for others, or than for its bias",
                operator="add",
                module=node.module,
            )

    def back(self) -> None:
        """Divide by the sums of the members' denominators, part by part."""
        node, placement = self._node, self._placement
        propagation = self._of_members[0]
        division = Division(node, self._relevance, placement.shares_bias)
        numbers = range(len(propagation.parts))
        denominators = [
            [_denominator_of(m, self._emitter, placement, number) for m in self._members]
            for number in numbers
        ]
        divisors = [self.divisor(number, denominators[number]) for number in numbers]
        parts = [
            replace(part, absorbed=self._of_bias.parts[number].absorbed)
            for number, part in zip(numbers, propagation.parts, strict=True)
        ]
        places = division.divide(parts, divisors, propagation.exchanges)
        for number, place in zip(numbers, places, strict=True):
            for index, member in enumerate(self._members):
                shares = self._gated(place, index, propagation.parts[number].power)
                self._give(member, index, number, shares, denominators[number][index])
        if placement.shares_bias:
            self._spread(division, parts, places, divisors)

    def divisor(self, number: int, denominators: Sequence[Place]) -> Divisor:
        """Return what a part's relevance is divided by: the sum itself, or that of denominators."""
        own = self._of_bias.parts[number]
        each = [p.parts[number].denominator for p in (*self._of_members, self._of_bias)]
        bias = self._node.bias
        absorbed = np.zeros(bias.size) if own.absorbed is None else own.absorbed
        assert own.denominator is not None
        epsilon = own.denominator.epsilon
        if all(d is not None and _is_value(d) for d in each):
            return Divisor(self._node.start, None, epsilon, absorbed)
        of_bias = own.denominator.constant + (bias if own.denominator.output else 0.0)
        operand = _sum_of_denominators(self._node, self._emitter, of_bias, denominators, own.power)
        return Divisor(operand, None, epsilon, absorbed)

    def _gated(self, place: Place, index: int, power: int) -> Place:
        """Form the shares of a member: gate · s, the gate to a power."""
        gates = self._node.gates[index]
        if (gates < 0).all() or power == 0:
            return place
        shares = Space.arena, np.array([self._emitter.reserve(self._node.size)])
        self._emitter.map(None, self._node.size, shares)
        _add_gated(self._emitter, place, gates, shares, power)
        return shares

    def _give(
        self, member: Linear, index: int, number: int, shares: Place, denominator: Place
    ) -> None:
        part = self._of_members[index].parts[number]
        gates = self._node.gates[index]
        if self._halves(index):
            halves = self._emitter.program.vector(np.full(member.size, 0.5))
            halved = Space.arena, np.array([self._emitter.reserve(member.size)])
            scaled = Epilogue(scale=Scale.vector, scale_vector=halves)
            self._emitter.map(shares, member.size, halved, scaled)
            shares = halved
            _give_gate(self._relevance, gates, shares, denominator)
        if part.absorbed is not None and not self._placement.shares_bias:
            self._relevance.absorb_weighted(member, part.absorbed, at(shares))
        give(member, self._relevance, part.terms, at(shares))

    def _halves(self, index: int) -> bool:
        """Whether the gate of a member gets half of what the member would."""
        half = isinstance(self._placement.products[self._node.start], other_rules.Half)
        gates, carried = self._node.gates[index], self._node.carried[index]
        return half and not bool((gates < 0).all()) and not bool(carried.all())

    def _spread(
        self,
        division: Division,
        parts: Sequence[Part],
        places: Sequence[Place],
        divisors: Sequence[Divisor],
    ) -> None:
        """Give the shares of biases and stabilisers to the inputs of all members."""
        left = division.left_over(parts, places, divisors)
        assert left is not None
        for number, place in enumerate(places):
            for index in range(len(self._members)):
                absorbed = self._of_members[index].parts[number].absorbed
                if absorbed is not None and absorbed.any():
                    power = self._of_members[index].parts[number].power
                    shares = self._gated(place, index, power)
                    # A gate that has half has that of the bias, too.
                    kept = absorbed * (0.5 if self._halves(index) else 1.0)
                    scale = self._emitter.program.vector(kept)
                    epilogue = Epilogue(scale=Scale.vector, scale_vector=scale, accumulate=True)
                    self._emitter.map(shares, self._node.size, left, epilogue)
        counts = [self._placement.count_inputs(member) for member in self._members]
        number_of_inputs = np.sum([count for _, count in counts], axis=0)
        divide_evenly(self._node, self._relevance, left, number_of_inputs)
        for member, (terms, _) in zip(self._members, counts, strict=True):
            give(member, self._relevance, terms, at(left))
