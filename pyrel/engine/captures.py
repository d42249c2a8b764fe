# SPDX-License-Identifier: Apache-2.0
"""Captures of modules, kept for the next method as long as a module stays as it is."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn.parameter import is_lazy

from pyrel.compiler.capture.capture import Capture
from pyrel.compiler.capture.examples import Given, refuse_given, unwrapped
from pyrel.compiler.capture.forks import RenewedLock, exporting, one_thread_if_forked
from pyrel.compiler.capture.identity import (
    IncomparableError,
    State,
    state_of,
    state_of_options,
)
from pyrel.compiler.capture.long_loops import capture_in_short
from pyrel.compiler.capture.outputs import Output
from pyrel.compiler.graph.layout import is_structure
from pyrel.compiler.program.generalise import TRIED

_MOST_KEPT = 4  # captures of a module, one for each output that is asked for
LARGEST = 1 << 26  # bytes of tensors: comparing and keeping more costs more than another capture


@dataclass(eq=False)
class Kept:
    """The capture of a module and the explainers made from it, the latest last.

    Attributes
    ----------
    state : State
        What the module was when it was captured.
    shape : tuple
        What has to be the same of an input: its dimensions, but for samples and steps.
    output : State
        Which tensor of what the module returns is explained.
    capture : Capture
    explainers : list of (State, explainer)
        By their options.
    lock : RenewedLock
        Held while ``explainers`` changes.
    """

    state: State
    shape: tuple[Any, ...]
    output: State
    capture: Capture
    explainers: list[tuple[State, Any]] = field(default_factory=list)
    lock: RenewedLock = field(default_factory=RenewedLock)

    def holds(self, state: State, x: Given, lengths: bool, output: State) -> bool:
        """Whether it is that of a module in a state, for samples of the shape of ``x``."""
        same = self.shape == _shape(x, lengths) and self.output.is_still(output)
        layout = self.capture.layout
        if layout is not None:
            same = same and is_structure(x) and layout.takes(x)
        if not (same and self.state.is_still(state)):
            return False
        if layout is not None:
            return not layout.steps or self.capture.holds(layout.steps_of(x))
        shape = tuple(getattr(x, "shape", ()))
        return len(shape) < 2 or self.capture.holds(shape[1])


# By id: modules may define equality, and then not be hashable.
_kept: dict[int, tuple[weakref.ref[torch.nn.Module], tuple[Kept, ...] | None]] = {}


def captured(
    model: torch.nn.Module, example: Given, lengths: bool, output: Output = None
) -> Capture:
    """Return the capture of a module; that which is kept, if it is still that of the module.

    Of a module with much to compare, or that cannot be compared, nothing is kept.
    """
    with exporting:  # torch.export is not safe to run in several threads
        inner = unwrapped(model)
        if of(inner) is not None:
            refuse_given(example)  # as a capture would: what is kept does not look at it
        readable = is_structure(example) or isinstance(example, np.ndarray | torch.Tensor)
        if readable and size_of(inner) <= LARGEST:
            given = inner, example, lengths, output
            kept = find(*given) or make(*given)
            if kept is not None:
                return kept.capture
        return capture_in_short(model, example, TRIED, lengths=lengths, at_once=True, output=output)


def find(model: torch.nn.Module, x: Given, lengths: bool, output: Output = None) -> Kept | None:
    """Return what is kept of a module, if it is as it was and the capture is for such inputs."""
    every = _every(model)
    if not every:
        return None
    # Another thread may be capturing the model, which changes it for that time: what is seen then
    # is no state of the model, and is not found.
    state, wanted = _state(model), _state_of_output(output)
    if state is None or wanted is None:
        return None
    return next((kept for kept in every if kept.holds(state, x, lengths, wanted)), None)


def make(model: torch.nn.Module, x: Given, lengths: bool, output: Output = None) -> Kept | None:
    """Capture a module, and keep that; None if a change of it might not be seen.

    The caller holds `exporting`.
    """
    state, wanted = _state(model), _state_of_output(output)
    if state is None or wanted is None:
        return None
    made = capture_in_short(model, x, TRIED, lengths=lengths, output=output)
    kept = Kept(state, _shape(x, lengths), wanted, made)
    after = _state(model)
    if after is not None and state.is_still(after):  # nobody changed it meanwhile
        others = [
            each
            for each in _every(model)
            if each.state.is_still(state) and not each.output.is_still(wanted)
        ]
        _keep(model, (*others[1 - _MOST_KEPT :], kept))
    return kept


def of(model: torch.nn.Module) -> Kept | None:
    """Return what was kept last of a module, whether or not it has changed."""
    return next(reversed(_every(model)), None)


def _every(model: torch.nn.Module) -> tuple[Kept, ...]:
    found = _kept.get(id(model))
    return (found[1] or ()) if found is not None and found[0]() is model else ()


def note_nothing(model: torch.nn.Module) -> bool:
    """Note that nothing can be kept of a module; False if that was noted before."""
    found = _kept.get(id(model))
    if found is not None and found[0]() is model and found[1] is None:
        return False
    _keep(model, None)
    return True


def _keep(model: torch.nn.Module, kept: tuple[Kept, ...] | None) -> None:
    """Keep captures as long as their module lives; None notes that there can be none."""
    number = id(model)

    def forget(gone: weakref.ref[torch.nn.Module]) -> None:
        found = _kept.get(number)
        if found is not None and found[0] is gone:
            del _kept[number]

    _kept[number] = weakref.ref(model, forget), kept


def _shape(x: Any, lengths: bool) -> tuple[Any, ...]:
    if is_structure(x):  # the layout of the capture says more
        return "several", lengths
    integers = str(x.dtype).removeprefix("torch.").startswith(("int", "uint"))
    return len(x.shape), tuple(x.shape[2:]), integers, lengths


def size_of(model: torch.nn.Module) -> int:
    """Return the bytes of a module's parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(each.numel() * each.element_size() for each in tensors if not is_lazy(each))


def _state(model: torch.nn.Module) -> State | None:
    try:
        with one_thread_if_forked():
            return state_of(model)
    except IncomparableError:
        return None
    except Exception:  # of whatever type an object of the user's raises when it is looked at
        return None


def _state_of_output(output: Output) -> State | None:
    """Write down which output is asked for; None of a function that may change unseen."""
    try:
        return state_of_options(output)
    except IncomparableError:
        return None
