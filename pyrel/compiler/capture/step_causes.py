# SPDX-License-Identifier: Apache-2.0
"""Finds the operation that fixes the number of steps, or refuses a certain one.

torch.export keeps the number of steps open until the model reads it, and records what the model
requires of it as a guard. `Causes` records where in the model that was, too.
"""

from __future__ import annotations

import contextlib
import math
import re
import sys
from collections.abc import Iterator
from typing import Any

import sympy  # type: ignore[import-untyped]
from torch import nn
from torch.fx.experimental import symbolic_shapes

from pyrel.compiler.capture.places import Place, paths_of, place_of_error, place_of_frames, stack

_BATCHES = (2, 3, 5)  # some guards are about a batch as large as something else, by accident
_LOOPS = frozenset({"unbind", "__iter__"})
_RANGE = re.compile(r"\brange\(")


class FixedBatchError(Exception):
    """The size of the batch, which was to be open, was made a number."""


class Causes:
    """The conditions that a model sets on sizes, and their places."""

    def __init__(self) -> None:
        self._guards: list[tuple[Any, Place]] = []
        self._failure: str | None = None
        self.batch: Place | None = None  # where a number is made of the size of the batch

    @contextlib.contextmanager
    def noted(self, model: nn.Module, batch: int) -> Iterator[None]:
        """Record the guards of an export, and where it fails if it does.

        Raises
        ------
        FixedBatchError
            At once where ``batch``, the size of a batch which was to be open, is made a number.
            torch.export would run the rest of the model before it says so.
        """
        self._guards.clear()
        fixed: list[bool] = []
        paths = paths_of(model)
        namespace = vars(symbolic_shapes)
        made = namespace["ShapeGuard"]

        def noting(expression: Any, *args: Any, **kwargs: Any) -> Any:
            place = place_of_frames(stack(sys._getframe(1)), paths)
            self._guards.append((expression, place or Place()))
            if _is_number(expression, batch):
                fixed.append(True)
                raise FixedBatchError
            return made(expression, *args, **kwargs)

        namespace["ShapeGuard"] = noting
        try:
            yield
            if fixed:  # and the model took the error
                raise FixedBatchError
        except FixedBatchError:
            raise
        except Exception as error:
            place, line = place_of_error(error, paths), str(error).strip().partition("\n")[0]
            self._failure = f"{_described(place)}; left open: {type(error).__name__}: {line}"
            raise
        finally:
            namespace["ShapeGuard"] = made

    def keep_batch(self, size: int) -> None:
        """Keep where the size of the batch, which was to be open, was made a number."""
        found = (place for expression, place in self._guards if _fixes(expression, size))
        self.batch = next(found, None)

    def first_use(self, size: Any) -> Place | None:
        """Return where an open size was first read, alone; None if it never was."""
        symbols = size.node.expr.free_symbols
        found = (p for e, p in self._guards if getattr(e, "free_symbols", None) == symbols)
        return next(found, None)

    def fixing(self, steps: int) -> str | None:
        """Say what made the number of steps that of the example; None if that is not known."""
        for expression, place in self._guards:
            if _fixes(expression, steps):
                return _described(place)
        return self._failure

    def refusing(self, size: Any, steps: int) -> str | None:
        """Say what does not hold for a number of steps.

        Parameters
        ----------
        size : torch.SymInt
            The number of steps as the export knew it.
        steps : int
        """
        symbol = size.node.expr
        for expression, place in self._guards:
            if symbol not in getattr(expression, "free_symbols", ()):
                continue
            if all(_holds(expression, {symbol: steps}, n) is False for n in _BATCHES):
                asked = str(expression.subs(symbol, sympy.Symbol("T")))
                for name, word in (("Eq(", "equal("), ("Ne(", "unequal(")):
                    asked = asked.replace(name, word)
                return f"{_described(place)}: it asks for {asked}"
        return None


def _holds(expression: Any, sizes: dict[Any, int], batch: int) -> bool | None:
    """Whether a guard holds for sizes, the batch being of another; None if that is not known."""
    others = {symbol: batch for symbol in expression.free_symbols - sizes.keys()}
    try:
        value = expression.subs({**sizes, **others})
        return bool(value) if value in (sympy.true, sympy.false) else None
    except (TypeError, ValueError, ArithmeticError, AttributeError):
        return None


def _is_number(expression: Any, size: int) -> bool:
    """Whether a guard says that an open size is a number."""
    sides = set(getattr(expression, "args", ()))
    return isinstance(expression, sympy.Eq) and size in sides and any(s.is_Symbol for s in sides)


def _fixes(expression: Any, steps: int) -> bool:
    """Whether a guard holds for one number of steps and for none near it."""
    for symbol in getattr(expression, "free_symbols", ()):
        near = {math.floor(steps * factor) for factor in (0.5, 2, 3)} | {steps - 1, steps + 1}
        if _holds(expression, {symbol: steps}, 2) is True and not any(
            _holds(expression, {symbol: other}, 2) for other in near - {steps}
        ):
            return True
    return False


def _described(place: Place) -> str:
    """Say what happens at a place that needs the number of steps."""
    code = place.code
    if place.function in _LOOPS or code.startswith("for ") or _RANGE.search(code):
        what = "a Python loop over the steps"
    elif place.function == "__getitem__":
        what = "indexing"
    elif place.function and not place.function.startswith("__"):
        what = place.function.strip("_")
    else:
        what = "the number of steps, used as a number of Python's,"
    return f"{what} {place}"
