# SPDX-License-Identifier: Apache-2.0
"""Values while an exported graph is walked: tensors whose elements are addresses.

A traced tensor has the shape that the model's tensor has for a small batch, but holds, instead of
a number, where each element comes from: its sample and its address within the sample. Operators
that only move elements run as they are, on the addresses. So slicing, permuting, stacking, folding
the batch into rows and back need no code of their own, and an operator that mixes samples shows.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch

from pyrel.compiler.capture.parameters import Weights
from pyrel.compiler.graph.builder import Builder
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.gates import find_gates
from pyrel.compiler.graph.nodes import Addresses, Floats, Graph, picked
from pyrel.compiler.graph.ranges import propagate
from pyrel.compiler.graph.rewrites import live_nodes

# An element of sample s at address a is s · 2^44 + a; a constant is its negative address.
_SAMPLE_SHIFT = 44
_ADDRESS_MASK = (1 << _SAMPLE_SHIFT) - 1
# Entries of empty tensors that were never written have ids below those of all constants.
_EXACT = 1 << 24  # float32 holds all whole numbers up to this
_UNWRITTEN = np.iinfo(np.int64).min
_WRITTEN = -1 << _SAMPLE_SHIFT


@dataclass(frozen=True)
class Traced:
    """A tensor that depends on the input; ``ids`` holds sample and address of each element."""

    ids: torch.Tensor


class Kind(IntEnum):
    """What numbers there are in something that is made of token ids alone."""

    other = 0
    whole = 1
    mask = 2  # 0 or 1


class MixedSamplesError(Exception):
    """An operator combines elements of different samples of the batch."""


class InexactCountError(Exception):
    """A number made of token ids is compared that float32 may round."""


class UnwrittenError(Exception):
    """An entry of an empty tensor is read that nothing was written into.

    Attributes
    ----------
    operator, module : str
        What made the tensor, and where.
    """

    def __init__(self, operator: str, module: str) -> None:
        super().__init__(operator, module)
        self.operator, self.module = operator, module


@dataclass
class _Rows:
    """Rows of a traced matrix, by sample."""

    addresses: Addresses  # (rows of one sample, width)
    positions: list[npt.NDArray[np.int64]]  # for each sample, where its rows stand
    constant: npt.NDArray[np.int64]  # where the rows stand that no sample owns
    constant_addresses: Addresses


class Tracer:
    """Builds a graph from operations on whole batches.

    The operators of `pyrel.compiler.capture.operators` call it.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one sample.
    batch : int
        Samples in the traced batch, at least 2, so that mixing them is seen.
    dtype : torch.dtype
        Of the model's input.
    weights : Weights
        Where parameters become arrays.
    """

    def __init__(
        self, input_shape: tuple[int, ...], batch: int, dtype: torch.dtype, weights: Weights
    ) -> None:
        self.batch = batch
        self.dtype = dtype
        self.weights = weights
        self.builder = Builder(input_shape)
        self._empty: list[tuple[str, str]] = []  # what made empty tensors, in which modules
        self._kinds = np.empty(0, dtype=np.int8)  # by address, `Kind` of what is made of token ids
        self._compared: list[Addresses] = []  # whole numbers that masks are made of
        self._required: list[int] = []  # addresses that are 0 where the model takes the sample
        self._shifts = np.arange(batch, dtype=np.int64) << _SAMPLE_SHIFT

    def input(self) -> Traced:
        """Trace the model's input."""
        return Traced(torch.from_numpy(self._spread(self.builder.inputs())))

    def unwritten(self, shape: tuple[int, ...], operator: str) -> Traced:
        """Trace an empty tensor, whose entries have to be written before they are computed with."""
        self._empty.append((operator, self.builder.module))
        return Traced(torch.full(shape, _UNWRITTEN + len(self._empty) - 1))

    def check_written(self, value: Traced) -> None:
        """Raise UnwrittenError if an entry is that of an empty tensor."""
        if self.is_partly_unwritten(value):
            found = value.ids[self._unwritten(value.ids)]
            raise UnwrittenError(*self._empty[int(found[0]) - _UNWRITTEN])

    def is_partly_unwritten(self, value: Traced) -> bool:
        """Whether an entry is that of an empty tensor."""
        return bool(self._empty) and bool(self._unwritten(value.ids).any())

    @staticmethod
    def _unwritten(ids: torch.Tensor) -> torch.Tensor:
        return ids < _WRITTEN

    def ids(self, value: Traced | torch.Tensor) -> torch.Tensor:
        """Element ids of a traced tensor or of a constant one."""
        if isinstance(value, Traced):
            return value.ids
        numbers = value.detach().cpu().to(torch.float64).numpy()
        return torch.from_numpy(self.builder.constants(numbers))

    def constant(self, value: Traced) -> Traced | torch.Tensor:
        """Return the number of a traced tensor that holds constants only, or else the tensor."""
        if value.ids.numel() == 0 or (value.ids >= 0).any():
            return value
        return torch.from_numpy(self.builder.values(value.ids.numpy()))

    def holds_inputs(self, value: Traced) -> bool:
        """Whether elements of the model's input are among the elements of ``value``."""
        ids = value.ids
        return bool(((ids >= 0) & (ids & _ADDRESS_MASK < self.builder.input_size)).any())

    def holds_only_inputs(self, value: Traced) -> bool:
        """Whether all elements are elements of the model's input, or constants."""
        return bool(((value.ids & _ADDRESS_MASK < self.builder.input_size) | (value.ids < 0)).all())

    def is_of_ids(self, value: Traced) -> bool:
        """Whether all elements are token ids, functions of one, or constants."""
        addresses = self._addresses(value)
        known = self.builder.lookups.are(addresses)
        if not self.dtype.is_floating_point:
            known = known | ((addresses >= 0) & (addresses < self.builder.input_size))
        return bool((known | (addresses < 0)).all())

    def is_of_ids_alone(self, value: Traced) -> bool:
        """Whether all elements were computed of token ids, without an embedding, or are constant.

        The ids themselves are not.
        """
        addresses = self._addresses(value)
        return bool((self.builder.lookups.are_alone(addresses) | (addresses < 0)).all())

    def _addresses(self, value: Traced) -> Addresses:
        ids = value.ids.numpy()
        return np.where(ids >= 0, ids & _ADDRESS_MASK, ids)

    def note_kind(self, value: Traced, kind: Kind) -> None:
        """Note what numbers something holds that is made of token ids alone."""
        addresses = self._addresses(value)
        found = addresses[addresses >= 0]
        if found.size and found.max() >= self._kinds.size:
            more = int(found.max()) + 1
            self._kinds = np.append(self._kinds, np.zeros(more, dtype=np.int8))
        self._kinds[found] = np.maximum(self._kinds[found], kind)

    def kind(self, value: Traced | torch.Tensor | float) -> Kind:
        """Return what numbers something holds that is made of token ids alone, or constant."""
        given = value if isinstance(value, Traced) else torch.as_tensor(value, dtype=torch.float64)
        addresses = np.unique(self._addresses(Traced(self.ids(given))))
        numbers = self.builder.values(addresses[addresses < 0])
        found = addresses[addresses >= 0]
        kinds = np.zeros(found.size, np.int8)
        if self._kinds.size and self.builder.lookups.are_alone(found).all():
            kinds = picked(self._kinds, np.where(found < self._kinds.size, found, -1), 0)
        least = min(kinds.tolist(), default=Kind.mask)
        if not (np.isfinite(numbers).all() and (numbers == np.floor(numbers)).all()):
            return Kind.other
        return Kind(least) if np.isin(numbers, (0, 1)).all() else Kind(min(least, Kind.whole))

    def require(self, value: Traced) -> None:
        """Let outputs be infinite where a value, one for each sample, is not 0."""
        if value.ids.numel() and bool((value.ids >= 0).any()):
            addresses = np.unique(self._split(value.ids.reshape(-1, 1).numpy()).addresses)
            self._required += [a for a in addresses.tolist() if a not in self._required]

    def compare(self, value: Traced) -> None:
        """Note that a whole number decides: float32 must not round it."""
        addresses = self._addresses(value)
        self._compared.append(np.unique(addresses[addresses >= 0]))

    def is_batch(self, value: Traced, dimension: int) -> bool:
        """Whether the elements at each place along a dimension are of the sample of that number."""
        samples = value.ids.movedim(dimension, 0).reshape(value.ids.shape[dimension], -1)
        numbers = torch.arange(len(samples))[:, None]
        return bool(((samples < 0) | (samples >> _SAMPLE_SHIFT == numbers)).all())

    def is_gate(self, value: Traced) -> bool:
        """Whether all elements are gates (`pyrel.compiler.graph.gates`)."""
        addresses = value.ids.numpy() & _ADDRESS_MASK
        if (value.ids < 0).any():
            return False
        found = find_gates(self.builder.graph(np.empty(0, dtype=np.int64)))
        return bool(found.is_gate[addresses].all())

    # Operations

    def linear(self, value: Traced, weight: Floats, bias: Floats) -> Traced:
        """``value @ weight.T + bias`` over the last dimension, one node for each row."""

        def make(rows: Addresses) -> Addresses:
            made = [self.builder.linear(row[None], weight, bias) for row in rows]
            return np.concatenate(made)

        return self.rows(value, make)

    def relu(self, value: Traced, at_zero: float = 0.0) -> Traced:
        """Elementwise ``max(0, value)``, whose derivative at 0 is ``at_zero``."""
        return self._elementwise([value.ids], lambda a: self.builder.relu(a[0], at_zero))

    def activation(self, value: Traced, function: Function, parameter: float = 0.0) -> Traced:
        """Elementwise ``function(value)``."""
        return self._elementwise(
            [value.ids], lambda a: self.builder.activation(a[0], function, parameter)
        )

    def scale(self, value: Traced, factor: torch.Tensor) -> Traced:
        """Elementwise product with a constant that broadcasts with ``value``."""

        def make(operands: Addresses) -> Addresses:
            return self.builder.scale(operands[0], self.builder.values(operands[1]))

        return self._elementwise([value.ids, self.ids(factor)], make)

    def product(self, left: Traced, right: Traced) -> Traced:
        """Elementwise product of two values that broadcast to each other."""
        return self._elementwise([left.ids, right.ids], lambda a: self.builder.product(a[0], a[1]))

    def add(self, *values: Traced | torch.Tensor) -> Traced:
        """Elementwise sum of values that broadcast to each other."""
        return self._elementwise([self.ids(value) for value in values], self.builder.add)

    def look_up(
        self,
        values: Sequence[Traced | torch.Tensor],
        function: Callable[[Sequence[torch.Tensor]], torch.Tensor],
        key: Hashable,
    ) -> Traced:
        """Elementwise function of values that broadcast; see `Builder.look_up`."""
        return self._elementwise(
            [self.ids(value) for value in values],
            lambda a: self.builder.look_up(a, function, key),
        )

    def choose(
        self,
        values: Sequence[Traced | torch.Tensor],
        masks: Sequence[Traced],
        beside: Traced | None = None,
    ) -> Traced:
        """Elementwise choice among values by masks; see `Builder.choose`."""
        count = len(values)
        rows = [*values, *masks] if beside is None else [*values, *masks, beside]

        def make(a: Addresses) -> Addresses:
            added = None if beside is None else a[-1]
            return self.builder.choose(a[:count], a[count : 2 * count], added)

        return self._elementwise([self.ids(row) for row in rows], make)

    def maximum(self, *values: Traced, even: bool) -> Traced:
        """Elementwise largest of values that broadcast to each other.

        Its gradient goes to the first of the largest, or to all in ``even`` parts.
        """

        def make(window: Addresses) -> Addresses:
            return self.builder.maximum(window, even=even)

        return self._elementwise([value.ids for value in values], make)

    def stop(self, value: Traced) -> Traced:
        """Return the same values, through which no gradient goes. Token ids have none anyway."""
        if not self.dtype.is_floating_point and self.holds_inputs(value):
            return value
        if self.is_partly_unwritten(value):
            return self._where_written(value, self.stop)
        return self._elementwise([value.ids], lambda a: self.builder.stop(a[0]))

    def _where_written(self, value: Traced, function: Callable[[Traced], Traced]) -> Traced:
        """Apply an elementwise function to the entries that have been written."""
        written = ~self._unwritten(value.ids)
        ids = value.ids.clone()
        if written.any():
            ids[written] = function(Traced(value.ids[written])).ids
        return Traced(ids)

    def custom_gradient(self, value: Traced, what: str) -> Traced:
        """Return the same values, whose gradient ``what`` defines."""
        return self._elementwise([value.ids], lambda a: self.builder.custom_gradient(a[0], what))

    def written(self, after: Traced, before: Traced | torch.Tensor, what: str) -> Traced:
        """Return values that replaced others, of which they keep the gradient."""
        old = self.ids(before)
        if self._empty and self._unwritten(old).any():  # nothing has a gradient there
            old = torch.where(self._unwritten(old), self.ids(torch.zeros(())), old)
        if self.is_partly_unwritten(after):
            there = ~self._unwritten(after.ids)
            ids = after.ids.clone()
            old = old.expand(ids.shape)[there]
            ids[there] = self.written(Traced(ids[there]), Traced(old), what).ids
            return Traced(ids)
        return self._elementwise([after.ids, old], lambda a: self.builder.written(a[0], a[1], what))

    def embed(self, value: Traced, table: Floats) -> Traced:
        """Rows of ``table`` that the elements of ``value`` name, as a new last dimension."""

        def make(rows: Addresses) -> Addresses:
            return self.builder.embed(rows[:, 0], table)

        rows = self.rows(Traced(value.ids.reshape(-1, 1)), make).ids
        return Traced(rows.reshape(*value.ids.shape, -1))

    def rows(self, value: Traced, make: Callable[[Addresses], Addresses]) -> Traced:
        """Make something of each row along the last dimension.

        ``make`` takes all rows of one sample, (rows, width), and returns what becomes of each,
        (rows, new width).
        """
        shape = value.ids.shape
        matrix = value.ids.reshape(-1, shape[-1]).numpy()
        first = self._of_first_sample(matrix)
        if first is not None:
            out = self._spread(make(first)).reshape(len(matrix), -1)
        else:
            out = self._by_owner(matrix, make)
        return Traced(torch.from_numpy(out).reshape(*shape[:-1], -1))

    def graph(self, output: Traced) -> Graph:
        """Finish the graph, given the model's output of shape (batch, classes)."""
        self.check_written(output)
        rows = self._split(output.ids.reshape(self.batch, -1).numpy())
        if rows.constant.size or any(p.tolist() != [s] for s, p in enumerate(rows.positions)):
            raise MixedSamplesError
        outputs = rows.addresses[0]
        for address in self._required:
            outputs = self.builder.add(np.stack([outputs, np.full(outputs.size, address)]))
        graph = self.builder.graph(outputs)
        if self._compared:
            self._check_exact(graph)
        return graph

    def _check_exact(self, graph: Graph) -> None:
        """Refuse comparisons of numbers made of token ids that float32 may round."""
        read = np.unique(np.concatenate(self._compared))
        nodes = live_nodes(graph.nodes, graph.outputs, graph.size)
        used = np.zeros(graph.size, dtype=bool)
        for node in nodes:
            used[node.addresses] = True
        read = read[used[read]]
        part = replace(graph, nodes=live_nodes(nodes, read, graph.size), outputs=read)
        nothing = np.zeros(graph.input_size)
        low, high = propagate(part, nothing, nothing).of(read)
        if read.size and max(high.max(), -low.min()) > _EXACT:
            raise InexactCountError

    # Samples

    def _elementwise(
        self, operands: list[torch.Tensor], make: Callable[[Addresses], Addresses]
    ) -> Traced:
        """Make something of all elements; ``make`` takes (operands, size) and returns (size,)."""
        shape = np.broadcast_shapes(*(operand.shape for operand in operands))
        arrays = [operand.expand(shape).reshape(-1).numpy() for operand in operands]
        parts = [self._of_first_sample(array) for array in arrays]
        known = [part for part in parts if part is not None]
        if len(known) == len(arrays):
            out = self._spread(make(np.stack(known))).reshape(shape)
        else:

            def made(rows: Addresses) -> Addresses:
                return make(np.ascontiguousarray(rows.T))[:, None]

            out = self._by_owner(np.stack(arrays, axis=1), made).reshape(shape)
        return Traced(torch.from_numpy(out))

    def _of_first_sample(self, array: npt.NDArray[np.int64]) -> Addresses | None:
        """Part of the first sample, if the array has one equal part for each, in their order."""
        if len(array) % self.batch:
            return None
        parts = array.reshape(self.batch, -1, *array.shape[1:])
        first: Addresses = parts[0]
        if (first > _ADDRESS_MASK).any() or not np.array_equal(parts, self._spread(first)):
            return None
        return first

    def _in_sample(self, addresses: Addresses, sample: int) -> Addresses:
        return np.where(addresses >= 0, addresses + self._shifts[sample], addresses)

    def _spread(self, addresses: Addresses) -> npt.NDArray[np.int64]:
        """Ids of the same addresses in every sample, shape (batch, ...)."""
        ids = addresses + self._shifts.reshape(-1, *[1] * addresses.ndim)
        return np.where(addresses >= 0, ids, addresses) if (addresses < 0).any() else ids

    def _by_owner(
        self, matrix: npt.NDArray[np.int64], make: Callable[[Addresses], Addresses]
    ) -> npt.NDArray[np.int64]:
        """Make something of rows that lie in any order."""
        rows = self._split(matrix)
        made = make(rows.addresses) if rows.addresses.size else None
        constant = make(rows.constant_addresses) if rows.constant.size else None
        some = made if made is not None else constant
        out = np.empty((len(matrix), 0 if some is None else some.shape[1]), dtype=np.int64)
        if made is not None:
            for sample, positions in enumerate(rows.positions):
                out[positions] = self._in_sample(made, sample)
        if constant is not None:
            out[rows.constant] = constant
        return out

    def _split(self, matrix: npt.NDArray[np.int64]) -> _Rows:
        """Sort rows by the sample that owns them; every sample must own the same addresses."""
        sample = np.where(matrix >= 0, matrix >> _SAMPLE_SHIFT, -1)
        owner = sample.max(axis=1, initial=-1)
        if ((sample != owner[:, None]) & (sample >= 0)).any():
            raise MixedSamplesError
        addresses = np.where(matrix >= 0, matrix & _ADDRESS_MASK, matrix)
        positions = [np.flatnonzero(owner == s) for s in range(self.batch)]
        first = addresses[positions[0]]
        if any(not self._same(addresses[p], first) for p in positions[1:]):
            raise MixedSamplesError
        constant = np.flatnonzero(owner < 0)
        return _Rows(first, positions, constant, addresses[constant])

    def _same(self, addresses: Addresses, first: Addresses) -> bool:
        """Whether two samples' rows are the same, constants computed for each up to rounding."""
        if addresses.shape != first.shape:
            return False
        differ = addresses != first
        a, b = addresses[differ], first[differ]
        if (a >= 0).any() or (b >= 0).any():
            return False
        values, wanted = self.builder.values(a), self.builder.values(b)
        return bool(np.allclose(values, wanted, rtol=1e-5, atol=1e-7, equal_nan=True))
