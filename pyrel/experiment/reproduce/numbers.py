# SPDX-License-Identifier: Apache-2.0
"""Means over seeds with their intervals, and tables of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Quantiles 0.975 of Student's t distribution for 1, 2, ... degrees of freedom.
_STUDENT = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)
_NORMAL = 1.960


@dataclass(frozen=True)
class Interval:
    """A mean over runs that differ in their seed, with its 95 % confidence interval.

    Attributes
    ----------
    mean : float
        NaN if no run has a value.
    half : float
        Half of the interval's width, by Student's t; NaN for less than two runs.
    runs : int
        Those that have a value.
    """

    mean: float
    half: float
    runs: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Interval:
        """Return the interval of some runs; None or NaN is of one without the value, left out.

        So is the share of relevance of a network whose maps are all empty.

        Raises
        ------
        ValueError
            There is no run.

        Examples
        --------
        >>> from pyrel.experiment.reproduce.numbers import Interval
        >>> str(Interval.of([0.70, 0.72, 0.74]))
        '0.720 ± 0.050'
        """
        if not len(values):
            raise ValueError("values: wanted one at least, given none")
        known = [value for value in values if value is not None and not math.isnan(value)]
        count, mean = len(known), float(np.mean(known)) if known else math.nan
        if count < 2:
            return cls(mean, math.nan, count)
        quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else _NORMAL
        return cls(mean, quantile * float(np.std(known, ddof=1)) / math.sqrt(count), count)

    @classmethod
    def of_differences(
        cls, after: Sequence[float | None], before: Sequence[float | None]
    ) -> Interval:
        """Return the interval of after − before, paired by seed; as of `of`, None is left out.

        Raises
        ------
        ValueError
            There is none, or they are not equally many.

        Examples
        --------
        >>> from pyrel.experiment.reproduce.numbers import Interval
        >>> str(Interval.of_differences([0.72, 0.74], [0.70, 0.72]))
        '0.020 ± 0.000'
        """
        pairs = zip(after, before, strict=True)
        return cls.of([None if a is None or b is None else a - b for a, b in pairs])

    def __str__(self) -> str:
        """Return mean ± half width, the mean alone for one run, a dash for none."""
        if not self.runs:
            return "–"
        return f"{self.mean:.3f}" if math.isnan(self.half) else f"{self.mean:.3f} ± {self.half:.3f}"

    def difference(self, above: str, below: str) -> str:
        """Return it as a difference, with one of two words where the interval does not hold 0.

        "open" where it does; no word for a single run.
        """
        if not self.runs:
            return "–"
        text = f"{self.mean:+.3f}"
        if self.runs < 2:
            return text
        clear = abs(self.mean) > self.half
        said = (above if self.mean > 0 else below) if clear else "open"
        return f"{text} ± {self.half:.3f}, {said}"

    def verdict(self) -> str:
        """Say whether a claim that it is above 0 holds: "open" where the interval holds 0.

        A single run has no interval, and decides nothing.

        Examples
        --------
        >>> from pyrel.experiment.reproduce.numbers import Interval
        >>> Interval.of([0.70, 0.72, 0.74]).verdict()
        'holds'
        """
        if not abs(self.mean) > self.half:  # NaN, too
            return "open"
        return "holds" if self.mean > 0 else "does not hold"

    def percent(self) -> str:
        """Return it as percentages."""
        if not self.runs:
            return "–"
        if math.isnan(self.half):
            return f"{100 * self.mean:.2f} %"
        return f"{100 * self.mean:.2f} ± {100 * self.half:.2f} %"


def by_seed(counts: Sequence[int]) -> str:
    """Return counts seed by seed, one 0 where there are none.

    Examples
    --------
    >>> from pyrel.experiment.reproduce.numbers import by_seed
    >>> by_seed([0, 0, 0]), by_seed([7, 7, 0])
    ('0', '7, 7, 0')
    """
    return ", ".join(map(str, counts)) if any(counts) else "0"


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a Markdown table.

    Examples
    --------
    >>> from pyrel.experiment.reproduce.numbers import table
    >>> print(table(["cell", "accuracy"], [["Deep", "98 %"]]))
    | cell | accuracy |
    |---|---|
    | Deep | 98 % |
    """
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(
        "|" + "|".join(str(c) if c == "---" else f" {c} " for c in line) + "|" for line in lines
    )
