# SPDX-License-Identifier: Apache-2.0
"""Rules of several parts, and biases that give their share to the inputs.

The relevance R of a node stays where it lies; each part has its shares s = weight · R / denominator
in a place of its own. What no part hands on is absorbed, or is given to the inputs in equal parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pyrel.compiler.graph.intervals import Integers
from pyrel.compiler.graph.nodes import Floats, Linear, Node
from pyrel.compiler.lowering.emitter import Emitter, Place
from pyrel.compiler.lowering.placement import Placement
from pyrel.compiler.lowering.relevance import Relevance, Shares
from pyrel.compiler.program.enums import Post, Scale, Share, Space
from pyrel.compiler.program.instructions import Epilogue
from pyrel.methods.terms import Part, Propagation, Sign, Term


@dataclass(frozen=True, eq=False)
class Divisor:
    """What the relevance of a part is divided by, and what of it comes from no input.

    ``operand`` is as for `Relevance.finish`, ``vector`` is added to it; both are of the size of the
    node's outputs.
    """

    operand: int
    vector: Floats | None
    epsilon: float
    constant: Floats

    def place(self, emitter: Emitter) -> Place:
        """Return where the operand lies."""
        return emitter.value_or_arena(self.operand)


def divide_into_parts(
    node: Linear, relevance: Relevance, placement: Placement, propagation: Propagation
) -> list[tuple[tuple[Term, ...], Shares]]:
    """Return the terms of each part with where its shares lie."""
    emitter = relevance.emitter
    # Behind a ReLU there is no relevance at outputs that are not above zero.
    parts = [
        (number, part)
        for number, part in enumerate(propagation.parts)
        if not (node.relu and part.sign == Sign.negative)
    ]
    divisors = [
        _divisor(node, number, part, emitter, placement.denominators) for number, part in parts
    ]
    division = Division(node, relevance, placement.shares_bias)
    places = division.divide([part for _, part in parts], divisors, propagation.exchanges)
    given = [(part.terms, at(place)) for (_, part), place in zip(parts, places, strict=True)]
    if placement.shares_bias:
        left = division.left_over([part for _, part in parts], places, divisors)
        if left is not None:
            # To the inputs that are neither constants nor padding.
            terms, number = placement.count_inputs(node)
            divide_evenly(node, relevance, left, number)
            given.append((terms, at(left)))
    return given


def at(place: Place) -> Shares:
    """Return shares that lie one after the other from a place on."""
    return lambda offsets: (place[0], place[1] + np.atleast_1d(offsets))


def _divisor(
    node: Linear,
    number: int,
    part: Part,
    emitter: Emitter,
    formed: dict[tuple[int, int], int],
) -> Divisor | None:
    denominator = part.denominator
    if denominator is None:
        return None
    absorbed = np.zeros(node.size) if part.absorbed is None else np.resize(part.absorbed, node.size)
    constant = np.resize(denominator.constant, node.size)
    place = formed.get((node.start, number))
    if place is not None:  # a constant that is the same for all rows is in it
        vector = None if denominator.constant.ndim == 1 or not constant.any() else constant
        return Divisor(-1 - place, vector, denominator.epsilon, absorbed)
    if denominator.output:
        vector = constant if constant.any() else None
        return Divisor(node.start, vector, denominator.epsilon, absorbed)
    operand = emitter.reserve(node.size)
    bias = Epilogue(bias=emitter.vector(constant))
    emitter.map(None, node.size, (Space.arena, np.array([operand])), bias)
    return Divisor(-1 - operand, None, denominator.epsilon, absorbed)


class Division:
    """Divides the relevance of one node into the parts of its rule.

    Parameters
    ----------
    node : Node
    relevance : Relevance
        Where that of the node is complete.
    shares_bias : bool
        Whether what is not handed on is kept for `left_over`; else it is absorbed.
    """

    def __init__(self, node: Node, relevance: Relevance, shares_bias: bool) -> None:
        self._node, self._relevance, self._shares_bias = node, relevance, shares_bias
        self._emitter = relevance.emitter
        self._size = node.size

    def divide(
        self, parts: Sequence[Part], divisors: Sequence[Divisor | None], exchanges: bool
    ) -> list[Place]:
        """Form the shares of each part; return where they lie."""
        if exchanges and len(parts) == 2 and divisors[0] is not None and divisors[1] is not None:
            places = self._exchange(parts, (divisors[0], divisors[1]))
        else:
            places = [
                self._shares(part, divisor) for part, divisor in zip(parts, divisors, strict=True)
            ]
            if any(part.sign != Sign.any for part in parts) and not self._shares_bias:
                source = self._relevance.place(self._node.start)
                zero = self._node.start
                self._relevance.absorb(source, self._size, Share.undivided, operand=zero)
        if not self._shares_bias:
            for part, place in zip(parts, places, strict=True):
                if part.absorbed is not None:
                    self._relevance.absorb_weighted(self._node, part.absorbed, at(place))
        return places

    def left_over(
        self, parts: Sequence[Part], places: Sequence[Place], divisors: Sequence[Divisor | None]
    ) -> Place | None:
        """Form what the parts did not hand to inputs: R − Σ s · (denominator − constants).

        Without a denominator shares are of 1. None if nothing is left.
        """
        absorbs = [part.absorbed is not None and bool(part.absorbed.any()) for part in parts]
        if not any(absorbs) and all(divisor is None for divisor in divisors):
            return None
        left = self._new(self._relevance.place(self._node.start))
        for part, place, divisor in zip(parts, places, divisors, strict=True):
            if divisor is None:
                absorbed = np.zeros(1) if part.absorbed is None else part.absorbed
                self._map(place, left, self._scaled(absorbed - 1.0, accumulate=True))
                continue
            constant = divisor.constant - (0.0 if divisor.vector is None else divisor.vector)
            epilogue = replace(self._scaled(-1.0), bias=self._emitter.vector(-constant))
            handed_on = self._new(divisor.place(self._emitter), epilogue)
            self._multiply(place, handed_on, left, accumulate=True)
        return left

    def _shares(self, part: Part, divisor: Divisor | None) -> Place:
        """Form s = weight · R / denominator where the output has the part's sign, else 0."""
        source = self._relevance.place(self._node.start)
        epilogue = Epilogue() if part.weight == 1.0 else self._scaled(part.weight)
        operands = []
        if part.sign != Sign.any:
            value = self._emitter.value(self._node.start)
            if part.sign == Sign.negative:
                value = self._new(value, self._scaled(-1.0))
            epilogue = replace(epilogue, post=Post.mask, post_space=value[0])
            operands = [value[1]]
        place = self._new()
        self._emitter.map(source, self._size, place, epilogue, *operands)
        if divisor is not None:
            self._divide(place, divisor)
        return place

    def _divide(self, place: Place, divisor: Divisor, counts: bool = True) -> None:
        """Divide what lies at a place; count what meets zero, or the stabiliser."""
        counts = counts and not self._shares_bias
        vector = divisor.vector
        index = -1 if vector is None else self._emitter.vector(vector)
        operand = divisor.place(self._emitter)
        post = Post.divide_stabilised if divisor.epsilon else Post.divide
        if counts and not divisor.epsilon:
            self._relevance.absorb(place, self._size, Share.undivided, vector, divisor.operand)
        epilogue = Epilogue(
            post=post, post_space=operand[0], post_vector=index, epsilon=divisor.epsilon
        )
        self._emitter.map(place, self._size, place, epilogue, operand[1])
        if counts and divisor.epsilon:
            self._relevance.absorb(
                place, self._size, Share.stabiliser, vector, divisor.operand, divisor.epsilon
            )

    def _exchange(self, parts: Sequence[Part], divisors: tuple[Divisor, Divisor]) -> list[Place]:
        """Let each part hand on all where the other's denominator is 0.

        With p = R / Σp, and 1 where the other denominator is not 0: s = p + (weight − 1) p · 1.
        """
        source = self._relevance.place(self._node.start)
        present = [self._present(divisor) for divisor in divisors]
        places = []
        for part, divisor, other in zip(parts, divisors, present[::-1], strict=True):
            place = self._new(source)
            self._divide(place, divisor, counts=False)
            both = self._new()
            self._multiply(place, other, both)
            self._map(both, place, self._scaled(part.weight - 1.0, accumulate=True))
            places.append(place)
        if not self._shares_bias:
            either = self._new(present[0])
            self._map(present[1], either, Epilogue(accumulate=True))
            operand = -1 - int(either[1][0])
            self._relevance.absorb(source, self._size, Share.undivided, operand=operand)
        return places

    def _present(self, divisor: Divisor) -> Place:
        """Form 1 where a denominator is not 0, else 0: it divided by itself."""
        place = self._new(divisor.place(self._emitter), self._biased(divisor))
        self._emitter.map(
            place, self._size, place, Epilogue(post=Post.divide, post_space=place[0]), place[1]
        )
        return place

    def _biased(self, divisor: Divisor) -> Epilogue:
        vector = divisor.vector
        return Epilogue() if vector is None else Epilogue(bias=self._emitter.vector(vector))

    def _scaled(self, factor: float | Floats, accumulate: bool = False) -> Epilogue:
        index = self._emitter.program.vector(np.resize(factor, self._size))
        return Epilogue(scale=Scale.vector, scale_vector=index, accumulate=accumulate)

    def _new(self, source: Place | None = None, epilogue: Epilogue | None = None) -> Place:
        """Reserve a place, and copy there what lies at another."""
        place = Space.arena, np.array([self._emitter.reserve(self._size)])
        if source is not None:
            self._emitter.map(source, self._size, place, epilogue)
        return place

    def _map(self, source: Place, out: Place, epilogue: Epilogue) -> None:
        self._emitter.map(source, self._size, out, epilogue)

    def _multiply(self, source: Place, factor: Place, out: Place, accumulate: bool = False) -> None:
        epilogue = Epilogue(scale=Scale.operand, scale_space=factor[0], accumulate=accumulate)
        self._emitter.map(source, self._size, out, epilogue, factor[1])


def divide_evenly(node: Node, relevance: Relevance, left: Place, number: Floats | Integers) -> None:
    """Divide what is left of each output by the number of its inputs; without any, absorb it."""
    relevance.absorb_weighted(node, (number == 0).astype(float), at(left))
    inverse = np.divide(1.0, number, out=np.zeros(node.size), where=number > 0)
    emitter = relevance.emitter
    epilogue = Epilogue(scale=Scale.vector, scale_vector=emitter.program.vector(inverse))
    emitter.map(left, node.size, left, epilogue)
