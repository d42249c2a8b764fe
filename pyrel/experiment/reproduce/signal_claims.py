# SPDX-License-Identifier: Apache-2.0
"""What the seminar on PatternNet says of its figures 4 and 5, held against the runs by rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pyrel.experiment.reproduce.numbers import Interval, table
from pyrel.experiment.reproduce.runs import Kept
from pyrel.experiment.reproduce.signal_runs import RANDOM

_HEAD = """## What the source says, and what comes out

Each line is a difference, paired by seed, with its 95 % interval: it "holds" where the interval is
above 0, "does not hold" where it is below, and is open where it holds 0. {count} differences are
looked at: of those that are none, about one in 20 leaves 0 by chance. The source says it of VGG16
on ImageNet."""

Claim = tuple[str, str, Interval]  # what is said, of what the difference is, and the difference


def claims_section(nets: Sequence[Kept]) -> str:
    """Return the table of the claims."""
    claims = [*_of_quality(nets), *_of_degradation(nets)]
    rows = [
        [said, f"{of}: {found.difference('more', 'less')}", found.verdict()]
        for said, of, found in claims
    ]
    head = _HEAD.format(count=len(claims))
    return f"{head}\n\n{table(['the source says', 'difference', 'here'], rows)}"


def _of_quality(nets: Sequence[Kept]) -> list[Claim]:
    """Figure 4: ρ(S), the mean over layers where no layer is named."""
    layers: list[list[Mapping[str, Any]]] = [net.numbers["quality"] for net in nets]

    def mean(estimator: str, chosen: Callable[[str], bool]) -> list[float]:
        return [
            float(np.mean([one["values"][estimator] for one in net if chosen(one["module"])]))
            for net in layers
        ]

    def ahead(said: str, one: str, other: str, where: str, chosen: Callable[[str], bool]) -> Claim:
        difference = Interval.of_differences(mean(one, chosen), mean(other, chosen))
        return said, f"ρ of {_SIGNS[one]} − {_SIGNS[other]}, {where}", difference

    first, *deeper = [one["module"] for one in layers[0] if one["module"].startswith("conv")]
    falls = Interval.of_differences(
        mean("filter", lambda name: name == first), mean("filter", lambda name: name in deeper)
    )
    return [
        ahead("S_random is the worst", "filter", "random", "all layers", _everywhere),
        ("S_w is worse in deeper layers", "ρ of S_w, first − other convolutions", falls),
        ahead("S_a is better than S_w", "linear", "filter", "all layers", _everywhere),
        ahead("S_a+− is better than S_w", "two_component", "filter", "all layers", _everywhere),
        ahead("S_a is ahead of S_a+− in fully connected layers", "linear", "two_component",
              "dense and output", lambda name: not name.startswith("conv")),
        ahead("S_a+− is the best over all", "two_component", "linear", "all layers", _everywhere),
    ]  # fmt: skip


def _of_degradation(nets: Sequence[Kept]) -> list[Claim]:
    """Figure 5: area below the curve, of which less is better."""

    def smaller(said: str, one: str, other: str) -> Claim:
        areas = (
            [net.numbers["degradation"]["area"][_curve(name)] for net in nets]
            for name in (other, one)
        )
        return said, f"area of {other} − {one}", Interval.of_differences(*areas)

    best, random = "S_a+−", RANDOM
    return [
        *(smaller("S_a+− finds the most relevant patches best", best, other)
          for other in ("S_x", "S_w", "S_a")),
        *(smaller("S_a is the worst of the estimators", other, "S_a") for other in ("S_x", "S_w")),
        smaller("S_x is better than S_w", "S_x", "S_w"),
        *(smaller("all are better than random order", one, random)
          for one in ("S_x", "S_w", "S_a", best)),
    ]  # fmt: skip


_SIGNS = {"filter": "S_w", "random": "S_random", "linear": "S_a", "two_component": "S_a+−"}


def _everywhere(_: str) -> bool:
    return True


def _curve(name: str) -> str:
    return name if name == RANDOM else f"attribution {name}"
