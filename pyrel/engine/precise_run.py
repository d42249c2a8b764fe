# SPDX-License-Identifier: Apache-2.0
"""Decides in float64 whether rounding explains that a program and its model differ."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable

import numpy as np
import torch

from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.model_copies import Rounded, default_double, doubled
from pyrel.engine.model_run import Answer, Doubles, Finish, ModelRun

# Where a ReLU or a maximum lies within rounding of its kink, each draw is on the other side with
# probability ½; all of these are on one side once in 2^15.
_DRAWS = 16


class NoCopyError(Exception):
    """The model can neither be copied and run in float64 nor as it is."""


class PreciseRun:
    """A copy of a model in float64, made when it is first needed.

    A model that holds to a type of its own, as one that calls ``float()``, is copied as it is.

    Parameters
    ----------
    model : ModelRun
    ids : bool
        Whether inputs are token ids.
    """

    def __init__(self, model: ModelRun, ids: bool) -> None:
        self._model, self._ids = model, ids
        self._copy: torch.nn.Module | None = None
        self._dtype = torch.float64

    def exact(self, x: Float32s, targets: Int64s, finish: Finish | None) -> Answer:
        """Run the copy.

        Raises
        ------
        NoCopyError
        """
        if self._copy is not None:
            return self._run(self._copy, x, targets, finish)
        reasons = []
        for make, dtype in ((doubled, torch.float64), (copy.deepcopy, self._model.dtype)):
            self._dtype = dtype
            try:
                module = make(self._model.module)
                answer = self._run(module, x, targets, finish)
            except Exception as error:  # of whatever type the model raises
                line = str(error).partition("\n")[0]
                reasons.append(f"{type(error).__name__}: {line}")
                continue
            self._copy = module
            return answer
        raise NoCopyError(reasons[0])

    def moves(
        self,
        x: Float32s,
        targets: Int64s,
        finish: Finish | None,
        part: Callable[[Answer], Doubles],
        exact: Doubles,
        roundoff: float,
    ) -> Doubles:
        """Find how far rounding of parameters and inputs moves a part of the answer.

        ``roundoff`` is the largest relative error of one rounding in the program.

        Returns
        -------
        ndarray, shape (n, 1, ...)
            The largest move of any element of each sample.
        """
        assert self._copy is not None
        rounded = Rounded(self._copy, roundoff)
        axes = tuple(range(1, exact.ndim))
        moves = np.zeros((len(exact), *(1,) * (exact.ndim - 1)))
        try:
            for _ in range(_DRAWS):
                rounded.move()
                moved = x if self._ids else rounded.moved(x)
                found = part(self._run(self._copy, moved, targets, finish))
                moves = np.fmax(moves, np.abs(found - exact).max(axis=axes, keepdims=True))
        finally:
            rounded.restore()
        return moves

    def _run(
        self, module: torch.nn.Module, x: Float32s | Doubles, targets: Int64s, finish: Finish | None
    ) -> Answer:
        exact = self._dtype == torch.float64
        with default_double() if exact else contextlib.nullcontext():
            return self._model(x, self._ids, targets, finish, module, self._dtype)
