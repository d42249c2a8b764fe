# SPDX-License-Identifier: Apache-2.0
"""Values while an exported graph is walked: tensors whose elements are addresses.

A traced tensor has the shape that the model's tensor has for a small batch, but holds, instead of
a number, where each element comes from: its sample and its address within the sample. Operators
that only move elements run as they are, on the addresses. So slicing, permuting, stacking, folding
the batch into rows and back need no code of their own, and an operator that mixes samples shows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pyrel.graph import Add, Addresses, Floats, Graph, Linear, Node, Relu, Scale, look_up

# An element of sample s at address a is s · 2^44 + a; a constant is its negative address.
_SAMPLE_SHIFT = 44
_ADDRESS_MASK = (1 << _SAMPLE_SHIFT) - 1


@dataclass(frozen=True)
class Traced:
    """A tensor that depends on the input; ``ids`` holds sample and address of each element."""

    ids: torch.Tensor


class MixedSamplesError(Exception):
    """An operator combines elements of different samples of the batch."""


@dataclass
class _Rows:
    """Rows of a traced matrix, by sample."""

    addresses: Addresses  # (rows of one sample, width)
    positions: list[npt.NDArray[np.int64]]  # for each sample, where its rows stand
    constant: npt.NDArray[np.int64]  # where the rows stand that no sample owns
    constant_addresses: Addresses


class Tracer:
    """Builds a graph's nodes; the operators of `pyrel.operators` call it.

    Parameters
    ----------
    input_shape : tuple of int
        Shape of one sample.
    batch : int
        Samples in the traced batch, at least 2, so that mixing them is seen.
    dtype : torch.dtype
        Of the model's input.
    """

    def __init__(self, input_shape: tuple[int, ...], batch: int, dtype: torch.dtype) -> None:
        self.batch = batch
        self.dtype = dtype
        self.module = ""  # path of the module being traced, for messages
        self._input_shape = input_shape
        self._nodes: list[Node] = []
        self._constants: dict[float, int] = {}
        self._arrays: dict[int, tuple[torch.Tensor, Floats]] = {}  # by the tensor's id
        self._input_size = int(np.prod(input_shape, dtype=np.int64))
        self._next = self._input_size

    def input(self) -> Traced:
        """Trace the model's input."""
        one = torch.arange(self._input_size).reshape(1, *self._input_shape)
        samples = torch.arange(self.batch).reshape(-1, *[1] * len(self._input_shape))
        return Traced(one + (samples << _SAMPLE_SHIFT))

    def ids(self, value: Traced | torch.Tensor) -> torch.Tensor:
        """Element ids of a traced tensor or of a constant one."""
        if isinstance(value, Traced):
            return value.ids
        numbers = value.detach().cpu().to(torch.float64).numpy()
        unique, inverse = np.unique(numbers, return_inverse=True)
        addresses = [
            -1 - self._constants.setdefault(v, len(self._constants)) for v in unique.tolist()
        ]
        placed = np.array(addresses, dtype=np.int64)[np.atleast_1d(inverse)]
        return torch.from_numpy(placed.reshape(numbers.shape))

    def array(self, tensor: torch.Tensor) -> Floats:
        """Return a parameter as float64, the same array each time: steps share their weights."""
        if id(tensor) not in self._arrays:
            values = tensor.detach().cpu().to(torch.float64, copy=True).numpy()
            self._arrays[id(tensor)] = (tensor, values)  # the tensor too, so that its id stays its
        return self._arrays[id(tensor)][1]

    def constant(self, value: Traced) -> Traced | torch.Tensor:
        """Return the number of a traced tensor that holds constants only, or else the tensor."""
        if value.ids.numel() == 0 or (value.ids >= 0).any():
            return value
        return torch.from_numpy(self.constant_values(value.ids.numpy()))

    def linear(self, value: Traced, weight: Floats, bias: Floats) -> Traced:
        """``value @ weight.T + bias`` over the last dimension."""

        def constant(addresses: Addresses) -> Floats:
            return np.asarray(self.constant_values(addresses) @ weight.T + bias)

        def node(start: int, addresses: Addresses) -> Node:
            return Linear(start, addresses[None], weight, bias, module=self.module)

        return self._by_rows(value.ids, weight.shape[0], node, constant)

    def relu(self, value: Traced) -> Traced:
        """Elementwise ``max(0, value)``."""
        return self._elementwise(
            [value.ids],
            lambda start, a: Relu(start, a[0], module=self.module),
            lambda a: np.maximum(self.constant_values(a[0]), 0.0),
        )

    def scale(self, value: Traced, factor: torch.Tensor) -> Traced:
        """Elementwise product with a constant that broadcasts to ``value``."""
        shape = np.broadcast_shapes(value.ids.shape, factor.shape)
        operands = [value.ids.expand(shape), self.ids(factor.expand(shape))]

        def node(start: int, addresses: Addresses) -> Node:
            return Scale(
                start, addresses[0], self.constant_values(addresses[1]), module=self.module
            )

        return self._elementwise(operands, node, lambda a: self.constant_values(a).prod(axis=0))

    def add(self, *values: Traced | torch.Tensor) -> Traced:
        """Elementwise sum of values that broadcast to each other."""
        arrays = [self.ids(value).numpy() for value in values]
        return self._elementwise(
            [torch.from_numpy(a) for a in np.broadcast_arrays(*arrays)],
            lambda start, a: Add(start, a, module=self.module),
            lambda a: self.constant_values(a).sum(axis=0),
        )

    def graph(self, output: Traced) -> Graph:
        """Finish the graph, given the model's output of shape (batch, classes)."""
        rows = self._split(output.ids.reshape(self.batch, -1).numpy())
        if rows.constant.size or any(p.tolist() != [s] for s, p in enumerate(rows.positions)):
            raise MixedSamplesError
        return Graph(
            self._input_shape,
            tuple(self._nodes),
            rows.addresses[0],
            np.array(list(self._constants)),
        )

    def constant_values(self, addresses: Addresses) -> Floats:
        """Values of constant addresses, 0 elsewhere."""
        return look_up(np.array(list(self._constants)), addresses)

    def _elementwise(
        self,
        operands: list[torch.Tensor],
        node: Callable[[int, Addresses], Node],
        constant: Callable[[Addresses], Floats],
    ) -> Traced:
        """One node over all elements; ``node`` and ``constant`` take (operands, elements)."""
        matrix = torch.stack([operand.reshape(-1) for operand in operands], dim=1).numpy()
        rows = self._split(matrix)
        out = np.empty(matrix.shape[0], dtype=np.int64)
        if rows.addresses.size:
            created = node(self._next, rows.addresses.T)
            for sample, positions in enumerate(rows.positions):
                out[positions] = created.addresses + (sample << _SAMPLE_SHIFT)
            self._append(created)
        if rows.constant.size:
            values = torch.from_numpy(np.asarray(constant(rows.constant_addresses.T)))
            out[rows.constant] = self.ids(values).numpy()
        return Traced(torch.from_numpy(out).reshape(operands[0].shape))

    def _by_rows(
        self,
        ids: torch.Tensor,
        size: int,
        node: Callable[[int, Addresses], Node],
        constant: Callable[[Addresses], Floats],
    ) -> Traced:
        matrix = ids.reshape(-1, ids.shape[-1]).numpy()
        rows = self._split(matrix)
        out = np.empty((matrix.shape[0], size), dtype=np.int64)
        for row, addresses in enumerate(rows.addresses):
            created = node(self._next, addresses)
            for sample, positions in enumerate(rows.positions):
                out[positions[row]] = created.addresses + (sample << _SAMPLE_SHIFT)
            self._append(created)
        if rows.constant.size:
            values = torch.from_numpy(constant(rows.constant_addresses))
            out[rows.constant] = self.ids(values).numpy()
        return Traced(torch.from_numpy(out).reshape(*ids.shape[:-1], size))

    def _append(self, node: Node) -> None:
        self._nodes.append(node)
        self._next += node.size

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
        values, wanted = self.constant_values(a), self.constant_values(b)
        return bool(np.allclose(values, wanted, rtol=1e-5, atol=1e-7, equal_nan=True))
