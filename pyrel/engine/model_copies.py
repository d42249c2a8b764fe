# SPDX-License-Identifier: Apache-2.0
"""Copies of a model in float64, exact and with parameters that are rounded at random.

What a program and its model may differ by is what rounding does to either. So parameters are moved
by up to what rounding does to the sums that they are in, and the result of each operator by up to
what rounding does to it: folding may compute one value of the model for each place that reads it,
and each is rounded on its own.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from pyrel.engine.arrays import Float32s
from pyrel.engine.given_inputs import Doubles
from pyrel.engine.rounding import LEAST, Roundoff


def doubled(module: torch.nn.Module) -> torch.nn.Module:
    """Copy a module, with all its tensors in float64; the module itself is not touched."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for value in vars(part).values():
            # Tensors that were computed, as weights by weight_norm are, cannot be copied by copy.
            if isinstance(value, Tensor) and not value.is_leaf:
                memo[id(value)] = value.detach().clone()
    other = copy.deepcopy(module, memo).double()
    for tensor in (*other.parameters(), *other.buffers()):
        tensor.data = _wide(tensor.data)
    for part in other.modules():
        for name, value in list(vars(part).items()):
            vars(part)[name] = _double(value)
    return other


def _wide(tensor: Tensor) -> Tensor:
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def _double(value: Any) -> Any:
    """Return what a module holds as a plain attribute, with its tensors in float64."""
    if isinstance(value, Tensor) and not isinstance(value, torch.nn.Parameter):
        return _wide(value)
    if type(value) in (list, tuple):
        return type(value)(map(_double, value))
    if type(value) is dict and not any(
        isinstance(each, torch.nn.Module | torch.nn.Parameter) for each in value.values()
    ):
        return {key: _double(each) for key, each in value.items()}
    return value


@contextlib.contextmanager
def default_double() -> Iterator[None]:
    """Let what forward makes without a type be of float64."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


# What chooses among numbers does not round them; and where its gradient goes, autograd finds by
# comparing its result with them.
_CHOOSE = frozenset(
    f"aten::{name}" for name in "amax amin aminmax max min maximum minimum cummax cummin".split()
)


class RoundedResults(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Moves what each operator of torch computes at random, of forward and of autograd.

    Parameters
    ----------
    roundoff : Roundoff
    seed : int
    """

    def __init__(self, roundoff: Roundoff, seed: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._size = roundoff.of_sum(1)
        self._random = torch.Generator().manual_seed(seed)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call an operator, and move its results where they are new."""
        results = func(*args, **(kwargs or {}))
        if func._schema.name in _CHOOSE:
            return results
        several = results if isinstance(results, tuple | list) else (results,)
        for each, returned in zip(several, func._schema.returns, strict=False):
            if returned.alias_info is None and isinstance(each, Tensor):
                self._move(each)
        return results

    def _move(self, result: Tensor) -> None:
        if result.dtype != torch.float64 or not result.numel() or 0 in result.stride():
            return
        drawn = torch.empty(result.shape, dtype=torch.float64)
        moves = self._size * drawn.uniform_(-1, 1, generator=self._random).to(result.device)
        # Whole numbers are exact in float32, and may be compared or made indices.
        result.mul_(1 + moves * (result != result.round()))


class Rounded:
    """Moves the parameters of a copy at random, each time anew, by what rounding may do.

    Parameters
    ----------
    module : torch.nn.Module
        In float64.
    roundoff : Roundoff
    """

    def __init__(self, module: torch.nn.Module, roundoff: Roundoff) -> None:
        named = [*module.parameters(), *module.buffers()]
        self._tensors = [each for each in named if each.is_floating_point()]
        self._exact = [each.detach().clone() for each in self._tensors]
        self._roundoff = roundoff
        self._random = np.random.default_rng(1)

    def move(self) -> None:
        """Put other parameters in place."""
        with torch.no_grad():
            for each, exact in zip(self._tensors, self._exact, strict=True):
                terms = int(np.prod(exact.shape[1:], dtype=np.int64)) + 1
                factors, shifts = map(torch.from_numpy, self._drawn(tuple(exact.shape), terms))
                each.copy_(exact * factors.to(exact.device) + shifts.to(exact.device))

    def restore(self) -> None:
        """Put the exact parameters back."""
        with torch.no_grad():
            for each, exact in zip(self._tensors, self._exact, strict=True):
                each.copy_(exact)

    def moved(self, x: Float32s) -> Doubles:
        """Return an input whose values are moved so, too."""
        factors, shifts = self._drawn(x.shape, 1)
        return np.asarray(x * factors + shifts)

    def _drawn(self, shape: tuple[int, ...], terms: int) -> tuple[Doubles, Doubles]:
        """Draw what rounding multiplies by, and adds to numbers too small for float32."""
        factors = 1 + self._roundoff.of_sum(terms) * self._random.uniform(-1, 1, shape)
        return np.asarray(factors), np.asarray(LEAST * self._random.uniform(-1, 1, shape))
