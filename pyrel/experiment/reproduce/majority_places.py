# SPDX-License-Identifier: Apache-2.0
"""How much of the relevance lies in the majority, by place of the odd digit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyrel.experiment.reproduce.majority_claims import Runs
from pyrel.experiment.reproduce.majority_runs import METHODS
from pyrel.experiment.reproduce.numbers import Interval, table
from pyrel.report import words

_PLACES = ("first", "in the middle", "last")
_HEAD = """Share of the relevance in the majority, by place of the odd digit: first / in the
middle / last. A mean over all samples hides a method that gives most to the steps read last."""

Places = Mapping[str, Mapping[str, Sequence[Interval | None]]]


def shares_by_place(runs: Runs) -> Places:
    """Return cell or baseline -> method -> share by place, over seeds.

    None stands for a place without samples, as there may be among few.

    Parameters
    ----------
    runs
        Cell -> numbers of its runs, seed by seed.
    """
    found = {
        cell: {m: _intervals([run["methods"][m] for run in of]) for m in METHODS}
        for cell, of in runs.items()
    }
    baselines = next(iter(runs.values()))[0]["baselines"]
    for name, of in sorted(baselines.items()):
        found[words.label(name)] = dict.fromkeys(METHODS, _intervals([of]))
    return found


def places_section(places: Places) -> str:
    """Return what `shares_by_place` are, and their table."""
    return f"{_HEAD}\n\n{places_table(places)}"


def places_table(places: Places) -> str:
    """Return a table of `shares_by_place`, and the half of the widest interval of each method."""
    rows = [
        [cell, *(" / ".join("–" if i is None else f"{i.mean:.3f}" for i in of[m]) for m in METHODS)]
        for cell, of in places.items()
    ]
    halves = [
        [i.half for of in places.values() for i in of[m] if i is not None and i.half >= 0]
        for m in METHODS
    ]
    rows.append(["± at most", *(f"{max(half):.3f}" if half else "–" for half in halves)])
    return table(["", *map(words.label, METHODS)], rows)


def places_in_json(places: Places) -> dict[str, Any]:
    """Return `shares_by_place` as JSON can hold it."""
    return {
        cell: {m: {place: i and vars(i) for place, i in zip(_PLACES, each, strict=True)}
               for m, each in of.items()}
        for cell, of in places.items()
    }  # fmt: skip


def _intervals(measured: Sequence[Mapping[str, Any]]) -> list[Interval | None]:
    by_seed = [_of_run(of["steps"]) for of in measured]
    found: list[Interval | None] = []
    for place in range(len(_PLACES)):
        shares = [of[place] for of in by_seed if place in of]
        found.append(Interval.of(shares) if len(shares) == len(by_seed) else None)
    return found


def _of_run(profiles: Sequence[Mapping[str, Any]]) -> dict[int, float]:
    """Return place of the odd digit -> share in the others, of the profiles with samples."""
    found = {}
    for profile in profiles:
        relevant = profile["relevant"]
        place = relevant.index(False) * len(_PLACES) // len(relevant)
        shares = zip(profile["mean"], relevant, strict=True)
        if profile["samples"]:
            found[place] = sum(share for share, wanted in shares if wanted)
    return found
