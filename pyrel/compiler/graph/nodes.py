# SPDX-License-Identifier: Apache-2.0
"""The graph of a captured model: what one sample's input elements go through.

Every value of one sample has an *address*: the input's elements come first (0 ... input size − 1),
then each node's outputs. A node names its operands by arrays of addresses, so slicing, reshaping,
stacking and concatenating leave no trace but the arrays themselves. Negative addresses are
constants: ``-1 - i`` is ``graph.constants[i]``.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.layout import Layout
from pyrel.compiler.graph.originals import Original
from pyrel.compiler.graph.weight_ids import WeightId
from pyrel.compiler.limits import LINE

Addresses = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Node:
    """One operation; its outputs are the addresses ``start ... start + size - 1``."""

    start: int
    inputs: Addresses
    module: str = field(default="", kw_only=True)

    @property
    def size(self) -> int:
        """Number of outputs per sample."""
        return int(self.inputs.shape[-1])

    @property
    def addresses(self) -> Addresses:
        """The addresses of the outputs, shape (size,)."""
        return np.arange(self.start, self.start + self.size)


@dataclass(frozen=True, eq=False)
class Linear(Node):
    """``inputs @ weight.T + bias`` for each row of inputs, then ReLU if ``relu``.

    ``weight`` is (out, in), ``bias`` (out,), ``inputs`` (rows, in); the outputs of one row lie side
    by side. A convolution has one row for each position of its kernel, or for a few ``positions``,
    one after the other (`pyrel.compiler.passes.join_positions`). ``weight_id`` names the weights:
    two nodes of one name have equal ones. ``kind`` is that of `pyrel.methods.Site`. ``connected``,
    (out, in), tells the inputs that an output reads where a pass has joined nodes; None is all.
    ``merged`` are the paths of the modules that were merged into it. ``original`` has the weights
    before they were laid out, or of the layer that these are a part of; None is as they are.
    """

    weight: Floats
    bias: Floats
    relu: bool = False
    positions: int = 1
    weight_id: WeightId | None = field(default=None, kw_only=True)
    kind: str = field(default="dense", kw_only=True)
    connected: npt.NDArray[np.bool_] | None = field(default=None, kw_only=True)
    merged: tuple[str, ...] = field(default=(), kw_only=True)
    original: Original | None = field(default=None, kw_only=True)

    def after(self, step: Callable[[Floats], Floats]) -> Original:
        """Return the original of the node whose weights ``step`` makes of these."""
        return (self.original or Original(self.weight)).then(step)

    @functools.cached_property
    def named(self) -> WeightId:
        """The weights' name; that of a node made without one is made of their contents."""
        if self.weight_id is not None:
            return self.weight_id
        contents = hashlib.blake2b(np.ascontiguousarray(self.weight).data).digest()
        return WeightId("", ("contents", self.weight.shape, contents))

    @property
    def size(self) -> int:
        """Number of outputs of all rows."""
        return int(self.inputs.shape[0]) * self.width

    @property
    def width(self) -> int:
        """Number of outputs of one row."""
        return int(self.weight.shape[0])


def identity(start: int, inputs: Addresses, module: str, relu: bool = False) -> Linear:
    """Make a linear node that adds nothing to its inputs, (size,), and changes none."""
    ones = np.eye(inputs.size)
    return Linear(
        start,
        inputs[None],
        ones,
        np.zeros(inputs.size),
        relu,
        module=module,
        weight_id=WeightId("", ("identity", inputs.size)),
        connected=ones != 0,
    )


@dataclass(frozen=True, eq=False)
class Relu(Node):
    """``max(0, inputs)`` of values that are not exactly one Linear's outputs.

    ``at_zero`` is the derivative at 0: that of ``clamp`` is 1, of the maximum with 0 it is ½.
    """

    at_zero: float = 0.0


@dataclass(frozen=True, eq=False)
class Activation(Node):
    """``function(inputs)``, elementwise; LRP hands relevance through."""

    function: Function
    parameter: float = 0.0


@dataclass(frozen=True, eq=False)
class Scale(Node):
    """``coefficients * inputs``, elementwise."""

    coefficients: Floats


@dataclass(frozen=True, eq=False)
class Add(Node):
    """Sum over the first axis of ``inputs``, which is (addends, size).

    Addends of nothing but zeros are left out. A sum of one addend is what remains of one with
    zeros, such as f ⊙ 0 + i ⊙ g: methods that stabilise sums stabilise it, too. ``gated`` says that
    one that was left out was a gate times zero, as of a first state.
    """

    gated: bool = field(default=False, kw_only=True)

    @property
    def alone(self) -> bool:
        """Whether there is one addend."""
        return len(self.inputs) == 1


@dataclass(frozen=True, eq=False)
class Product(Node):
    """Product over the first axis of ``inputs``, which is (2, size): a gate and a signal.

    ``carried`` marks the elements whose signal is a state that the product carries on; None where
    nobody asked (`pyrel.compiler.passes.carries`).
    """

    carried: npt.NDArray[np.bool_] | None = field(default=None, kw_only=True)


@dataclass(frozen=True, eq=False)
class Choice(Node):
    """One of some values, by masks that are made of token ids: Σ mask · value, 0 or 1 each.

    ``inputs`` is (2 · values, size): the values, then their masks, of which one is 1. There may be
    one row more, which is added: 0 where a value counts, and infinite where the value is 0 instead.
    A value that is chosen takes all relevance, and no part of it is lost to a stabiliser.
    """

    @property
    def values(self) -> Addresses:
        """Addresses of the values, (values, size)."""
        return self.inputs[: len(self.inputs) // 2]

    @property
    def masks(self) -> Addresses:
        """Addresses of their masks, (values, size)."""
        count = len(self.inputs) // 2
        return self.inputs[count : 2 * count]

    @property
    def beside(self) -> Addresses:
        """Addresses of what is added, (1, size) or (0, size)."""
        return self.inputs[len(self.inputs) // 2 * 2 :]


@dataclass(frozen=True, eq=False)
class MaxPool(Node):
    """Largest over the first axis of ``inputs``, which is (window, size).

    Padding is constants of −∞. The gradient goes to the first of the largest; or to all of them, in
    ``even`` parts.
    """

    even: bool = False


@dataclass(frozen=True, eq=False)
class AtMaximum(Node):
    """1 where a value is the largest, else 0; ``inputs`` is (window + 1, size), the largest last.

    The outputs are those of the first values of all windows, then those of the second ones, ….
    """

    @property
    def size(self) -> int:
        """Number of outputs: all values but the largest."""
        return int(self.inputs[:-1].size)


@dataclass(frozen=True, eq=False)
class EvenMaximum(Node):
    """The largest, whose gradient all values get that are as large, in even parts.

    ``inputs`` is (2 · window + 2, size): the values, what `AtMaximum` says of them, how many are
    the largest, and the largest.
    """

    @property
    def values(self) -> Addresses:
        """Addresses of the values, (window, size)."""
        return self.inputs[: len(self.inputs) // 2 - 1]

    @property
    def marks(self) -> Addresses:
        """Addresses of 1 for the largest of the values, (window, size)."""
        return self.inputs[len(self.inputs) // 2 - 1 : -2]


@dataclass(frozen=True, eq=False)
class Normalise(Node):
    """Each row of ``inputs``, (rows, width), less its mean, by its standard deviation.

    ``epsilon`` is added to the variance, which is that of all values (not width − 1).
    """

    epsilon: float

    @property
    def size(self) -> int:
        """Number of outputs of all rows."""
        return int(self.inputs.size)


@dataclass(frozen=True, eq=False)
class Embedding(Node):
    """Rows of ``table``, (vocabulary, width), that the ``inputs``, (rows,), name."""

    table: Floats

    @property
    def size(self) -> int:
        """Number of outputs of all rows."""
        return int(self.inputs.size * self.table.shape[1])


@dataclass(frozen=True, eq=False)
class Lookup(Embedding):
    """Numbers that a model makes of token ids alone, as a mask is: no embedding.

    No gradient goes to the ids. What relevance a conserving method gives them is absorbed.
    """

    @property
    def width(self) -> int:
        """How often each number is repeated."""
        return int(self.table.shape[1])


@dataclass(frozen=True, eq=False)
class Copy(Node):
    """``inputs`` laid side by side, so that a product can read them in one run."""


@dataclass(frozen=True, eq=False)
class StopGradient(Node):
    """The ``inputs``, through which no gradient goes; of ``held`` ones no method's relevance."""

    held: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, eq=False)
class CustomGradient(Node):
    """The ``inputs``, whose gradient is not that of what computed them.

    ``what`` says whose it is, such as a ``torch.autograd.Function``, by name.
    """

    what: str


@dataclass(frozen=True, eq=False)
class Graph:
    """A captured model.

    Attributes
    ----------
    input_shape : tuple of int
        Shape of one sample.
    nodes : tuple of Node
        In an order in which they can run.
    outputs : ndarray of int64, shape (classes,)
        Addresses of the raw outputs.
    constants : ndarray of float64
        What negative addresses stand for.
    vocabulary : int
        The input's elements are whole numbers from 0 on below this, that only `Embedding` reads;
        0 where they are any numbers.
    bounds : ndarray of int64, shape ``input_shape``, or None
        Where elements are read by tables of different sizes: each one's own bound, that of the
        smallest table which reads it; 0 where none does. ``vocabulary`` is the largest of them.
    output_shape : tuple of int
        Shape of one sample's outputs, where they have several dimensions; else empty.
    layout : Layout or None
        Of several inputs, which lie side by side in a sample.

    Examples
    --------
    >>> graph = pyrel.capture(torch.nn.Linear(3, 2), torch.rand(5, 3))
    >>> graph.input_shape, len(graph.nodes), graph.outputs.size
    ((3,), 1, 2)
    """

    input_shape: tuple[int, ...]
    nodes: tuple[Node, ...]
    outputs: Addresses
    constants: Floats
    vocabulary: int = 0
    bounds: Addresses | None = None
    output_shape: tuple[int, ...] = ()
    layout: Layout | None = None

    @property
    def input_size(self) -> int:
        """Number of input elements of one sample."""
        return math.prod(self.input_shape)

    @property
    def base(self) -> int:
        """Where nodes' addresses start: past a gap, so no run of addresses leaves the input."""
        return aligned(self.input_size + 1)

    @property
    def classes(self) -> int:
        """Number of raw outputs."""
        return int(self.outputs.size)

    @functools.cached_property
    def size(self) -> int:
        """One more than the highest address."""
        return max([self.input_size, *(node.start + node.size for node in self.nodes)])

    def __repr__(self) -> str:
        """Input, number of nodes by kind, and outputs."""
        kinds = Counter(type(node).__name__ for node in self.nodes)
        parts = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        return f"Graph(input {self.input_shape}, {parts}, {self.classes} outputs)"

    def __str__(self) -> str:
        """Show every node: the addresses of its outputs, what it computes, in which module."""
        from pyrel.compiler.graph.text import graph_text  # which shows the nodes of this file

        return graph_text(self)

    def owners(self) -> npt.NDArray[np.int64]:
        """Index into ``nodes`` of the node that each address belongs to; -1 for the input."""
        owner = np.full(self.size, -1, dtype=np.int64)
        for index, node in enumerate(self.nodes):
            owner[node.start : node.start + node.size] = index
        return owner

    def constant_values(self, addresses: Addresses) -> Floats:
        """Values of constant addresses, 0 where an address is not constant."""
        return look_up(self.constants, addresses)


def look_up(constants: Floats, addresses: Addresses) -> Floats:
    """Values of constant addresses in a table of constants, 0 where an address is not constant."""
    if not np.count_nonzero(addresses < 0):
        return np.zeros(addresses.shape)
    table = np.append(constants, 0.0)
    return np.asarray(table[np.where(addresses < 0, -1 - addresses, constants.size)])


def picked(values: npt.NDArray[Any], addresses: Addresses, constant: Any) -> npt.NDArray[Any]:
    """``values`` by address, and ``constant`` where an address is that of a constant."""
    fixed = addresses < 0
    if not np.count_nonzero(fixed):  # all() takes several times as long, and most of this function
        return np.asarray(values[addresses])
    return np.asarray(np.where(fixed, constant, values[np.maximum(addresses, 0)]))


def aligned(size: int) -> int:
    """``size`` rounded up to whole cache lines, in floats."""
    return -(-size // LINE) * LINE
