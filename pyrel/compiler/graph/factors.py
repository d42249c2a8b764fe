# SPDX-License-Identifier: Apache-2.0
"""Which factors count as constants beside a signal, though they are no gates within [0, 1].

Those are exponentials and what they are normalised by (as in sLSTM and RWKV), hard sigmoids,
deviations and norms of values (as layer normalisation has them), and the parameters of selective
scans, h ← e^(Δ A) ⊙ h + (Δ ⊙ B) ⊙ u and y = C ⊙ h (Mamba; Jafari et al., *MambaLRP*, 2024). Where a
product has a gate, too, the gate is the gate: an exponential times it is a signal.
"""

from __future__ import annotations

import numpy as np

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    Copy,
    Graph,
    Linear,
    MaxPool,
    Node,
    Product,
    Relu,
    Scale,
    StopGradient,
    look_up,
    picked,
)
from pyrel.compiler.graph.softmax import Softmax
from pyrel.methods.terms import Mask

_CLAMPS = (Function.at_least, Function.above, Function.at_most, Function.below)


class Factors:
    """Marks by address, made node by node in the order of the graph.

    Attributes
    ----------
    constant : ndarray of bool
        What counts as a constant beside a signal.
    exponential : ndarray of bool
        The exponentials.
    """

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self.constant, self.exponential = np.zeros((2, graph.size), dtype=bool)
        # Sums of gates and exponentials; squares, sums of such, and magnitudes; what is a deviation
        # or a norm; minus a constant factor. And the upper bound of what a clamp keeps above 0.
        self._totals, self._squares, self._spreads = np.zeros((3, graph.size), dtype=bool)
        self._magnitudes, self._deviations, self._negated = np.zeros((3, graph.size), dtype=bool)
        self._bound = np.full(graph.size, np.nan)

    def note(self, node: Node, is_gate: Mask) -> None:
        """Look at a node; those that it reads come first."""
        out = slice(node.start, node.start + node.size)
        match node:
            case Activation():
                self._note_activation(node, out)
            case Relu() | Linear(relu=True):
                self._bound[out] = np.inf
            case Scale():
                self._note_scale(node, out)
            case Add():
                self._note_sum(node, out, is_gate)
            case MaxPool():
                found = picked(self._magnitudes, node.inputs, False).all(axis=0)
                self._deviations[out] = self.constant[out] = found
            case Product():
                factors = self.constant | is_gate
                both = picked(factors, node.inputs, False).all(axis=0)
                self.constant[out] = both & ~is_gate[out]
                summed = picked(factors | self._totals, node.inputs, False).all(axis=0)
                self._totals[out] = summed & ~both
            case Softmax():
                self._totals[out] = True  # a sum of weights that are left normalises them
            case Copy() | StopGradient():
                for marks in self._marks():
                    marks[out] = picked(marks, node.inputs, False)
                self._bound[out] = picked(self._bound, node.inputs, np.nan)

    def _marks(self) -> tuple[Mask, ...]:
        kept = (self.constant, self.exponential, self._totals, self._squares)
        return (*kept, self._spreads, self._magnitudes, self._deviations, self._negated)

    def _note_activation(self, node: Activation, out: slice) -> None:
        read = node.inputs

        def of(marks: Mask) -> Mask:
            return picked(marks, read, False)

        match node.function:
            case Function.exp:
                self.exponential[out] = self.constant[out] = True
            case Function.square:
                self._squares[out] = True
            case Function.absolute:
                self._magnitudes[out] = True
            case Function.sqrt:
                self._deviations[out] = self.constant[out] = of(self._spreads)
            case Function.pow if node.parameter in (0.5, -0.5):
                self._deviations[out] = self.constant[out] = of(self._spreads)
            case Function.reciprocal:
                self._deviations[out] = of(self._deviations)
                self.constant[out] = of(self.constant | self._totals)
            case function if function in _CLAMPS:
                self._clamp(node, out)

    def _clamp(self, node: Activation, out: slice) -> None:
        read, end = node.inputs, node.parameter
        above = node.function in (Function.at_least, Function.above)
        if above and end >= 0:
            self._bound[out] = np.inf
        elif not above:
            self._bound[out] = np.minimum(picked(self._bound, read, np.nan), end)
        self.constant[out] = self._bound[out] <= 1
        if above and end > 0:  # the least that something is divided by
            for marks in (self._spreads, self._deviations):
                marks[out] = picked(marks, read, False)
            self._deviations[out] |= picked(self._magnitudes, read, False)
            self.constant[out] |= self._deviations[out]

    def _note_scale(self, node: Scale, out: slice) -> None:
        positive = node.coefficients > 0
        for marks in self._marks():
            marks[out] = positive & picked(marks, node.inputs, False)
        self._bound[out] = picked(self._bound, node.inputs, np.nan) * np.where(
            positive, node.coefficients, np.nan
        )
        self.constant[out] |= self._bound[out] <= 1
        self._negated[out] = (node.coefficients == -1) & picked(self.constant, node.inputs, False)

    def _note_sum(self, node: Add, out: slice, is_gate: Mask) -> None:
        read = node.inputs
        fixed = read < 0
        value = look_up(self._graph.constants, read)
        positive = fixed & (value >= 0)
        several = (~fixed).sum(axis=0) > 1

        def all_of(marks: Mask) -> Mask:
            found = (picked(marks, read, False) | positive).all(axis=0)
            return np.asarray(found & ~fixed.all(axis=0))

        ends = picked(self._negated, read, False) | (fixed & (value == 1))
        opposite = ends.all(axis=0) & ((~fixed).sum(axis=0) == 1)
        self._spreads[out] = (several & all_of(self._squares)) | all_of(self._spreads)
        summed = several & all_of(self._magnitudes)
        self._deviations[out] = summed | all_of(self._deviations)
        self._totals[out] = all_of(self._totals | self.constant | is_gate)
        self.constant[out] = self._deviations[out] | opposite


class Scans:
    """Selective scans: which values are their states, and which parameters of theirs.

    A state is carried from step to step by an exponential, ``h ← e^z ⊙ h + entering``, twice at
    least: a value times an exponential in a single sum, as in an affine coupling, is none.

    Attributes
    ----------
    parameters : ndarray of bool
        By address: the factor of a product with a state, and the factor of what enters a state that
        is computed from the other.
    read : ndarray of bool
        By address: what is computed of states and other values by sums and by parameters alone.
    """

    def __init__(self, graph: Graph, owner: Addresses, exponential: Mask, known: Mask) -> None:
        self._graph, self._owner, self._known = graph, owner, known
        self.parameters, self.read = np.zeros((2, graph.size), dtype=bool)
        self._state, self._entering = np.zeros((2, graph.size), dtype=bool)
        self._reaches: dict[int, frozenset[int]] = {}
        if not exponential.any():
            return
        decayed = self._find_states(exponential)
        if not self._state.any():
            return
        for node in reversed(graph.nodes):
            match node:
                case Copy() | StopGradient():
                    for marks in (self._state, self._entering):
                        self._mark(marks, node.inputs[marks[node.addresses]])
                case Add():
                    here = self._state[node.addresses] | self._entering[node.addresses]
                    entering = here & ~picked(decayed | self._state, node.inputs, True)
                    self._mark(self._entering, node.inputs[entering])
        self._entering |= self._state
        for node in graph.nodes:
            self._look(node)

    def _find_states(self, exponential: Mask) -> Mask:
        """Mark the states, and return which values are one times an exponential."""
        size = self._graph.size
        source = np.arange(size)  # of a value, through copies
        carried = np.full(size, -1)  # by a product with an exponential
        summed, goes_on = np.zeros((2, size), dtype=bool)
        sums: list[tuple[Addresses, Addresses]] = []
        for node in self._graph.nodes:
            out = node.addresses
            match node:
                case Copy() | StopGradient():
                    source[out] = picked(source, node.inputs, -1)
                    carried[out] = picked(carried, node.inputs, -1)
                case Product():
                    by = picked(exponential, node.inputs, False)
                    other = np.where(by[0], node.inputs[1], node.inputs[0])
                    carried[out] = np.where(by[0] ^ by[1], picked(source, other, -1), -1)
                    self._mark(goes_on, carried[out])
                case Add():
                    for addend in picked(carried, node.inputs, -1):
                        summed[out] |= addend >= 0
                        sums.append((out[addend >= 0], addend[addend >= 0]))
        between = summed & goes_on  # states that come from one, and go on to another
        for out, before in sums:
            found = between[out] | between[before]
            self._mark(self._state, out[found])
            self._mark(self._state, before[found])
        return carried >= 0

    @staticmethod
    def _mark(marks: Mask, addresses: Addresses) -> None:
        marks[addresses[addresses >= 0]] = True

    def _look(self, node: Node) -> None:
        out = node.addresses
        match node:
            case Copy() | StopGradient():
                for marks in (self._state, self.read):
                    marks[out] |= picked(marks, node.inputs, False)
            case Scale():
                self.read[out] = picked(self.read, node.inputs, False)
            case Add():
                self.read[out] = picked(self.read, node.inputs, False).any(axis=0)
            case Product() if not picked(self._known, node.inputs, False).any():
                self._look_at_product(node)

    def _look_at_product(self, node: Product) -> None:
        out = node.addresses
        states = picked(self._state, node.inputs, False)
        one = states[0] ^ states[1]
        if one.all():
            self._mark(self.parameters, np.where(states[0], node.inputs[1], node.inputs[0]))
            self.read[out] = True
        elif self._entering[out].all() and not states.any():
            left, right = (self._owners(factor) for factor in node.inputs)
            if self._depends(left, right) != self._depends(right, left):
                self._mark(self.parameters, node.inputs[0 if self._depends(left, right) else 1])

    def _owners(self, addresses: Addresses) -> frozenset[int]:
        return frozenset(picked(self._owner, addresses, -2).tolist())

    def _depends(self, nodes: frozenset[int], others: frozenset[int]) -> bool:
        """Whether one of some nodes is computed from one of others."""
        return any(self._ancestors(node) & others for node in nodes if node >= 0)

    def _ancestors(self, index: int) -> frozenset[int]:
        if index not in self._reaches:
            found: set[int] = set()
            left = [index]
            while left:
                read = self._graph.nodes[left.pop()].inputs
                more = set(np.unique(picked(self._owner, read, -2)).tolist()) - found
                found |= more
                left += [each for each in more if each >= 0]
            self._reaches[index] = frozenset(found)
        return self._reaches[index]
