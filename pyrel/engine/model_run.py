# SPDX-License-Identifier: Apache-2.0
"""Runs a model on a few samples: its outputs, and autograd's gradient.

The model is left as it was: its mode, its buffers, what it holds as attributes, the gradients of
its parameters and the state of the random generators.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.export import ExportedProgram

from pyrel.compiler.capture.calls import Call
from pyrel.compiler.capture.examples import unwrapped
from pyrel.compiler.capture.forks import one_thread_if_forked
from pyrel.compiler.capture.isolation import as_it_was, silent
from pyrel.compiler.capture.model_state import ModelState
from pyrel.compiler.capture.outputs import Output, chosen
from pyrel.compiler.capture.sizes import first_input, fixed
from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.check_inputs import SAMPLES
from pyrel.engine.given_inputs import (
    Doubles,
    Finish,
    GivenInputs,
    doubles_of,
    of_one,
    of_several,
)


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
    call : Call, optional
        How it is called with several inputs, whose elements are the rows of a batch.
    """

    def __init__(
        self,
        model: torch.nn.Module | ExportedProgram,
        lengths: bool,
        output: Output = None,
        call: Call | None = None,
    ) -> None:
        self.exported = isinstance(model, ExportedProgram)
        self.samples = SAMPLES
        self.call = call
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
            given = self._given(x, ids, finish is not None, dtype or self.dtype)
            with given.seen or contextlib.nullcontext():
                positional, named = given.arguments
                returned = module(*positional, **named)
                scores = chosen(returned, self._output).reshape(len(x), -1)
            if finish is None:
                return Answer(doubles_of(scores), None)
            score = scores[torch.arange(len(x)), torch.from_numpy(targets)].sum()
            return Answer(doubles_of(scores), given.map(score, finish))

    def _given(
        self, x: Float32s | Doubles, ids: bool, watched: bool, dtype: torch.dtype
    ) -> GivenInputs:
        """Return a batch as the model takes it; ``watched`` where gradients are wanted of it."""
        batch = torch.from_numpy(x.copy()).to(self.device)
        if self.call is not None:
            return of_several(batch, self.call, watched, dtype, self._lengths)
        return of_one(batch, ids, watched, dtype, self._lengths)

    def is_float(self, x: Float32s, ids: bool) -> npt.NDArray[np.bool_]:
        """Which elements of a batch are floats; broadcasts to it."""
        if self.call is None:
            return np.full(1, not ids)
        return self.call.layout.of_size(x.shape[1]).is_float

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
