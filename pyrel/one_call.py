# SPDX-License-Identifier: Apache-2.0
"""`explain`: a batch explained in one call, and what is kept for the next."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch

from pyrel import methods
from pyrel.compiler.capture.examples import Given, refuse_empty, unwrapped
from pyrel.compiler.capture.forks import exporting
from pyrel.compiler.capture.identity import IncomparableError, state_of, state_of_options
from pyrel.compiler.capture.outputs import Output, checked_output
from pyrel.engine import captures
from pyrel.engine import config as runtime
from pyrel.engine.devices import checked_device
from pyrel.engine.prepare import Captured, Model
from pyrel.engine.progress import Told
from pyrel.engine.several import refuse_arrays
from pyrel.explainer import Explainer
from pyrel.explanation import Explanation
from pyrel.methods.options import single

_KEPT_EXPLAINERS = 8  # of a module: enough for its methods, few where bounds differ by call
_LOGGER = logging.getLogger("pyrel")


def explain(
    model: Model,
    x: Given,
    method: str | methods.Method = "deep_taylor",
    target: Any = None,
    *,
    lengths: Any = None,
    output: Output = None,
    progress: Told | None = None,
    device: str | torch.device | None = None,
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
    x : ndarray or Tensor, shape (n, ...), or tuple or dict of several
    method : str or Method
    target : int or integers of shape (n,), or of several dimensions, optional
    lengths : integers of shape (n,), optional
        How many steps each sequence has.
    output : str, int or callable, optional
        Which tensor of what the model returns is explained; see `Explainer`.
    progress, device : optional
        Told how far the call is, and what explains; see `Explainer.__call__` and `Explainer`.
    **options
        ``low``, ``high``, ``constant``, ``task``, ``out_of_range``, ``check_finite`` and the
        method's own, as `Explainer` takes them.

    Returns
    -------
    Explanation

    See Also
    --------
    Explainer : the same, compiled once for many calls.

    Examples
    --------
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> x = torch.rand(5, 3)
    >>> e = pyrel.explain(model, x, "lrp_epsilon", target=1)
    >>> e.relevance.shape, e.target
    (torch.Size([5, 3]), tensor([1, 1, 1, 1, 1]))
    >>> pyrel.explain(torch.nn.CosineSimilarity(), (x, x), "gradient").relevance[1].shape
    torch.Size([5, 3])
    """
    refuse_arrays("x", x)
    options = {name: single(value) for name, value in options.items()}
    options |= {"lengths": lengths is not None, "device": checked_device(device)}
    explainer = _explainer(model, x, single(method), checked_output(output), options)
    return explainer(x, target, lengths=lengths, progress=progress)


def _explainer(
    model: Model,
    x: Given,
    method: str | methods.Method,
    output: Output,
    options: dict[str, Any],
) -> Explainer:
    if not isinstance(model, torch.nn.Module):
        return Explainer(model, x, method, output=output, **options)
    model = unwrapped(model)
    asked = model, x, options["lengths"], output
    kept = captures.find(*asked)
    if kept is None:
        with exporting:
            refuse_empty(model)
            kept = captures.find(*asked) or captures.make(*asked)
            if kept is None:
                _tell_once(model, output)
                return Explainer(model, x, method, output=output, **options)
    return _explainer_of(kept, Captured(kept.capture, model, output), x, method, options)


def _explainer_of(
    kept: captures.Kept,
    source: Captured,
    x: Given,
    method: str | methods.Method,
    options: dict[str, Any],
) -> Explainer:
    """Return the explainer with these options, compiled if there is none."""
    try:
        asked = state_of_options((runtime.isa(), method, options))
    except IncomparableError:
        return Explainer(source, x, method, **options)
    with kept.lock:
        for number, (made_with, explainer) in enumerate(kept.explainers):
            if made_with.is_still(asked):
                kept.explainers.append(kept.explainers.pop(number))
                return cast(Explainer, explainer)
    explainer = Explainer(source, x, method, **options)
    with kept.lock:
        kept.explainers.append((asked, explainer))
        del kept.explainers[:-_KEPT_EXPLAINERS]
    return explainer


def _tell_once(model: torch.nn.Module, output: Output) -> None:
    if not captures.note_nothing(model):
        return
    try:
        state_of(model)
        state_of_options(output)
        reason = "it changes while it is looked at"
    except Exception as error:
        reason = str(error)
    _LOGGER.warning(
        "pyrel.explain cannot tell whether %s is still the model that it compiled (%s), and so "
        "compiles at each call. An Explainer compiles once",
        type(model).__name__,
        reason,
    )
