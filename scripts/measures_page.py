# SPDX-License-Identifier: Apache-2.0
"""The page of scripts/measure_methods.py: its tables, and what the columns are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrel.experiment.reproduce.numbers import table
from pyrel.metrics import Summary, paired_difference
from pyrel.report.words import label

RANDOM = "random order"
Found = Mapping[str, Mapping[str, Summary]]
Alike = Mapping[tuple[str, str], Summary]
# Within so many standard errors of the paired difference two methods are not told apart.
APART = 3.0

# Heading -> measure, in the order of the tables; what is better.
BY_MODEL = {
    "area, most relevant first ↓": "area",
    "area, least relevant first ↑": "area_least",
    "comprehensiveness ↑": "comprehensiveness",
    "sufficiency ↓": "sufficiency",
    "log-odds ↑": "log_odds",
    "noise ↓": "noise",
}
BY_MAP = {
    "share in the majority ↑": "mass",
    "rank accuracy ↑": "rank",
    "entropy": "entropy",
    "Gini index": "gini",
    "last quarter, less pixels'": "last",
    "centre, less pixels'": "centre",
}
BY_DIGIT = {
    "first digit": "digit 0",
    "second": "digit 1",
    "third": "digit 2",
    "share, odd digit first": "odd 0",
    "odd second": "odd 1",
    "odd third": "odd 2",
}
FIRST = {
    "empty tiles": "tiles empty",
    "of the ink": "tiles ink",
    "in the majority": "tiles majority",
}
RANDOMISED = {
    "ranks, output layer": "output ranks",
    "ranks, all layers": "all ranks",
    "cosine, output layer": "output cosine",
    "cosine, all layers": "all cosine",
}

HEAD = """# How methods rank by each measure

All methods on one cell and the same samples, by the measures of `pyrel.metrics`: what each is, and
where it comes from, is in [methods](../methods.md#numbers-that-judge-an-explanation). One model, so
± is the standard error over samples: another seed may order methods that lie close together
otherwise. Where maps of some samples are empty, the number of the others, which count, is in
brackets. Written by `scripts/measure_methods.py`."""
RANKS = """## Ranks

By each measure that has a better end, 1 is best. \\* marks the best and all that are not told apart
from it: the mean difference, sample by sample, is within {apart:g} of its standard errors, or the
means are printed alike."""
# Said of maps that are the same and of rows that are, where they are.
SAME = """{names} give the same maps, bit by bit."""
PRESETS = "The presets have other rules than LRP-ε at convolutions alone, and this cell has none."
GRADIENT = """Gradient × input has the rows of LRP-ε, too: in networks of ReLUs they differ by
what ε takes, which is too little to show in these means."""
MODEL = """## Measures that run the model

Tiles of {tile} × {tile} pixels are replaced by their mean. Area: mean probability of the class over
the curve of tiles replaced. Comprehensiveness and sufficiency: fall of the probability without, and
with only, the most relevant 1 to 50 % of the tiles. Log-odds: their fall without the most relevant
20 %. Noise: largest of {draws} relative changes of the map under noise of at most {radius:g} for
each pixel. ↑ higher, ↓ lower is better. Random order has an area of {random}."""
MAP = """## Measures of maps alone

Share and rank accuracy: of the relevance, and of the most relevant pixels, in the two majority
digits, with the background between the strokes; signed maps are measured by their positive part. An
even map has ⅔ of both. Pixels of equal relevance count in part, so that the rank accuracy of a map
that is 0 at most pixels is near ⅔ wherever the others lie. Entropy and Gini index tell how spread a
map is; neither is better. The last two tell where in the sequence it lies: share of the last {last}
of {steps} steps, and centre (0 first step, 1 last), both less those of the pixel mass."""
DIGIT = """## By place of the digit

What a digit gets of the relevance in the two majority digits, where it is one of them; pixel mass
is the evidence. Then the share in the majority by place of the odd digit: a method that leans to
the end of the sequence has its largest share where the odd digit comes first."""
TILES = """## What the first {count} tiles are

Of the tiles that a map names first: fraction that is empty, and so its own mean; fraction of the
sample's ink; fraction in the majority digits."""
WEIGHTS = """## After weights are randomised

Rank correlation of the sizes of relevance, and cosine of the maps, before and after the output
layer, and all layers from the output down, have the weights of an untrained cell. Near 0 where a
map depends on what the model has learned. A map that multiplies by the input is 0 at empty pixels
whatever the weights are, which keeps its ranks alike: there the cosine says more. Deep Taylor
starts from max(0, score), so that its map is empty where the score is not above 0."""
AGREEMENT = """## Agreement between methods

Rank correlation of maps, mean over the samples."""


def page(
    cost: str,
    settings: Mapping[str, Any],
    found: Found,
    alike: Alike,
    same: Sequence[Sequence[str]] = (),
) -> str:
    """Return the page as Markdown.

    Parameters
    ----------
    cost
        What was measured, by which command and for how long.
    settings
        What the texts name: tile, draws, radius, last, steps, count.
    found
        Measures by map; those of random order under `RANDOM`.
    alike
        Agreement of the methods' maps, as `pyrel.metrics.agreement` returns it.
    same
        Groups of methods whose maps are the same, as `groups` returns them.
    """
    random = found[RANDOM]["area"]
    parts = [HEAD, cost, RANKS.format(apart=APART), _ranks(found), *_alike(found, same)]
    texts = {
        MODEL: BY_MODEL, MAP: BY_MAP, DIGIT: BY_DIGIT, TILES: FIRST, WEIGHTS: RANDOMISED
    }  # fmt: skip
    for text, columns in texts.items():
        # A digit is in the majority of some samples only: other numbers there are no empty maps.
        parts += [text.format(random=random, **settings), _rows(found, columns, text != DIGIT)]
    return "\n\n".join([*parts, AGREEMENT, _agreement(alike)])


def groups(maps: Mapping[str, Any]) -> list[list[str]]:
    """Return the names of methods whose maps are the same, bit by bit."""
    found: list[list[str]] = []
    for name, each in maps.items():
        group = next((group for group in found if np.array_equal(maps[group[0]], each)), None)
        if group is None:
            found.append([name])
        else:
            group.append(name)
    return [group for group in found if len(group) > 1]


def _alike(found: Found, same: Sequence[Sequence[str]]) -> list[str]:
    """Say which rows are alike, and why where it is known."""
    told = []
    for group in same:
        names = [label(name) for name in group]
        told.append(SAME.format(names=f"{'; '.join(names[:-1])}; and {names[-1]}"))
        presets = [name for name in group if name.startswith("epsilon_")]
        if "lrp_epsilon" in group and len(presets) == len(group) - 1:
            told.append(PRESETS)
    of, other = found.get("lrp_epsilon"), found.get("gradient_x_input")
    if of and other and all(str(of[name]) == str(other[name]) for name in of):
        told.append(GRADIENT)
    return ["\n".join(told)] if told else []


def _ranks(found: Found) -> str:
    columns = {h: key for h, key in (BY_MODEL | BY_MAP).items() if h[-1] in "↑↓"}
    ranks = {h: _ranked(found, key, 1 if h[-1] == "↓" else -1) for h, key in columns.items()}
    rows = [
        [label(name), *(ranks[heading].get(name, "–") for heading in columns)]
        for name in found
        if name != RANDOM
    ]
    return table(["map", *columns], rows)


def _ranked(found: Found, measure: str, sign: int) -> dict[str, str]:
    """Return the place of each map by a measure; `sign` is -1 where higher is better."""
    given = {name: of[measure] for name, of in found.items() if measure in of and name != RANDOM}
    means = {name: sign * float(f"{each.mean:.3f}") for name, each in given.items()}
    best = min(means, key=lambda name: means[name])
    ranks = {}
    for name, each in given.items():
        apart = paired_difference(each, given[best])
        near = means[name] == means[best] or abs(apart.mean) <= APART * apart.standard_error
        place = 1 + sum(other < means[name] for other in means.values())
        ranks[name] = f"{place}\\*" if near else str(place)
    return ranks


def _rows(found: Found, columns: Mapping[str, str], counted: bool) -> str:
    rows = [
        [label(name), *(_number(of.get(measure), counted) for measure in columns.values())]
        for name, of in found.items()
        if any(measure in of for measure in columns.values()) and name != RANDOM
    ]
    return table(["map", *columns], rows)


def _number(of: Summary | None, counted: bool) -> str:
    if of is None:
        return "–"
    return f"{of} ({of.used})" if counted and of.left_out else str(of)


def _agreement(alike: Alike) -> str:
    names = list(dict.fromkeys(name for pair in alike for name in pair))
    rows = []
    for i, name in enumerate(names[1:], 1):
        found = [f"{alike[other, name].mean:+.2f}" for other in names[:i]]
        rows.append([label(name), *found, *[""] * (len(names) - 1 - i)])
    return table(["", *map(label, names[:-1])], rows)
