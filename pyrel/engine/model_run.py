# SPDX-License-Identifier: Apache-2.0
"""Runs a model on a few samples: its outputs, and autograd's gradient.

The model is left as it was: its mode, its buffers, what it holds as attributes, the gradients of
its parameters and the state of the random generators.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.overrides import TorchFunctionMode

from pyrel.compiler.capture.examples import arguments, unwrapped
from pyrel.compiler.capture.forks import one_thread_if_forked
from pyrel.compiler.capture.isolation import as_it_was, silent
from pyrel.compiler.capture.model_state import ModelState
from pyrel.compiler.capture.operators.nested import leaves
from pyrel.compiler.capture.outputs import Output, chosen
from pyrel.compiler.capture.sizes import first_input, fixed
from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.check_inputs import SAMPLES

Doubles = npt.NDArray[np.float64]

# From the gradient at what is read, and what is read, to relevance; elementwise.
Finish = Callable[[Doubles, Doubles], Doubles]


@dataclass(frozen=True, eq=False)
class Answer:
    """Outputs and map of a model for a batch, converted to float64.

    Attributes
    ----------
    output : ndarray, shape (n, classes)
    map : ndarray of the shape of the batch, or None
        Of the method that is a gradient; None where it was not asked for, or cannot be had.
    """

    output: Doubles
    map: Doubles | None


class ModelRun:
    """A model, as it is called with a batch.

    Parameters
    ----------
    model : torch.nn.Module or ExportedProgram
    lengths : bool
        Whether a second argument is the lengths of the sequences.
    output : str, int or callable, optional
        Which tensor of what the model returns is its output.
    """

    def __init__(
        self, model: torch.nn.Module | ExportedProgram, lengths: bool, output: Output = None
    ) -> None:
        self.exported = isinstance(model, ExportedProgram)
        self.samples = SAMPLES
        self._lengths, self._output = lengths, output
        self._state: ModelState | None = None  # of the model itself, which no run changes
        self.module: torch.nn.Module
        if isinstance(model, ExportedProgram):
            self.samples = fixed(first_input(model).shape[0]) or SAMPLES
            self.module = model.module()
        else:
            self.module = unwrapped(model)

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next((p.device for p in self.module.parameters()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """Type of the parameters; that of torch's default where there are none."""
        given = (p.dtype for p in self.module.parameters() if p.is_floating_point())
        return next(given, torch.get_default_dtype())

    def __call__(
        self,
        x: Float32s | Doubles,
        ids: bool,
        targets: Int64s,
        finish: Finish | None,
        module: torch.nn.Module | None = None,
        dtype: torch.dtype | None = None,
    ) -> Answer:
        """Run the model once, forward and, where ``finish`` is given, backward.

        Parameters
        ----------
        x : ndarray of floats, shape (n, ...)
        ids : bool
            Whether they are token ids.
        targets : ndarray of int64, shape (n,)
            Of which output the gradient is.
        finish : callable or None
            Makes the map of the gradient and what it is the gradient of; None for outputs alone.
        module, dtype
            What to run, and with inputs of which type, instead of the model itself.
        """
        module = self.module if module is None else module
        with self._alone(module), torch.set_grad_enabled(finish is not None):
            wanted = torch.int64 if ids else dtype or self.dtype
            given = torch.from_numpy(x.copy()).to(self.device, wanted)
            leaf = given if ids or finish is None else given.requires_grad_()
            with _Lookups(leaf) if ids and finish is not None else contextlib.nullcontext() as seen:
                returned = module(*arguments(leaf, self._lengths))
                scores = chosen(returned, self._output).reshape(len(x), -1)
            if finish is None:
                return Answer(_doubles(scores), None)
            score = scores[torch.arange(len(x)), torch.from_numpy(targets)].sum()
            read = [leaf] if seen is None else seen.read
            gradients = _gradients(score, read)
            if seen is None:
                found: Doubles | None = finish(gradients[0], _doubles(leaf))
            else:
                found = seen.summed(gradients, finish)
            return Answer(_doubles(scores), found)

    def let_go(self) -> None:
        """Let go of the copy of what the model holds; the next run makes another one."""
        self._state = None

    def _as_it_was(self, module: torch.nn.Module) -> AbstractContextManager[None]:
        """Leave a module as it was; what the model itself holds is copied once for all runs."""
        if module is not self.module:
            return as_it_was(module, values=True)
        if self._state is None:
            self._state = ModelState(module, values=True)
        return as_it_was(module, state=self._state)

    @contextlib.contextmanager
    def _alone(self, module: torch.nn.Module) -> Iterator[None]:
        """Run a module in eval mode, without a trace in it or in the generators."""
        devices = [self.device] if self.device.type == "cuda" else []
        with contextlib.ExitStack() as stack:
            stack.enter_context(one_thread_if_forked())
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(_generators(devices))
            stack.enter_context(silent())  # the user did not call the model
            # cuDNN differentiates recurrent layers in training mode only.
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
            if not self.exported:  # a program of torch.export has no modes
                stack.enter_context(self._as_it_was(module))
            yield


@contextlib.contextmanager
def _generators(devices: list[torch.device]) -> Iterator[None]:
    """Put the random generators of torch, NumPy and Python back as they were."""
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def _doubles(values: Tensor) -> Doubles:
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
        np.zeros(tuple(each.shape)) if gradient is None else _doubles(gradient)
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


class _Lookups(TorchFunctionMode):
    """Notes what a model looks up for token ids, and of which of them.

    Attributes
    ----------
    read : list of Tensor
        The rows that were looked up, which gradients are taken of.
    """

    def __init__(self, ids: Tensor) -> None:
        super().__init__()
        self.read: list[Tensor] = []
        self._ids = ids
        self._made: dict[int, Tensor] = {id(ids): ids}  # of the ids, kept so that ids of these stay
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
        whole = self._ids
        if ids.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr():
            numbers = torch.arange(whole.numel())
            shifted = ids.storage_offset() - whole.storage_offset()
            return numbers.as_strided(ids.shape, ids.stride(), shifted).numpy().copy()
        return None

    def summed(self, gradients: list[Doubles], finish: Finish) -> Doubles | None:
        """Sum the map over what each id was looked up as; None where that is not known."""
        squared = float(finish(np.full(1, 2.0), np.ones(1))[0]) != 2.0  # not additive
        if self._unknown or not self.read or (squared and len(self.read) > 1):
            return None
        total = np.zeros(self._ids.numel())
        for rows, gradient, where in zip(self.read, gradients, self._where, strict=True):
            sums = finish(gradient, _doubles(rows)).sum(axis=-1)
            np.add.at(total, where.reshape(-1), sums.reshape(-1))
        return total.reshape(tuple(self._ids.shape))
