# SPDX-License-Identifier: Apache-2.0
"""Which values are gates, and the sums of pre-activations that gates stand in.

LRP hands all relevance of a product of a gate and a signal to the signal (Arras et al. 2017), so it
has to know which factor is the gate: a sigmoid's output, 1 − a gate, or a product of gates. A mask
that is made of token ids is a gate whose value is known; a power is what local response
normalisation multiplies by. The weights of attention are gates, too (Ali et al. 2022): a softmax,
which is exponentials times the reciprocal of their sum. `pyrel.compiler.graph.factors` finds what
else counts as a constant beside a signal.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from pyrel.compiler.graph.factors import Factors, Scans
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.matrices import Matmul
from pyrel.compiler.graph.nodes import (
    Activation,
    Add,
    Addresses,
    AtMaximum,
    Copy,
    Embedding,
    Floats,
    Graph,
    Linear,
    Lookup,
    Node,
    Normalise,
    Product,
    Scale,
    StopGradient,
    look_up,
    picked,
)
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.methods.terms import Mask


@dataclass(frozen=True, eq=False)
class GatedSum(Node):
    """``bias`` + Σ gate · member; ``inputs`` is (2 · members, size): members, then their gates.

    Each member is the whole output of a linear node that nothing else reads: together they are one
    linear node of one denominator, parts of whose weights are multiplied by gates. Gates that are
    constants stand for 1: the member is not gated. Made for methods that conserve relevance.
    ``carried`` is (members, size), as for `Product`: False where nobody asked.
    """

    bias: Floats
    carried: Mask

    @property
    def members(self) -> Addresses:
        """Addresses of the members, (members, size)."""
        return self.inputs[: len(self.inputs) // 2]

    @property
    def gates(self) -> Addresses:
        """Addresses of their gates, (members, size)."""
        return self.inputs[len(self.inputs) // 2 :]


@dataclass(frozen=True, eq=False)
class Gates:
    """What is known of gates; by address, ``one_minus`` is the gate that it is 1 minus, or −1.

    ``is_stopped`` marks what no gradient goes through to the input, ``is_response`` what local
    response normalisation multiplies by. ``is_constant`` marks factors that count as constants
    where no gate is beside them, ``of_scan`` and ``silu`` what a selective scan gave, and SiLUs.
    """

    graph: Graph
    owner: Addresses
    is_gate: Mask
    one_minus: Addresses
    is_stopped: Mask
    is_response: Mask
    is_constant: Mask
    of_scan: Mask
    silu: Mask
    units: dict[WeightId, Floats] = field(default_factory=dict)  # of linear nodes, by name

    def split(self, node: Product) -> tuple[Addresses, Addresses] | None:
        """Return gates and signals, if each element has one of both."""
        return _split(node, self.chosen(node))

    def chosen(self, node: Product) -> Mask:
        """Mark the factors that are gates, or that count as constants where neither is a gate."""
        gates = picked(self.is_gate, node.inputs, False)
        constant = picked(self.is_constant, node.inputs, False)
        return np.where(gates.any(axis=0), gates, constant)

    def by_constants(self, node: Product) -> bool:
        """Whether each element has a factor that counts as a constant, and none is a gate."""
        gates = picked(self.is_gate, node.inputs, False)
        return not gates.any() and self.split(node) is not None

    def is_halved(self, node: Product) -> bool:
        """Whether what a selective scan gave is multiplied by a SiLU: each factor gets half."""
        silu, scan = (picked(marks, node.inputs, False) for marks in (self.silu, self.of_scan))
        return bool(((silu[0] & scan[1]) | (silu[1] & scan[0])).all())

    def split_stopped(self, node: Product) -> tuple[Addresses, Addresses] | None:
        """Return stopped factors and others, if one at least of each element's is stopped."""
        stopped = picked(self.is_stopped, node.inputs, False)
        return _split(node, np.stack([stopped[0], stopped[1] & ~stopped[0]]))

    def blend(self, node: Add) -> Addresses | None:
        """Return a and b of a sum (1 − z) ⊙ a + z ⊙ b, as (2, size); None if it is no such sum."""
        if len(node.inputs) != 2:
            return None
        one, other = (self.product_at(addend) for addend in node.inputs)
        if one is None or other is None:
            return None
        for a, b in ((one, other), (other, one)):
            if (picked(self.one_minus, a[0], -1) == b[0]).all():
                return np.stack([a[1], b[1]])
        return None

    def product_at(self, addresses: Addresses) -> tuple[Addresses, Addresses] | None:
        """Gates and signals of the one product whose outputs these all are, if there is one."""
        index = self.owner[addresses[0]] if (addresses >= 0).all() else -1
        node = self.graph.nodes[index] if index >= 0 else None
        if not isinstance(node, Product) or (self.owner[addresses] != index).any():
            return None
        parts = self.split(node)
        if parts is None:
            return None
        units = addresses - node.start
        return parts[0][units], parts[1][units]

    def carried_at(self, addresses: Addresses) -> Mask:
        """Mark the outputs of a product whose signal is a state that it carries on."""
        index = self.owner[addresses[0]] if addresses[0] >= 0 else -1
        node = self.graph.nodes[index] if index >= 0 else None
        if not isinstance(node, Product) or node.carried is None:
            return np.zeros(addresses.size, dtype=bool)
        carried: Mask = node.carried[addresses - node.start]
        return carried

    def linear_at(self, addresses: Addresses) -> Linear | None:
        """Make a linear node of these alone, if they are one row of pre-activations."""
        index = self.owner[addresses[0]] if (addresses >= 0).all() else -1
        node = self.graph.nodes[index] if index >= 0 else None
        if not isinstance(node, Linear) or node.relu or (self.owner[addresses] != index).any():
            return None
        row, unit = np.divmod(addresses - node.start, node.width)
        if (row != row[0]).any():
            return None
        inputs = node.inputs[row[0] : row[0] + 1]
        if unit.size == node.width and (unit == np.arange(unit.size)).all():
            return replace(node, inputs=inputs)
        key = node.named.derived("units", unit.tobytes())
        if key not in self.units:
            self.units[key] = node.weight[unit]
        return replace(
            node,
            inputs=inputs,
            weight=self.units[key],
            bias=node.bias[unit],
            weight_id=key,
            connected=None if node.connected is None else node.connected[unit],
        )


def _split(node: Product, chosen: Mask) -> tuple[Addresses, Addresses] | None:
    first, second = chosen[0], chosen[1]
    if not (first ^ second).all():
        return None
    others = np.where(first, node.inputs[1], node.inputs[0])
    return np.where(first, node.inputs[0], node.inputs[1]), others


def find_gates(graph: Graph) -> Gates:
    """Find the gates of a graph."""
    is_gate = np.zeros(graph.size, dtype=bool)
    is_response = np.zeros(graph.size, dtype=bool)
    minus = np.full(graph.size, -1, dtype=np.int64)  # the gate that an address is −1 times
    one_minus = minus.copy()
    masks: dict[tuple[bytes, bytes], Lookup] = {}
    softmax, factors = _Softmax(graph.size), Factors(graph)
    for node in graph.nodes:
        out = slice(node.start, node.start + node.size)
        softmax.note(node)
        match node:
            case Activation(function=Function.sigmoid):
                is_gate[out] = True
            case Activation(function=Function.power):
                is_gate[out] = is_response[out] = True
            case Scale():
                negated = (node.coefficients == -1.0) & picked(is_gate, node.inputs, False)
                minus[out] = np.where(negated, node.inputs, -1)
            case Add() if len(node.inputs) == 2:
                for one, other in (node.inputs, node.inputs[::-1]):
                    known = (one < 0) & (look_up(graph.constants, one) == 1.0)
                    gate = np.where(known, picked(minus, other, -1), -1)
                    one_minus[out] = np.where(gate >= 0, gate, one_minus[out])
                is_gate[out] = one_minus[out] >= 0
            case Lookup():
                is_gate[out] = bool((node.table >= 0).all())
                opposite = masks.get((node.inputs.tobytes(), (1.0 - node.table).tobytes()))
                masks[node.inputs.tobytes(), node.table.tobytes()] = node
                if opposite is not None and is_gate[out].all() and (node.table <= 1).all():
                    one_minus[out] = opposite.addresses
            case Product():
                is_gate[out] = picked(is_gate, node.inputs, False).all(axis=0)
                is_gate[out] |= softmax.weights(node)
            case Copy() | StopGradient():
                is_gate[out] = picked(is_gate, node.inputs, False)
                is_response[out] = picked(is_response, node.inputs, False)
                one_minus[out] = picked(one_minus, node.inputs, -1)
            case Add(alone=True):
                is_gate[out] = picked(is_gate, node.inputs[0], False)
                one_minus[out] = picked(one_minus, node.inputs[0], -1)
                minus[out] = picked(minus, node.inputs[0], -1)
        factors.note(node, is_gate)
    stopped, owner = only_through(graph, _STOPS), graph.owners()
    scans = Scans(graph, owner, factors.exponential, is_gate | factors.constant)
    constant = factors.constant | scans.parameters
    silu = _of_silu(graph)
    return Gates(graph, owner, is_gate, one_minus, stopped, is_response, constant, scans.read, silu)


def _of_silu(graph: Graph) -> Mask:
    """Mark the outputs of SiLUs, and copies of them."""
    found = np.zeros(graph.size, dtype=bool)
    for node in graph.nodes:
        match node:
            case Activation(function=Function.silu):
                found[node.addresses] = True
            case Copy() | StopGradient():
                found[node.addresses] = picked(found, node.inputs, False)
    return found


class _Softmax:
    """Marks exponentials, what adds up some of them, and reciprocals of such sums."""

    def __init__(self, size: int) -> None:
        self._exponentials, self._sums, self._reciprocals = np.zeros((3, size), dtype=bool)

    def note(self, node: Node) -> None:
        """Look at a node; those that it reads come first."""
        match node:
            case Activation(function=Function.exp):
                self._exponentials[node.addresses] = True
            case Add():
                parts = self._exponentials | self._sums
                # Those that a mask leaves out are zeros, and a sum may be one of sums.
                self._sums[node.addresses] = picked(parts, node.inputs, True).all(axis=0)
            case Activation(function=Function.reciprocal):
                read = self._sums | self._exponentials  # one alone is its sum
                self._reciprocals[node.addresses] = picked(read, node.inputs, False)
            case Copy():
                for marks in (self._exponentials, self._sums, self._reciprocals):
                    marks[node.addresses] = picked(marks, node.inputs, False)

    def weights(self, node: Product) -> Mask:
        """Mark the outputs that are an exponential times the reciprocal of a sum of such."""
        first, second = picked(self._exponentials, node.inputs, False)
        other, one = picked(self._reciprocals, node.inputs, False)
        found: Mask = (first & one) | (second & other)
        return found


_STOPS = (StopGradient, Lookup)
# An output is of more than one column of the inputs.
_BY_ROW = Linear | Matmul | Normalise | Embedding | AtMaximum


def only_through(graph: Graph, kinds: type[Node] | tuple[type[Node], ...]) -> Mask:
    """Mark what depends on the input through nodes of some kinds only."""
    stopped = np.zeros(graph.size, dtype=bool)
    found = False
    for node in graph.nodes:
        if isinstance(node, kinds):
            stopped[node.addresses] = found = True
        elif found:
            axes = None if isinstance(node, _BY_ROW) else 0
            reads = np.atleast_2d(node.inputs)
            alike = picked(stopped, reads, True).all(axis=axes)
            stopped[node.addresses] = alike & (reads >= 0).any(axis=axes)
    return stopped
