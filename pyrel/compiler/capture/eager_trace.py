# SPDX-License-Identifier: Apache-2.0
"""Records the operators that a model runs, without exporting it: some microseconds for each.

Of each operator there is what it is, with all arguments but whole numbers and tensors; which
operators made its operands; and the whole numbers among its arguments and sizes. So the traces of a
loop of ten and of a thousand steps can be compared (`pyrel.compiler.capture.loop_growth`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyrel.compiler.capture.as_eager import as_eager
from pyrel.compiler.capture.autograd_watch import watched
from pyrel.compiler.capture.examples import Sample
from pyrel.compiler.capture.isolation import as_it_was, quiet
from pyrel.compiler.capture.refusals import no_draws

# What a value depends on: nothing but sizes, constants of the model, or the input.
UNIFORM, CONSTANT, INPUT = range(3)

# Operators that make of values which are the same at all steps values which are so too.
_UNIFORM = frozenset(
    """
    zeros ones full empty expand repeat unsqueeze squeeze view _unsafe_view reshape transpose
    permute t select slice unbind split split_with_sizes cat stack clone detach alias _to_copy add
    sub mul div neg reciprocal copy_ fill_ zero_
    """.split()
)
_OF_SHAPE = ("new_", "zeros_like", "ones_like", "full_like", "empty_like")
_LEAST_RUN = 3


class Step(NamedTuple):
    """An operator that ran.

    Attributes
    ----------
    code : Hashable
        What it is, and all that has to be equal in operators of its kind.
    operands : tuple of int
        Which operators made its operands, and which of their results these are.
    numbers : tuple of int
        Whole numbers among the arguments, and the sizes of the results.
    kind : int
        What its results depend on.
    sizes : int
        How many of the numbers are sizes of results, which come last.
    kernel : tuple of int
        Sizes of the operands behind the first, but for their first two dimensions.
    """

    code: Hashable
    operands: tuple[int, ...]
    numbers: tuple[int, ...]
    kind: int
    sizes: int
    kernel: tuple[int, ...]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, given: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self._made = {id(each): (-1 - n, 0) for n, each in enumerate(given)}
        self._kinds = {_memory(each): INPUT for each in given}
        self._alive: list[Any] = list(given)  # so that no id and no memory is used again
        self._outside: dict[int, Hashable] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        operands: list[int] = []
        numbers: list[int] = []
        read: list[torch.Tensor] = []
        # Before results are noted: an operator that works in place has an operand among them.
        code = self._coded((args, tuple((kwargs or {}).items())), operands, numbers, read)
        name = func._schema.name.partition("::")[2]
        results = list(result) if isinstance(result, tuple | list) else [result]
        tensors = [each for each in results if isinstance(each, torch.Tensor)]
        kind = self._kind(name, read, len(tensors) == len(results))
        for number, tensor in enumerate(tensors):
            self._made[id(tensor)] = len(self.steps), number
            memory = _memory(tensor)
            self._kinds[memory] = max(kind, self._kinds.get(memory, UNIFORM))
        arguments = len(numbers)
        kernel = tuple(size for each in read[1:] for size in each.shape[2:])
        shapes = [tuple(tensor.shape) for tensor in tensors]
        made = self._coded(shapes, operands, numbers, read)
        types_ = tuple(str(tensor.dtype) for tensor in tensors[:1])
        whole = (str(func), code, made, types_, torch.is_grad_enabled())
        self.steps.append(
            Step(whole, tuple(operands), tuple(numbers), kind, len(numbers) - arguments, kernel)
        )
        self._alive.append((args, kwargs, result))
        return result

    def _kind(self, name: str, read: Sequence[torch.Tensor], makes_tensors: bool) -> int:
        if not makes_tensors:
            return INPUT  # a number of Python: it may decide anything
        if name.startswith(_OF_SHAPE):
            return UNIFORM
        least = UNIFORM if name in _UNIFORM else CONSTANT
        return max([least, *(self._kinds.get(_memory(each), CONSTANT) for each in read)])

    def _coded(
        self,
        value: Any,
        operands: list[int],
        numbers: list[int],
        read: list[torch.Tensor],
    ) -> Hashable:
        """Return what has to be equal in an argument, and note what may grow."""
        if isinstance(value, torch.Tensor):
            read.append(value)
            if id(value) not in self._made:
                return self._of_model(value)
            operands += self._made[id(value)]
            return "made", value.dim()
        if isinstance(value, int) and not isinstance(value, bool):
            numbers.append(value)
            return "number"
        if isinstance(value, tuple | list):
            return self._several(value, operands, numbers, read)
        return type(value), repr(value)

    def _several(
        self, values: Sequence[Any], operands: list[int], numbers: list[int], read: Any
    ) -> Hashable:
        """Write a long list that goes on evenly as its length, its first element and its stride."""
        each = []
        for value in values:
            own: tuple[list[int], list[int]] = [], []
            each.append((self._coded(value, *own, read), *own))
        codes = [code for code, _, _ in each]
        for before in range(3):
            rest = each[before:]
            if len(rest) < _LEAST_RUN or len(set(codes[before:])) > 1:
                continue
            runs = [
                _evenly([(element[part]) for element in rest])  # type: ignore[misc]
                for part in (1, 2)
            ]
            if None in runs:
                continue
            for element in each[:before]:
                operands += element[1]
                numbers += element[2]
            numbers.append(len(rest))
            operands += runs[0] or []
            numbers += runs[1] or []
            return "evenly", tuple(codes[:before]), codes[before]
        for element in each:
            operands += element[1]
            numbers += element[2]
        return tuple(codes)

    def _of_model(self, tensor: torch.Tensor) -> Hashable:
        """Name a tensor that no operator made: by its contents."""
        if id(tensor) not in self._outside:
            self._alive.append(tensor)
            self._kinds.setdefault(_memory(tensor), CONSTANT)
            data = tensor.detach().cpu().contiguous().reshape(-1)
            contents = data.view(torch.uint8).numpy() if data.numel() else data.numpy()
            named = hashlib.blake2b(contents.tobytes()).digest()
            self._outside[id(tensor)] = named, tuple(tensor.shape), str(tensor.dtype)
        return self._outside[id(tensor)]


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _evenly(rows: Sequence[Sequence[int]]) -> list[int] | None:
    """Return the first of some rows of numbers and their stride; None if they have none."""
    first, second = rows[0], rows[1]
    strides = [b - a for a, b in zip(first, second, strict=True)]
    for before, after in zip(rows, rows[1:], strict=False):
        if any(b - a != s for a, b, s in zip(before, after, strides, strict=True)):
            return None
    return [*first, *strides]


def eager_trace(model: torch.nn.Module, sample: Sample) -> list[Step]:
    """Run a model in eval mode on a batch of two, and record its operators.

    What the model does to gradients is recorded as an export would mark it. The model is left as it
    was; errors are the model's own.
    """
    given = sample.of(2)
    recorder = _Recorder(given)
    with as_it_was(model, values=True), as_eager(), watched(model), quiet(), no_draws(), recorder:
        model(*given)
    return recorder.steps
