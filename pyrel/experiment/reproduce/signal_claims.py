# SPDX-License-Identifier: Apache-2.0
"""What the seminar on PatternNet says of its figures 4 and 5, as differences of ρ(S) and areas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from pyrel.experiment.reproduce.claims import Claim
from pyrel.experiment.reproduce.numbers import Interval
from pyrel.experiment.reproduce.runs import Kept
from pyrel.experiment.reproduce.signal_runs import LABELS, RANDOM

CRITERIA = """Compared are ρ(S), as a mean over the units of a layer and over layers, and areas
below curves, of which less is better. The source says it of VGG16 on ImageNet."""

Where = Callable[[str], bool]


def claims(nets: Sequence[Kept]) -> list[Claim]:
    """Return what figures 4 and 5 are said to show."""
    return [*_of_quality(nets), *_of_degradation(nets)]


def _of_quality(nets: Sequence[Kept]) -> list[Claim]:
    layers: list[list[Mapping[str, Any]]] = [net.numbers["quality"] for net in nets]

    def mean(estimator: str, chosen: Where) -> list[float]:
        return [
            float(np.mean([one["values"][estimator] for one in net if chosen(one["module"])]))
            for net in layers
        ]

    def ahead(says: str, one: str, *others: str, chosen: Where = lambda _: True) -> Claim:
        measured = {
            f"{LABELS[one]} − {LABELS[other]}": Interval.of_differences(
                mean(one, chosen), mean(other, chosen)
            )
            for other in others
        }
        return Claim(says, "figure 4", measured)

    first, *deeper = [one["module"] for one in layers[0] if _is_convolution(one["module"])]
    falls = Interval.of_differences(
        mean("filter", lambda name: name == first), mean("filter", lambda name: name in deeper)
    )
    return [
        ahead("S_w is better than S_random", "filter", "random"),
        Claim("S_w is worse in deeper layers", "figure 4",
              {f"{first} − other convolutions": falls}),
        ahead("S_a is much better than these", "linear", "filter", "random"),
        ahead("S_a+− is much better than these", "two_component", "filter", "random"),
        ahead("S_a is ahead of S_a+− in fully connected layers", "linear", "two_component",
              chosen=lambda name: not _is_convolution(name)),
        ahead("S_a+− is the best over all", "two_component", "linear", "filter", "random"),
    ]  # fmt: skip


def _of_degradation(nets: Sequence[Kept]) -> list[Claim]:
    def area(name: str) -> list[float]:
        curve = name if name == RANDOM else f"attribution {name}"
        return [net.numbers["degradation"]["area"][curve] for net in nets]

    def smaller(says: str, pairs: Sequence[tuple[str, str]]) -> Claim:
        measured = {
            f"{worse} − {better}": Interval.of_differences(area(worse), area(better))
            for better, worse in pairs
        }
        return Claim(says, "figure 5", measured)

    best, others = "S_a+−", ("S_x", "S_w", "S_a")
    return [
        smaller("S_a+− finds the most relevant patches best", [(best, one) for one in others]),
        smaller("S_a is the worst of the estimators", [(one, "S_a") for one in ("S_x", "S_w")]),
        smaller("S_x is better than S_w", [("S_x", "S_w")]),
        smaller("All are better than random order", [(one, RANDOM) for one in (*others, best)]),
    ]


def _is_convolution(module: str) -> bool:
    return module.startswith("conv")
