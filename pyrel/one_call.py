# SPDX-License-Identifier: Apache-2.0
"""`explain`: a batch explained in one call, and what is kept for the next."""

from __future__ import annotations

import logging
import weakref
from dataclasses import dataclass, field
from typing import Any

import torch

from pyrel import methods
from pyrel.compiler.capture.array_kinds import refuse_unreadable
from pyrel.compiler.capture.capture import Capture
from pyrel.compiler.capture.export import refuse_empty, unwrapped
from pyrel.compiler.capture.forks import RenewedLock, exporting
from pyrel.compiler.capture.identity import IncomparableError, State, state_of, state_of_options
from pyrel.engine import config as runtime
from pyrel.engine.arrays import Array
from pyrel.engine.prepare import Captured, Model, captured
from pyrel.explainer import Explainer
from pyrel.explanation import Explanation
from pyrel.methods.options import single

_KEPT_EXPLAINERS = 8  # of a module: enough for its methods, few where bounds differ by call
_LOGGER = logging.getLogger("pyrel")


def explain(
    model: Model,
    x: Array,
    method: str | methods.Method = "deep_taylor",
    target: Any = None,
    *,
    lengths: Any = None,
    **options: Any,
) -> Explanation:
    """Explain a batch in one call.

    What was captured and compiled is kept for the next call with the same module, as long as the
    module and the shape of a sample stay the same (but for the number of steps, where the model
    takes any). All that a module computes with is compared at each call: its weights by their
    contents, attributes, hooks, sub-modules, functions and the globals that these name. Where
    something in it may change unseen, such as an open file or a generator, each call compiles
    anew; the logger ``pyrel`` says so once. An `Explainer` compares nothing.

    Parameters
    ----------
    model : torch.nn.Module, torch.export.ExportedProgram, Graph or Capture
    x : ndarray or Tensor of floats, or of integers if the model takes tokens, shape (n, ...)
    method : str or Method
    target : int or integers of shape (n,), optional
    lengths : integers of shape (n,), optional
        How many steps each sequence has; see `Explainer`.
    **options
        ``low``, ``high``, ``check_finite`` and the method's own, as `Explainer` takes them.

    Returns
    -------
    Explanation

    See Also
    --------
    Explainer : the same, compiled once for many calls.
    """
    refuse_unreadable("x", x)
    method = single(method)
    options = {name: single(value) for name, value in options.items()}
    options["lengths"] = lengths is not None
    if isinstance(model, torch.nn.Module):
        explainer = _explainer(unwrapped(model), x, method, options)
    else:
        explainer = Explainer(model, x, method, **options)
    return explainer(x, target, lengths=lengths)


@dataclass(eq=False)
class _Kept:
    """What is kept of a module: what was captured, and explainers made of it, the latest last."""

    state: State
    shape: tuple[Any, ...]
    capture: Capture
    explainers: list[tuple[State, Explainer]] = field(default_factory=list)
    lock: RenewedLock = field(default_factory=RenewedLock)

    def holds(self, state: State, shape: tuple[Any, ...], steps: int | None) -> bool:
        """Whether it is that of a module in a state, for samples of a shape."""
        same = self.shape == shape and self.state.is_still(state)
        return same and (steps is None or self.capture.holds(steps))

    def explainer(
        self, model: torch.nn.Module, x: Array, method: str | methods.Method, options: Any
    ) -> Explainer:
        """Return the explainer with these options, compiled if there is none."""
        source = Captured(self.capture, model)
        try:
            asked = state_of_options((runtime.isa(), method, options))
        except IncomparableError:
            return Explainer(source, x, method, **options)
        with self.lock:
            for number, (made_with, explainer) in enumerate(self.explainers):
                if made_with.is_still(asked):
                    self.explainers.append(self.explainers.pop(number))
                    return explainer
        explainer = Explainer(source, x, method, **options)
        with self.lock:
            self.explainers.append((asked, explainer))
            del self.explainers[:-_KEPT_EXPLAINERS]
        return explainer


# By id: modules may define equality, and then not be hashable.
_kept: dict[int, tuple[weakref.ref[torch.nn.Module], _Kept | None]] = {}


def _explainer(
    model: torch.nn.Module, x: Array, method: str | methods.Method, options: dict[str, Any]
) -> Explainer:
    shape = tuple(x.shape)
    integers = str(x.dtype).removeprefix("torch.").startswith(("int", "uint"))
    key = (len(shape), shape[2:], integers, options["lengths"])
    steps = shape[1] if len(shape) > 1 else None
    kept = _kept_of(model)
    # Another thread may be capturing the model, which changes it for that time: what is seen then
    # is no state of the model, and is not found.
    if kept is not None and kept.holds(_state(model) or State(), key, steps):
        return kept.explainer(model, x, method, options)
    with exporting:
        refuse_empty(model)
        state, kept = _state(model), _kept_of(model)
        if state is None:
            _tell_once(model)
            return Explainer(model, x, method, **options)
        if kept is None or not kept.holds(state, key, steps):
            capture = captured(model, x, options["lengths"])
            assert isinstance(capture, Capture)
            kept = _Kept(state, key, capture)
            after = _state(model)
            if after is not None and state.is_still(after):  # nobody changed it meanwhile
                _keep(model, kept)
    return kept.explainer(model, x, method, options)


def _kept_of(model: torch.nn.Module) -> _Kept | None:
    found = _kept.get(id(model))
    return found[1] if found is not None and found[0]() is model else None


def _keep(model: torch.nn.Module, kept: _Kept | None) -> None:
    number = id(model)

    def forget(gone: weakref.ref[torch.nn.Module]) -> None:
        found = _kept.get(number)
        if found is not None and found[0] is gone:
            del _kept[number]

    _kept[number] = weakref.ref(model, forget), kept


def _state(model: torch.nn.Module) -> State | None:
    try:
        return state_of(model)
    except IncomparableError:
        return None
    except Exception:  # of whatever type an object of the user's raises when it is looked at
        return None


def _tell_once(model: torch.nn.Module) -> None:
    found = _kept.get(id(model))
    if found is not None and found[0]() is model and found[1] is None:
        return
    _keep(model, None)
    try:
        state_of(model)
        reason = "it changes while it is looked at"
    except Exception as error:
        reason = str(error)
    _LOGGER.warning(
        "pyrel.explain cannot tell whether %s is still the model that it compiled (%s), and so "
        "compiles at each call. An Explainer compiles once",
        type(model).__name__,
        reason,
    )
