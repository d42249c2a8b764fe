# SPDX-License-Identifier: Apache-2.0
"""The model that a program is compared with; in float64 where rounding may be why they differ."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from pyrel.engine.arrays import Float32s, Int64s
from pyrel.engine.captures import LARGEST, size_of
from pyrel.engine.checked import MODEL
from pyrel.engine.given_inputs import Doubles, Finish
from pyrel.engine.model_copies import Rounded, RoundedResults, default_double, doubled
from pyrel.engine.model_run import Answer, ModelRun
from pyrel.engine.rounding import Roundoff

# Where a ReLU or a maximum lies within rounding of its kink, each draw is on the other side with
# probability ½; all of these are on one side once in 2^15.
DRAWS = 16


class NoCopyError(Exception):
    """The model can neither be copied and run in float64 nor as it is."""


class Reference(Protocol):
    """The model, or another reference, that a program is compared with.

    Attributes
    ----------
    samples : int
        How many each batch has to have.
    name, gradient_name : str
        What it is, and where its gradients are from.
    """

    samples: int
    name: str
    gradient_name: str

    def ask_ahead(
        self, batches: Sequence[tuple[Float32s, Int64s | None]], finish: Finish | None
    ) -> None:
        """Prepare the answers for some batches, if memory is saved by that.

        Targets of None are the classes that the reference itself predicts.
        """

    def answer(self, x: Float32s, targets: Int64s, finish: Finish | None) -> Answer:
        """Return outputs and, with ``finish``, the map; as `ModelRun` does."""

    def exact(self, x: Float32s, targets: Int64s, finish: Finish | None) -> Answer:
        """Return the same in float64; NoCopyError if that cannot be had."""

    def moves(
        self,
        x: Float32s,
        targets: Int64s,
        finish: Finish | None,
        part: Callable[[Answer], Doubles],
        exact: Doubles,
        roundoff: Roundoff,
    ) -> Generator[Doubles]:
        """Find how far rounding moves a part of the answer, drawn at least `DRAWS` times.

        ``exact`` is what `exact` says of that part, ``roundoff`` that of the program.

        Yields
        ------
        ndarray, shape (n, 1, ...)
            The largest move of any element of each sample, so far.
        """


def largest_moves(exact: Doubles, found: Iterable[Doubles]) -> Iterator[Doubles]:
    """Yield how far any element of each sample moves at most so far, shape (n, 1, ...)."""
    axes = tuple(range(1, exact.ndim))
    moves = np.zeros((len(exact), *(1,) * (exact.ndim - 1)))
    for each in found:
        moves = np.fmax(moves, np.abs(each - exact).max(axis=axes, keepdims=True))
        yield moves


class ModelReference:
    """A model, and a copy of it in float64, made when it is first needed.

    A model that holds to a type of its own, as one that calls ``float()``, is copied as it is.

    Parameters
    ----------
    model : ModelRun
    ids : bool
        Whether inputs are token ids.
    """

    name = MODEL
    gradient_name = "torch's autograd"

    def __init__(self, model: ModelRun, ids: bool) -> None:
        self.samples = model.samples
        self._model, self._ids = model, ids
        self._copy: torch.nn.Module | None = None
        self._dtype = torch.float64
        self._ahead: list[tuple[Float32s, Int64s, Answer]] = []

    def ask_ahead(
        self, batches: Sequence[tuple[Float32s, Int64s | None]], finish: Finish | None
    ) -> None:
        """Run a large model now, while no engine holds its weights.

        A run copies what the model holds, to put it back.
        """
        if size_of(self._model.module) <= LARGEST:
            return
        for x, wanted in batches:
            # What cannot be answered now is asked again, and it is told why.
            with contextlib.suppress(Exception):
                targets = np.zeros(len(x), np.int64) if wanted is None else wanted
                if wanted is None and finish is not None:
                    targets = self.answer(x, targets, None).output.argmax(axis=1)
                self._ahead.append((x, targets, self.answer(x, targets, finish)))
        self._model.let_go()

    def answer(self, x: Float32s, targets: Int64s, finish: Finish | None) -> Answer:
        """Run the model itself, unless it did that ahead."""
        for number, (asked, chosen, _) in enumerate(self._ahead):
            same = finish is None or np.array_equal(chosen, targets)
            if same and asked.shape == x.shape and asked.tobytes() == x.tobytes():
                return self._ahead.pop(number)[2]
        return self._model(x, self._ids, targets, finish)

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
        roundoff: Roundoff,
    ) -> Generator[Doubles]:
        """Move parameters and inputs by what rounding may do to them; then also all results.

        The latter takes much longer.
        """
        assert self._copy is not None
        copied, rounded = self._copy, Rounded(self._copy, roundoff)

        def drawn() -> Doubles:
            rounded.move()
            moved = np.where(self._model.is_float(x, self._ids), rounded.moved(x), x)
            return part(self._run(copied, moved, targets, finish))

        def all_drawn() -> Iterator[Doubles]:
            for _ in range(DRAWS):
                yield drawn()
            for number in range(DRAWS):
                try:
                    with RoundedResults(roundoff, number):
                        answer = drawn()
                except Exception:  # of whatever type: not every model runs in a mode of dispatch
                    return
                yield answer

        try:
            yield from largest_moves(exact, all_drawn())
        finally:
            rounded.restore()

    def _run(
        self, module: torch.nn.Module, x: Float32s | Doubles, targets: Int64s, finish: Finish | None
    ) -> Answer:
        exact = self._dtype == torch.float64
        with default_double() if exact else contextlib.nullcontext():
            return self._model(x, self._ids, targets, finish, module, self._dtype)
