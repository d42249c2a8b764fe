# SPDX-License-Identifier: Apache-2.0
"""`explain`: a batch explained in one call, and what is kept for the next."""

from __future__ import annotations

import hashlib
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from pyrel import methods
from pyrel.compiler.capture.capture import Capture
from pyrel.engine import config as runtime
from pyrel.engine.arrays import Array
from pyrel.explainer import Explainer, Model, captured
from pyrel.explanation import Explanation

_KEPT_EXPLAINERS = 8  # of a module: enough for its methods, few where bounds differ by call


@dataclass(eq=False)
class _Kept:
    """What is kept of a module: what was captured, and explainers made of it, by options."""

    key: tuple[Any, ...]
    capture: Capture
    explainers: dict[tuple[Any, ...], Explainer] = field(default_factory=dict)


_kept: weakref.WeakKeyDictionary[torch.nn.Module, _Kept] = weakref.WeakKeyDictionary()


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

    What was captured and compiled is kept for the next call with the same module, as long as its
    weights and the shape of a sample stay the same (but for the number of steps, where the model
    takes any). Weights are compared by their contents, so a change made in any way is noticed; a
    change of other attributes (a number of steps, say) is not: make an `Explainer` then.

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
    if not isinstance(x, np.ndarray | torch.Tensor):
        raise TypeError(f"x: wanted an array or a tensor, got {type(x).__name__}")
    options["lengths"] = lengths is not None
    if not isinstance(model, torch.nn.Module):
        return Explainer(model, x, method, **options)(x, target, lengths=lengths)
    kept = _keep(model, x, options["lengths"])
    plain = all(isinstance(v, int | float | str | None) for v in options.values())
    if not plain or not isinstance(method, str):
        return Explainer(kept.capture, x, method, **options)(x, target, lengths=lengths)
    key = (method, runtime.isa(), *sorted(options.items()))
    explainer = kept.explainers.pop(key, None)
    if explainer is None:
        explainer = Explainer(kept.capture, x, method, **options)
    kept.explainers[key] = explainer  # the latest used comes last
    if len(kept.explainers) > _KEPT_EXPLAINERS:
        del kept.explainers[next(iter(kept.explainers))]
    return explainer(x, target, lengths=lengths)


def _keep(model: torch.nn.Module, x: Array, lengths: bool) -> _Kept:
    shape = tuple(getattr(x, "shape", ()))
    integers = str(x.dtype).removeprefix("torch.").startswith(("int", "uint"))
    key = (len(shape), shape[2:], integers, lengths, _fingerprint(model))
    kept = _kept.get(model)
    if kept is None or kept.key != key or not _holds(kept.capture, shape):
        capture = captured(model, x, lengths)
        assert isinstance(capture, Capture)
        kept = _kept[model] = _Kept(key, capture)
    return kept


def _holds(capture: Capture, shape: tuple[int, ...]) -> bool:
    return len(shape) < 2 or capture.holds(shape[1])


def _fingerprint(model: torch.nn.Module) -> bytes:
    """Digest of names, shapes and contents of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        values = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.digest()
