# SPDX-License-Identifier: Apache-2.0
"""How much a program or a model from a file may take, whatever the file says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy.typing as npt

from pyrel.methods.options import number

_LARGEST_TOLD = 10**18  # a number may have thousands of digits


@dataclass(frozen=True)
class Limits:
    """What reading a file, and then using what it holds, may take at most.

    Files are safe to read from strangers: a small file that would take much time or memory is
    refused. The limits leave room for models of usual size; give larger ones for a file that you
    trust, and that is refused for its size.

    Attributes
    ----------
    entries : int
        Values in the description of a file: numbers, texts, lists.
    text : int
        Bytes of that description.
    tensors : int
    instructions : int
        Of a program or a pattern, those in loops once.
    inputs, outputs : int
        Elements of one sample, and scores.
    memory : int
        Floats of working memory for one sample.
    packed : int
        Bytes of the matrices as the engine packs them, beyond twice those of the file.
    steps : int
        Of a cell in a model's file.
    rows : int
        Places in memory that a pattern names for each step.
    all_rows : int
        Those that it names for all steps of a call; each takes about 200 bytes for a moment. So
        the steps of a call are limited, some 100,000 for a small model, which are not where the
        explainer was compiled here.
    first_rows : int
        Those that it names for its fewest steps, which are written out when the file is read.
    values : int
        Live-range classes of a pattern's values, which are placed in memory one by one.
    lookups : int
        Scattered elements that are looked up where they are moved.
    work : float
        Multiply-adds, and floats that are moved, for one sample.

    Examples
    --------
    >>> generous = pyrel.Limits().times(10)  # pyrel.Explainer.load("file", limits=generous)
    >>> generous.steps // pyrel.Limits().steps
    10
    """

    entries: int = 1 << 18
    text: int = 1 << 24
    tensors: int = 1 << 13
    instructions: int = 1 << 14
    inputs: int = 1 << 23
    outputs: int = 1 << 20
    memory: int = 1 << 28
    packed: int = 1 << 27
    steps: int = 1 << 10
    rows: int = 1 << 15
    all_rows: int = 1 << 23
    first_rows: int = 1 << 19
    values: int = 1 << 12
    lookups: int = 1 << 22
    work: float = 2.0**42

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises
        ------
        TypeError, ValueError
            One is no number above 0; the message names it.
        """
        for name in (f.name for f in fields(self)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{name}: wanted a number, got {type(value).__name__}")
            if not value > 0:
                raise ValueError(f"{name}: wanted a number above 0, got {value}")

    def times(self, factor: float) -> Self:
        """Return limits that are so many times as large; ``math.inf`` sets none.

        Raises
        ------
        TypeError, ValueError
            The factor is no number above 0.
        """
        factor = number("factor", factor, "a number above 0")
        if not factor > 0:
            raise ValueError(f"factor: wanted a number above 0, got {factor}")
        larger = {f.name: getattr(self, f.name) * factor for f in fields(self)}
        whole = {n: int(v) if n != "work" and math.isfinite(v) else v for n, v in larger.items()}
        return type(self)(**whole)

    def of_program(self) -> dict[str, Any]:
        """Return those that the engine checks while a program is built, as it takes them."""
        wanted = {"looked_up": self.lookups, "work": self.work}
        return {f"most_{n}": v for n, v in wanted.items() if math.isfinite(v)}

    def packed_bytes(self, matrices: Sequence[npt.NDArray[Any]]) -> int | None:
        """Return how many bytes these matrices may take as they are packed; None for any."""
        packed = self.packed + 2 * sum(matrix.nbytes for matrix in matrices)
        return packed if math.isfinite(packed) else None

    def check(self, name: str, value: int, what: str) -> None:
        """Refuse what is more than a limit.

        Raises
        ------
        ValueError
            The message says what, how much and what the limit is called.
        """
        limit = getattr(self, name)
        if value > limit:
            told = f"{value:,}" if value < _LARGEST_TOLD else f"more than {_LARGEST_TOLD:,}"
            raise ValueError(f"it has {told} {what}, more than limits.{name}, {limit:,}")

    def check_shape(self, name: str, shape: Sequence[int], what: str) -> None:
        """Refuse an array, of a shape of any numbers above 0, with more elements than a limit.

        Raises
        ------
        ValueError
            As of `check`.
        """
        limit, size = getattr(self, name), 1
        for extent in shape:
            self.check(name, extent, what)
            size *= extent
            if size > limit:  # the product of all could take long
                break
        self.check(name, size, f"or more {what}" if size > limit else what)


NO_LIMITS = Limits().times(math.inf)
