# SPDX-License-Identifier: Apache-2.0
"""Records the operators that a model runs, without exporting it: some microseconds for each.

Of each operator there is what it is, with all arguments but whole numbers and tensors; which
operators made its operands; and the whole numbers among its arguments and sizes. So the traces of a
loop of ten and of a thousand steps can be compared (`pyrel.compiler.capture.loop_growth`).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pyrel.compiler.capture.as_eager import as_eager
from pyrel.compiler.capture.autograd_watch import watched
from pyrel.compiler.capture.examples import Sample
from pyrel.compiler.capture.isolation import as_it_was, quiet
from pyrel.compiler.capture.model_state import ModelState
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

RETURNED = "returned"  # of the code of the last step: the tensor that a model returns

# Functions that run other operators where their operand lies in memory in another way, as it does
# where a size is one, and compute the same.
_BY_MEMORY: frozenset[Any] = frozenset(
    {torch.nn.functional.linear, torch.matmul, torch.flatten, torch.reshape}
    | {getattr(torch.Tensor, name) for name in ("matmul", "__matmul__", "flatten", "reshape")}
    | {torch.Tensor.contiguous}
)
_aten = torch.ops.aten
_OPERATORS_BY_MEMORY: frozenset[Any] = frozenset(
    {_aten.linear.default, _aten.matmul.default, _aten.flatten.using_ints}
    | {_aten.reshape.default, _aten.contiguous.default}
)


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


class _Coded(NamedTuple):
    """What has to be equal in an argument; which operators made it, and its whole numbers."""

    code: Hashable
    operands: list[int]
    numbers: list[int]


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(
        self, held: Iterable[torch.Tensor], given: Sequence[torch.Tensor], shortens: bool
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.steps: list[Step] = []
        self._shortens = shortens
        self._within = False  # a function that is noted as one step
        self._writes = False
        self._views: list[bool] = []
        self._made = {id(each): (-1 - n, 0) for n, each in enumerate(given)}
        self._kinds = {_memory(each): INPUT for each in given}
        self._alive: list[Any] = list(given)  # so that no id and no memory is used again
        self._outside: dict[int, Hashable] = {id(each): ("held", n) for n, each in enumerate(held)}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        self._writes = self._writes or func._schema.is_mutable
        if not self._within:
            self._note(func, func._schema.name.partition("::")[2], args, kwargs, result)
        return result

    def as_one_step(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call a function of torch's, and note it in place of the operators that it runs."""
        self._within = True
        try:
            result = func(*args, **kwargs)
            if result is args[0]:  # it had nothing to do
                result = torch.ops.aten.alias(result)
        finally:
            self._within = False
        self._views.append(_memory(result) == _memory(args[0]))
        self._note(func, func.__name__, args, kwargs, result)
        return result

    def _note(self, func: Any, name: str, args: Any, kwargs: Any, result: Any) -> None:
        read: list[torch.Tensor] = []
        # Before results are noted: an operator that works in place has an operand among them.
        given = self._coded((args, tuple((kwargs or {}).items())), read)
        results = list(result) if isinstance(result, tuple | list) else [result]
        tensors = [each for each in results if isinstance(each, torch.Tensor)]
        kind = self._kind(name, read, len(tensors) == len(results))
        for number, tensor in enumerate(tensors):
            self._made[id(tensor)] = len(self.steps), number
            memory = _memory(tensor)
            self._kinds[memory] = max(kind, self._kinds.get(memory, UNIFORM))
        kernel = tuple(size for each in read[1:] for size in each.shape[2:])
        sizes = self._coded([tuple(tensor.shape) for tensor in tensors], read)
        types_ = tuple(str(tensor.dtype) for tensor in tensors[:1])
        whole = (str(func), given.code, sizes.code, types_, torch.is_grad_enabled())
        numbers = (*given.numbers, *sizes.numbers)
        self.steps.append(
            Step(whole, tuple(given.operands), numbers, kind, len(sizes.numbers), kernel)
        )
        self._alive.append((args, kwargs, result))

    def returned(self, value: Any) -> None:
        """Note what the model returns, if that is one tensor, and which views it may write into."""
        if isinstance(value, torch.Tensor):
            operands, sizes = self._coded(value, []).operands, tuple(value.shape)
            code = RETURNED, tuple(self._views) if self._writes else ()
            self.steps.append(Step(code, tuple(operands), sizes, INPUT, len(sizes), ()))

    def _kind(self, name: str, read: Sequence[torch.Tensor], makes_tensors: bool) -> int:
        if not makes_tensors:
            return INPUT  # a number of Python: it may decide anything
        if name.startswith(_OF_SHAPE):
            return UNIFORM
        least = UNIFORM if name in _UNIFORM else CONSTANT
        return max([least, *(self._kinds.get(_memory(each), CONSTANT) for each in read)])

    def _coded(self, value: Any, read: list[torch.Tensor]) -> _Coded:
        """Describe an argument; the tensors in it are added to ``read``."""
        if isinstance(value, torch.Tensor):
            read.append(value)
            if id(value) in self._made:
                return _Coded(("made", value.dim()), [*self._made[id(value)]], [])
            return _Coded(self._of_model(value), [], [])
        if isinstance(value, int) and not isinstance(value, bool):
            return _Coded("number", [], [value])
        if isinstance(value, tuple | list):
            every = [self._coded(each, read) for each in value]
            return _shortened(every) if self._shortens else _several(every)
        return _Coded((type(value), repr(value)), [], [])

    def _of_model(self, tensor: torch.Tensor) -> Hashable:
        """Name a tensor that no operator made and the model does not hold: by its contents."""
        if id(tensor) not in self._outside:
            self._alive.append(tensor)
            self._kinds.setdefault(_memory(tensor), CONSTANT)
            data = tensor.detach().cpu().contiguous().reshape(-1)
            contents = data.view(torch.uint8).numpy() if data.numel() else data.numpy()
            named = hashlib.blake2b(contents.tobytes()).digest()
            self._outside[id(tensor)] = named, tuple(tensor.shape), str(tensor.dtype)
        return self._outside[id(tensor)]


class _ByMemory(TorchFunctionMode):
    """Lets functions that look at how an operand lies in memory be one step each."""

    def __init__(self, recorder: _Recorder) -> None:
        super().__init__()
        self._recorder = recorder

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in _BY_MEMORY and args:
            return self._recorder.as_one_step(func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class _Interpreter(torch.fx.Interpreter):
    """Runs a program, of which operators that look at memory are one step each."""

    def __init__(self, module: torch.fx.GraphModule, recorder: _Recorder) -> None:
        super().__init__(module)
        self._recorder = recorder

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Run one operator."""
        if target in _OPERATORS_BY_MEMORY:
            return self._recorder.as_one_step(target, args, kwargs)
        return super().call_function(target, args, kwargs)


def _memory(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _several(each: Sequence[_Coded]) -> _Coded:
    return _Coded(tuple(element.code for element in each), *_joined(each))


def _shortened(each: Sequence[_Coded]) -> _Coded:
    """Write a long list that goes on evenly as its length, its first element and its stride."""
    for before in range(3):
        head, rest = each[:before], each[before:]
        if len(rest) < _LEAST_RUN or len({element.code for element in rest}) > 1:
            continue
        operands = _evenly([element.operands for element in rest])
        numbers = _evenly([element.numbers for element in rest])
        if operands is not None and numbers is not None:
            code = "evenly", tuple(element.code for element in head), rest[0].code
            own, sizes = _joined(head)
            return _Coded(code, [*own, *operands], [*sizes, len(rest), *numbers])
    return _several(each)


def _joined(each: Sequence[_Coded]) -> tuple[list[int], list[int]]:
    """Return operands and numbers of all elements."""
    operands = [operand for element in each for operand in element.operands]
    return operands, [number for element in each for number in element.numbers]


def _evenly(rows: Sequence[Sequence[int]]) -> list[int] | None:
    """Return the first of some rows of numbers and their stride; None if they have none."""
    first, second = rows[0], rows[1]
    strides = [b - a for a, b in zip(first, second, strict=True)]
    for before, after in zip(rows, rows[1:], strict=False):
        if any(b - a != s for a, b, s in zip(before, after, strides, strict=True)):
            return None
    return [*first, *strides]


def eager_trace(
    model: torch.nn.Module,
    sample: Sample,
    batch: int = 2,
    *,
    state: ModelState | None = None,
    of_sizes: bool = False,
) -> list[Step]:
    """Run a model in eval mode on a batch, and record its operators and what it returns.

    What the model does to gradients is recorded as an export would mark it. The model is left as it
    was, which ``state`` says where that is known; errors are the model's own. ``of_sizes`` says
    that the trace is compared with those of other small sizes, and not with those of more steps of
    a loop, for which long lists of arguments that go on evenly are written as such.
    """
    given = sample.of(batch)
    held = (*model.parameters(), *model.buffers())
    recorder = _Recorder(held, given, shortens=not of_sizes)
    kept = as_it_was(model, values=True, state=state)
    whole = _ByMemory(recorder) if of_sizes else contextlib.nullcontext()
    with kept, as_eager(), whole, watched(model), quiet(), no_draws(), recorder:
        positional, named = sample.arguments(given)
        recorder.returned(model(*positional, **named))
    return recorder.steps


def program_trace(
    module: torch.fx.GraphModule,
    operands: Sequence[torch.Tensor],
    given: Sequence[torch.Tensor],
    output: int,
) -> list[Step]:
    """Run an exported program, and record its operators and one of its outputs, as of sizes.

    ``operands`` are what the program takes: weights and the inputs, which are ``given``. What the
    program writes into weights stays there.
    """
    inputs = set(map(id, given))
    recorder = _Recorder([n for n in operands if id(n) not in inputs], given, shortens=False)
    with torch.no_grad(), recorder:
        recorder.returned(_Interpreter(module, recorder).run(*operands)[output])
    return recorder.steps
