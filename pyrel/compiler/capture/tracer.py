# SPDX-License-Identifier: Apache-2.0
"""Values while an exported program is interpreted: tensors whose elements are addresses.

A traced tensor has the shape that the model's tensor has for a small batch, but holds, instead of
a number, where each element comes from: its sample and its address within the sample. Operators
that only move elements run as they are, on the addresses. So slicing, permuting, stacking, folding
the batch into rows and back need no code of their own, and an operator that mixes samples shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import numpy.typing as npt
import torch

from pyrel.compiler.capture.id_numbers import IdNumbers, Kind
from pyrel.compiler.capture.masks import Masks
from pyrel.compiler.capture.parameters import Weights
from pyrel.compiler.capture.samples import (
    ADDRESS_MASK,
    SAMPLE_SHIFT,
    MixedSamplesError,
    Samples,
    addresses_of,
)
from pyrel.compiler.capture.traced import EmptyTensors, Traced
from pyrel.compiler.graph.builder import Builder
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.graph.gates import find_gates
from pyrel.compiler.graph.nodes import Addresses, Floats, Graph


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
    is_id : ndarray of bool, optional
        Which elements are token ids; by default all or none.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        batch: int,
        dtype: torch.dtype,
        weights: Weights,
        is_id: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        self.batch, self.dtype, self.weights = batch, dtype, weights
        if is_id is None:
            is_id = np.full(math.prod(input_shape), not dtype.is_floating_point)
        self.builder = Builder(input_shape, weights.ids)
        self.builder.lookups.is_id = is_id
        self.has_ids = bool(is_id.any())
        self.empty = EmptyTensors()
        self.numbers = IdNumbers(self.builder)
        self.masks = Masks(self.builder)
        self._required: list[int] = []  # addresses that are 0 where the model takes the sample
        self._samples = Samples(batch, self.builder.values)

    def input(self) -> Traced:
        """Trace the model's input."""
        return Traced(torch.from_numpy(self._samples.spread(self.builder.inputs())))

    def unwritten(self, shape: tuple[int, ...], operator: str) -> Traced:
        """Trace an empty tensor, whose entries have to be written before they are computed with."""
        return self.empty.make(shape, operator, self.builder.module)

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

    def holds_ids(self, value: Traced) -> bool:
        """Whether token ids of the model's input are among the elements of ``value``."""
        return self.has_ids and bool(
            self.builder.lookups.are_ids(addresses_of(value.ids.numpy())).any()
        )

    def require(self, value: Traced) -> None:
        """Let outputs be infinite where a value, one for each sample, is not 0."""
        if value.ids.numel() and bool((value.ids >= 0).any()):
            addresses = np.unique(self._samples.split(value.ids.reshape(-1, 1).numpy()).addresses)
            self._required += [a for a in addresses.tolist() if a not in self._required]

    def is_batch(self, value: Traced, dimension: int) -> bool:
        """Whether the elements at each place along a dimension are of the sample of that number."""
        samples = value.ids.movedim(dimension, 0).reshape(value.ids.shape[dimension], -1)
        numbers = torch.arange(len(samples))[:, None]
        return bool(((samples < 0) | (samples >> SAMPLE_SHIFT == numbers)).all())

    def is_gate(self, value: Traced) -> bool:
        """Whether all elements are gates (`pyrel.compiler.graph.gates`)."""
        addresses = value.ids.numpy() & ADDRESS_MASK
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
        """Elementwise function of values that broadcast; see `IdNodes.look_up`."""
        return self._elementwise(
            [self.ids(value) for value in values],
            lambda a: self.builder.ids.look_up(a, function, key),
        )

    def choose(
        self,
        values: Sequence[Traced | torch.Tensor],
        masks: Sequence[Traced],
        beside: Traced | None = None,
    ) -> Traced:
        """Elementwise choice among values by masks; see `IdNodes.choose`."""
        count = len(values)
        rows = [*values, *masks] if beside is None else [*values, *masks, beside]

        def make(a: Addresses) -> Addresses:
            added = None if beside is None else a[-1]
            return self.builder.ids.choose(a[:count], a[count : 2 * count], added)

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
        if self.holds_ids(value):
            return value
        if self.empty.are_in(value):
            return self._where_written(value, self.stop)
        return self._elementwise([value.ids], lambda a: self.builder.stop(a[0]))

    def _where_written(self, value: Traced, function: Callable[[Traced], Traced]) -> Traced:
        """Apply an elementwise function to the entries that have been written."""
        written = ~self.empty.entries(value.ids)
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
        if self.empty.are_in(Traced(old)):  # nothing has a gradient there
            old = torch.where(self.empty.entries(old), self.ids(torch.zeros(())), old)
        if self.empty.are_in(after):
            there = ~self.empty.entries(after.ids)
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
        first = self._samples.of_first(matrix)
        if first is not None:
            out = self._samples.spread(make(first)).reshape(len(matrix), -1)
        else:
            out = self._samples.by_owner(matrix, make)
        return Traced(torch.from_numpy(out).reshape(*shape[:-1], -1))

    def graph(self, output: Traced) -> Graph:
        """Finish the graph, given the model's output of shape (batch, classes)."""
        self.empty.check(output)
        rows = self._samples.split(output.ids.reshape(self.batch, -1).numpy())
        if rows.constant.size or any(p.tolist() != [s] for s, p in enumerate(rows.positions)):
            raise MixedSamplesError
        outputs = rows.addresses[0]
        for address in self._required:
            outputs = self.builder.add(np.stack([outputs, np.full(outputs.size, address)]))
        graph = self.builder.graph(outputs)
        self.numbers.check_exact(graph)
        return graph

    def _elementwise(
        self, operands: list[torch.Tensor], make: Callable[[Addresses], Addresses]
    ) -> Traced:
        """Make something of all elements; ``make`` takes (operands, size) and returns (size,)."""
        shape = np.broadcast_shapes(*(operand.shape for operand in operands))
        arrays = [operand.expand(shape).reshape(-1).numpy() for operand in operands]
        parts = [self._samples.of_first(array) for array in arrays]
        known = [part for part in parts if part is not None]
        if len(known) == len(arrays):
            out = self._samples.spread(make(np.stack(known))).reshape(shape)
        else:

            def made(rows: Addresses) -> Addresses:
                return make(np.ascontiguousarray(rows.T))[:, None]

            out = self._samples.by_owner(np.stack(arrays, axis=1), made).reshape(shape)
        return Traced(torch.from_numpy(out))


def truth_values(tracer: Tracer, value: Traced) -> Traced:
    """Trace elements of the input that are truth values: ids of 0 and 1."""
    addresses = addresses_of(value.ids.numpy())
    tracer.builder.ids.bound(addresses[addresses >= 0], 2)
    made = tracer.look_up([value], lambda given: given[0] != 0, "truth values")
    tracer.numbers.note_kind(made, Kind.mask)
    return made
