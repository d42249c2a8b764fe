# SPDX-License-Identifier: Apache-2.0
"""What the thesis says of experiment 1 (section 4.4), as differences of shares by step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.experiment.reproduce.claims import Claim
from pyrel.experiment.reproduce.numbers import Interval

LAST = 3  # steps that the thesis's "more than 90 %" is about
_MUCH = 0.9
CRITERIA = """Compared are shares of the relevance by step, of the class whose evidence stands in
the middle (class 1, trouser). Late: mean step of the relevance less that of the pixel mass. A
distance between two profiles is ½ Σ|difference| over the steps, 0 for equal and 1 for disjoint
ones. Nearer, which is how "like the data" is decided: distance of Shallow from the pixel mass less
that of Deep. Contrast: distance of Shallow from Deep with deep Taylor less that with the other
method."""

Runs = Mapping[tuple[str, int], Sequence[Mapping[str, Any]]]
_Floats = npt.NDArray[np.float64]


def claims(dataset: str, runs: Runs) -> list[Claim]:
    """Return what can be decided by the numbers of steps that there are.

    Parameters
    ----------
    dataset
    runs
        (Cell, T) -> numbers of its runs, seed by seed. T = 1 decides nothing.
    """
    lengths = sorted({steps for _, steps in runs if steps > 1})
    longest = lengths[-1]
    heatmaps = "4.8" if dataset == "fashion-mnist" else "4.7"
    last = profiles(runs["Shallow", longest], "deep_taylor")[:, -LAST:].sum(axis=1)
    return [
        Claim(
            f"Deep Taylor, Shallow-{longest}: over 90 % in the last {LAST} steps",
            "4.4.2, figure 4.10",
            {f"share − {_MUCH}": Interval.of((last - _MUCH).tolist())},
        ),
        Claim(
            "Deep Taylor, Shallow: mainly in the last steps",
            f"4.4.2, figure {heatmaps}",
            {f"late, T = {steps}": _late(runs["Shallow", steps]) for steps in lengths},
        ),
        Claim(
            "Deep Taylor: Deep like the data, Shallow not",
            f"4.4.2, figures {heatmaps}, 4.9 and 4.10",
            {
                f"nearer, T = {steps}": Interval.of_differences(
                    *(_from_pixel_mass(runs[cell, steps]) for cell in ("Shallow", "Deep"))
                )
                for steps in lengths
            },
        ),
        *(_alike(runs, lengths, *method, heatmaps)
          for method in (("sensitivity", "Sensitivity"), ("guided_backprop", "Guided backprop"))),
    ]  # fmt: skip


def profiles(runs: Sequence[Mapping[str, Any]], method: str) -> _Floats:
    """Return what a method gives to each step: (seeds, T)."""
    return np.array([run["shares"][method]["mean"] for run in runs])


def distances(profile: _Floats, other: _Floats) -> _Floats:
    """Return ½ Σ|difference| over the steps, by seed."""
    found: _Floats = np.abs(profile - other).sum(axis=-1) / 2
    return found


def between_cells(
    shallow: Sequence[Mapping[str, Any]], deep: Sequence[Mapping[str, Any]], method: str
) -> list[float]:
    """Return the distance between what a method gives to each step in two cells, by seed."""
    found: list[float] = distances(profiles(shallow, method), profiles(deep, method)).tolist()
    return found


def _alike(runs: Runs, lengths: Sequence[int], method: str, label: str, figure: str) -> Claim:
    """Return the claim that a method does not see the cell, as deep Taylor does."""
    measured = {}
    for steps in lengths:
        of_methods = (
            between_cells(runs["Shallow", steps], runs["Deep", steps], m)
            for m in ("deep_taylor", method)
        )
        measured[f"contrast, T = {steps}"] = Interval.of_differences(*of_methods)
    says = f"{label}: Shallow and Deep alike, in contrast to deep Taylor"
    return Claim(says, f"4.4.2, 4.4.3, figure {figure}", measured)


def _from_pixel_mass(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    found: list[float] = distances(profiles(runs, "deep_taylor"), _pixel_mass(runs)).tolist()
    return found


def _late(runs: Sequence[Mapping[str, Any]]) -> Interval:
    more = profiles(runs, "deep_taylor") - _pixel_mass(runs)
    return Interval.of((more @ np.arange(1, more.shape[1] + 1)).tolist())


def _pixel_mass(runs: Sequence[Mapping[str, Any]]) -> _Floats:
    return np.array([run["pixel mass"]["mean"] for run in runs])
