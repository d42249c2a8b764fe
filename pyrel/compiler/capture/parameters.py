# SPDX-License-Identifier: Apache-2.0
"""Parameters of a model at the time of its capture, and constants computed from them.

Every array is made once: the steps of a recurrence, and the graphs that are made of one model, then
share their weights, and comparing these costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

import torch

from pyrel.compiler.graph.nodes import Floats
from pyrel.compiler.graph.weight_ids import WeightIds

T = TypeVar("T")

_NARROW = (torch.float32, torch.float16, torch.bfloat16)


class Weights:
    """Copies of parameters, their arrays, and results of operations on them.

    Parameters
    ----------
    copied : bool
        False where no parameter changes as long as this, and the arrays that it makes, are used.
    """

    def __init__(self, copied: bool = True) -> None:
        self._own = copied
        self._copies: dict[Hashable, torch.Tensor] = {}
        self._copied: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._made: dict[Hashable, tuple[Any, Any]] = {}
        self.ids = WeightIds()

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return a parameter as it was the first time, wherever it may lie by now."""
        if id(tensor) not in self._copied:
            key = _place(tensor)
            if key not in self._copies:
                self._copies[key] = tensor.detach().to("cpu", copy=self._own)
            self._copied[id(tensor)] = tensor, self._copies[key]
        return self._copied[id(tensor)][1]

    def array(self, tensor: torch.Tensor) -> Floats:
        """Return a tensor as float64, the same array for the same memory."""
        return self.made(("array", *_place(tensor)), lambda: doubles(tensor), tensor)

    def matrix(self, tensor: torch.Tensor) -> Floats:
        """Return weights as they are stored: in float32 if that holds them, else in float64.

        The same array for the same memory, without a copy where this one holds that already. What
        is computed of them must be computed in float64.
        """
        return self.made(("matrix", *_place(tensor)), lambda: stored(tensor), tensor)

    def are_finite(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor holds neither NaN nor infinity; looked at once for the same memory."""
        return self.made(("finite", *_place(tensor)), lambda: _are_finite(tensor), tensor)

    def made(self, key: Hashable, make: Callable[[], T], *sources: object) -> T:
        """Return what ``make`` gave for this key the first time.

        A key may hold places in memory and ids of ``sources``, which are kept so that they stay
        theirs.
        """
        if key not in self._made:
            self._made[key] = make(), sources
        result: T = self._made[key][0]
        return result

    def call(self, target: Callable[..., T], args: Any, kwargs: Any) -> T:
        """Call a pure function of constants; the result must not be changed afterwards."""
        return self.made(
            ("call", target, _identity(args), _identity(kwargs)),
            lambda: target(*args, **kwargs),
            args,
            kwargs,
        )


def doubles(tensor: torch.Tensor) -> Floats:
    """Copy the values of a tensor as float64."""
    copied: Floats = tensor.detach().cpu().to(torch.float64, copy=True).numpy()
    return copied


def stored(tensor: torch.Tensor) -> Floats:
    """Return the values of a tensor in float32 if that holds them, else in float64.

    Without a copy where the tensor holds them so.
    """
    exact = torch.float32 if tensor.dtype in _NARROW else torch.float64
    values: Floats = tensor.detach().cpu().to(exact).resolve_neg().numpy()
    return values


def _are_finite(tensor: torch.Tensor) -> bool:
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(end.isfinite()) for end in torch.aminmax(tensor.detach()))


def _place(tensor: torch.Tensor) -> tuple[Hashable, ...]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride(), tensor.dtype, tensor.device


def _identity(value: Any) -> Hashable:
    if isinstance(value, torch.Tensor):
        return "tensor", id(value)
    if isinstance(value, dict):
        return tuple((k, _identity(v)) for k, v in value.items())
    if isinstance(value, list | tuple):
        return tuple(_identity(v) for v in value)
    return type(value), value
