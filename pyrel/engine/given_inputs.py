# SPDX-License-Identifier: Apache-2.0
"""Inputs as a model takes them, and the map that autograd makes of them.

Of floats that is what a method makes of the gradient. Of token ids it is that of the rows that were
looked up for them, which are noted while the model runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from pyrel.compiler.capture.calls import Call
from pyrel.compiler.capture.operators.nested import leaves
from pyrel.compiler.graph.layout import Kind

Doubles = npt.NDArray[np.float64]

# From the gradient at what is read, and what is read, to relevance; elementwise.
Finish = Callable[[Doubles, Doubles], Doubles]

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass
class GivenInputs:
    """A batch as a model is called with it.

    Attributes
    ----------
    arguments : (tuple, dict)
        By position, and by name.
    floats : Tensor or None
        What gradients are taken of: the batch, or the rows of several inputs.
    seen : Lookups or None
        Notes what token ids look up.
    is_float : ndarray of bool or None
        Of several inputs, which elements of a row are floats.
    """

    arguments: Arguments
    floats: Tensor | None = None
    seen: Lookups | None = None
    is_float: npt.NDArray[np.bool_] | None = None

    def map(self, score: Tensor, finish: Finish) -> Doubles | None:
        """Return the map of a score, of the shape of the batch; None where it is not known."""
        read = [] if self.floats is None else [self.floats]
        read += [] if self.seen is None else self.seen.read
        gradients = _gradients(score, read)
        found: Doubles | None = None
        if self.floats is not None:
            found = finish(gradients.pop(0), doubles_of(self.floats))
        if self.is_float is not None and found is not None:
            found = np.where(self.is_float, found, 0.0)
        if self.seen is None or (found is not None and self.seen.is_idle):
            return found
        of_ids = self.seen.summed(gradients, finish)
        return of_ids if found is None or of_ids is None else found + of_ids


def of_one(
    batch: Tensor, ids: bool, watched: bool, dtype: torch.dtype, lengths: bool
) -> GivenInputs:
    """Return one input, with lengths that are full if the model takes such.

    ``watched`` says that gradients are wanted, ``dtype`` is the type of floats.
    """
    whole = batch.to(torch.int64 if ids else dtype)
    full = torch.full(whole.shape[:1], whole.shape[1], device=whole.device) if lengths else None
    arguments: Arguments = ((whole,) if full is None else (whole, full)), {}
    if not watched:
        return GivenInputs(arguments)
    if ids:
        numbers = torch.arange(whole.numel()).reshape(whole.shape)
        return GivenInputs(arguments, None, Lookups([(whole, numbers)], whole.shape))
    return GivenInputs(arguments, whole.requires_grad_())


def of_several(
    batch: Tensor, call: Call, watched: bool, dtype: torch.dtype, lengths: bool
) -> GivenInputs:
    """Return several inputs, given as rows (n, size); see `of_one`."""
    layout = call.layout.of_size(batch.shape[1])
    floats = batch.to(dtype)
    if watched:
        floats.requires_grad_()
    numbers = layout.split(torch.arange(batch.numel()).reshape(batch.shape))
    given: list[Tensor] = []
    ids: list[tuple[Tensor, Tensor]] = []
    pairs = zip(layout.leaves, layout.split(floats), layout.split(batch), numbers, strict=True)
    for leaf, part, exact, where in pairs:
        match leaf.elements:
            case Kind.floats:
                given.append(part.clone(memory_format=torch.contiguous_format))
            case Kind.masks:
                given.append(exact != 0)
            case Kind.ids:
                given.append(exact.to(torch.int64).contiguous())
                ids.append((given[-1], where.contiguous()))
    if lengths:
        given.append(torch.full(batch.shape[:1], layout.steps, device=batch.device))
    arguments = call.arguments(given)
    if not watched:
        return GivenInputs(arguments)
    seen = Lookups(ids, batch.shape) if ids else None
    return GivenInputs(arguments, floats, seen, layout.is_float)


def doubles_of(values: Tensor) -> Doubles:
    """Return a tensor as an array of float64."""
    return np.asarray(values.detach().double().cpu().numpy())


def _gradients(score: Tensor, read: list[Tensor]) -> list[Doubles]:
    """Gradients of a score, zero where none arrives; no parameter gets one."""
    wanted = [each for each in read if each.requires_grad]
    found: list[Tensor | None] = []
    if score.requires_grad and wanted:
        found = list(torch.autograd.grad(score, wanted, allow_unused=True))
    by_number = dict(zip(map(id, wanted), found, strict=False))
    gradients = [by_number.get(id(each)) for each in read]
    return [
        np.zeros(tuple(each.shape)) if gradient is None else doubles_of(gradient)
        for each, gradient in zip(read, gradients, strict=True)
    ]


# What is made of token ids by these depends on them as a mask does: there is no row to look up.
_OF_MASKS = frozenset(
    """__mul__ __rmul__ __imul__ mul mul_ multiply __add__ __radd__ add __sub__ __rsub__ sub rsub
    __truediv__ __rtruediv__ __rdiv__ reciprocal div divide true_divide float double to
    type type_as where masked_fill masked_fill_ zeros ones""".split()
)


# These take some of the values, or steps, that a count of token ids says; of what was looked up.
_OF_COUNTS = frozenset(
    """index_select gather take_along_dim __getitem__ _pack_padded_sequence _pad_packed_sequence
    lstm gru rnn_tanh rnn_relu""".split()
)


class Lookups(TorchFunctionMode):
    """Notes what a model looks up for token ids, and of which of them.

    Parameters
    ----------
    ids : sequence of (Tensor, Tensor)
        Token ids, and the number of each in the batch.
    shape : sequence of int
        Of the batch.

    Attributes
    ----------
    read : list of Tensor
        The rows that were looked up, which gradients are taken of.
    """

    def __init__(self, ids: Sequence[tuple[Tensor, Tensor]], shape: Sequence[int]) -> None:
        super().__init__()
        self.read: list[Tensor] = []
        self._ids, self._shape = ids, tuple(shape)
        # What was made of the ids, kept so that ids of these stay.
        self._made: dict[int, Tensor] = {id(each): each for each, _ in ids}
        self._where: list[npt.NDArray[np.int64]] = []  # of the ids, for each row looked up
        self._of_rows: dict[int, Tensor] = {}  # what was made of such rows, likewise
        self._unknown = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and look at what it reads."""
        result = func(*args, **(kwargs or {}))
        operands = [*args, *(kwargs or {}).values()]
        given = [each for each in operands if id(each) in self._made]
        of_rows = any(id(each) in self._of_rows for each in leaves(operands))
        for each in leaves(result):
            if not isinstance(each, Tensor):
                continue
            if not each.is_floating_point():
                if given:
                    self._made[id(each)] = each
                continue
            if of_rows:
                self._of_rows[id(each)] = each
            if given and func is torch.nn.functional.embedding:
                self._look_up(given[0], each)
            elif given and not self._is_weighted(func, operands[0]):
                self._unknown = True
        return result

    def _is_weighted(self, func: Any, value: Any) -> bool:
        """Whether a function weighs or chooses values by what is made of ids: no lookup."""
        name = getattr(func, "__name__", "")
        return name in _OF_MASKS or (name in _OF_COUNTS and id(value) in self._of_rows)

    def _look_up(self, ids: Tensor, rows: Tensor) -> None:
        where = self._positions(ids)
        if where is None:
            self._unknown = True
            return
        if torch.is_grad_enabled() and not rows.requires_grad:
            rows.requires_grad_()
        self.read.append(rows)
        self._of_rows[id(rows)] = rows
        self._where.append(where)

    def _positions(self, ids: Tensor) -> npt.NDArray[np.int64] | None:
        """Which element of the input each of some ids is; None where that does not show."""
        for whole, numbers in self._ids:
            if ids.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr():
                shifted = ids.storage_offset() - whole.storage_offset()
                there = numbers.as_strided(ids.shape, ids.stride(), shifted)
                return np.asarray(there.numpy().copy())
        return None

    @property
    def is_idle(self) -> bool:
        """Whether nothing was looked up, so that ids get no gradient."""
        return not (self.read or self._unknown)

    def summed(self, gradients: list[Doubles], finish: Finish) -> Doubles | None:
        """Sum the map over what each id was looked up as; None where that is not known."""
        squared = float(finish(np.full(1, 2.0), np.ones(1))[0]) != 2.0  # not additive
        if self._unknown or not self.read or (squared and len(self.read) > 1):
            return None
        total = np.zeros(math.prod(self._shape))
        for rows, gradient, where in zip(self.read, gradients, self._where, strict=True):
            sums = finish(gradient, doubles_of(rows)).sum(axis=-1)
            np.add.at(total, where.reshape(-1), sums.reshape(-1))
        return total.reshape(self._shape)
