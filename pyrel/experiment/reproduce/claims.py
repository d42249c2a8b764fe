# SPDX-License-Identifier: Apache-2.0
"""What a source says in words, decided by differences over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pyrel.experiment.reproduce.numbers import Interval, table


@dataclass(frozen=True)
class Claim:
    """A statement of a source and what decides it.

    Attributes
    ----------
    says : str
        The statement, in short.
    place : str
        Section, table or figure of the source.
    measured : dict of Interval
        By what is compared: differences, paired by seed, each above 0 where the statement is right.
    """

    says: str
    place: str
    measured: Mapping[str, Interval]

    def verdict(self) -> str:
        """Return the first of "does not hold" and "open" that a difference has, else "holds".

        Examples
        --------
        >>> from pyrel.experiment.reproduce.claims import Claim
        >>> from pyrel.experiment.reproduce.numbers import Interval
        >>> more, unclear = Interval.of([0.1, 0.11]), Interval.of([0.1, -0.1])
        >>> Claim("", "", {"a": more}).verdict(), Claim("", "", {"a": more, "b": unclear}).verdict()
        ('holds', 'open')
        """
        found = {interval.verdict() for interval in self.measured.values()}
        return next((word for word in ("does not hold", "open") if word in found), "holds")

    def in_json(self) -> dict[str, Any]:
        """Return it as JSON can hold it."""
        measured = {name: vars(interval) for name, interval in self.measured.items()}
        return {**vars(self), "measured": measured, "here": self.verdict()}


_RULE = """Each difference is of runs of one seed, and above 0 where the {source} is right: its
mean over the seeds and its 95 % interval (Student's t). A claim holds if all its intervals are
above 0. It does not hold if one is below 0. Else it is open: an interval includes 0, or one seed
gives no interval."""


def claims_section(claims: Mapping[str, Sequence[Claim]], criteria: str, source: str) -> str:
    """Return the section of a page that decides claims, by data set.

    Parameters
    ----------
    claims
    criteria
        What the differences are taken of.
    source
        Which says it, such as "thesis".
    """
    every = [(dataset, claim) for dataset, of in claims.items() for claim in of]
    count = sum(len(claim.measured) for _, claim in every)
    rows = [
        [dataset, f"{claim.says} ({claim.place})",
         "; ".join(f"{what}: {_signed(one)}" for what, one in claim.measured.items()),
         claim.verdict()]
        for dataset, claim in every
    ]  # fmt: skip
    chance = (
        f"The table has {count} differences; if all were 0 in truth, about 5 % of them "
        f"({0.05 * count:.1f}) would leave 0 by chance. The verdicts follow from the numbers by "
        "this rule, and no setting of a training or a method was chosen by them."
    )
    return "\n\n".join(
        [
            f"## What the {source} says, and what comes out",
            _RULE.format(source=source),
            criteria,
            chance,
            table(["data", f"the {source} says", "measured", "here"], rows),
        ]
    )


def _signed(interval: Interval) -> str:
    half = "" if math.isnan(interval.half) else f" ± {interval.half:.4f}"
    return f"{interval.mean:+.4f}{half}"
