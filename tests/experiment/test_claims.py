# SPDX-License-Identifier: Apache-2.0
"""What the thesis says is decided by differences over seeds: runs made up for each verdict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from pyrel.experiment.reproduce import (
    Settings,
    majority_claims,
    sequence_claims,
    signal_claims,
)
from pyrel.experiment.reproduce.claims import Claim, claims_section
from pyrel.experiment.reproduce.majority_page import left_out
from pyrel.experiment.reproduce.majority_places import places_table, shares_by_place
from pyrel.experiment.reproduce.majority_runs import METHODS
from pyrel.experiment.reproduce.numbers import Interval
from pyrel.experiment.reproduce.runs import Kept
from pyrel.experiment.reproduce.sequence_page import page

ABOVE = Interval.of([0.10, 0.11, 0.12])
BELOW = Interval.of([-0.10, -0.11, -0.12])
UNCLEAR = Interval.of([0.1, -0.1, 0.0])
NOISE = (0.0, 0.001, -0.001)  # of three seeds, the same for all: differences have none


@pytest.mark.parametrize(
    ("measured", "verdict"),
    [
        ([ABOVE, ABOVE], "holds"),
        ([ABOVE, UNCLEAR], "open"),
        ([UNCLEAR, BELOW, ABOVE], "does not hold"),
        ([Interval.of([0.1])], "open"),  # one seed has no interval
    ],
)
def test_a_claim_is_as_good_as_its_worst_difference(
    measured: Sequence[Interval], verdict: str
) -> None:
    claim = Claim("", "", {str(i): one for i, one in enumerate(measured)})
    assert claim.verdict() == claim.in_json()["here"] == verdict


def test_a_section_counts_differences_of_all_claims() -> None:
    claims = {"mnist": [Claim("it rises", "4.5", {"a": ABOVE, "b": UNCLEAR})],
              "fashion-mnist": [Claim("it rises", "4.5", {"a": BELOW})]}  # fmt: skip
    text = claims_section(claims, "Compared are shares.", "thesis")
    assert "The table has 3 differences" in text
    assert "(0.2) would leave 0 by chance" in text
    half = "0.0248"  # 4.303·0.01/√3
    rows = text.splitlines()[-2:]
    assert rows[0] == (
        f"| mnist | it rises (4.5) | a: +0.1100 ± {half}; b: +0.0000 ± 0.2484 | open |"
    )


def _profile(odd: int, mean: Sequence[float]) -> dict[str, Any]:
    return {"relevant": [place != odd for place in range(3)], "samples": 10, "mean": [*mean]}


def _cell(shares: dict[str, float], accuracy: float, left: int = 0) -> list[dict[str, Any]]:
    """Return runs of three seeds, with the same shares whatever the odd digit's place is."""
    steps = [_profile(odd, [0.5 * (place != odd) for place in range(3)]) for odd in range(3)]
    return [
        {
            "accuracy": accuracy + noise,
            "methods": {
                m: {"share": {"mean": shares.get(m, 0.7) + noise, "left_out": left}, "steps": steps}
                for m in METHODS
            },
            "baselines": {"uniform": {"steps": steps}},
        }
        for noise in NOISE
    ]


def _cells() -> dict[str, list[dict[str, Any]]]:
    rising = dict(zip(("Shallow", "Deep", "DeepV2", "ConvDeep"), (0.6, 0.7, 0.8, 0.9), strict=True))
    return {
        cell: _cell({"sensitivity": share, "guided_backprop": 1 - share}, share)
        for cell, share in rising.items()
    }


def test_claims_of_the_majority_experiment() -> None:
    """Sensitivity rises with depth, guided backprop falls, deep Taylor does neither."""
    cells = _cells()
    for seed, run in enumerate(cells["DeepV2"]):
        run["methods"]["deep_taylor"]["share"]["mean"] += (0.01, -0.01, 0.0)[seed]
    found = {c.says: c.verdict() for c in majority_claims.claims("mnist", cells)}
    assert found == {
        "Sensitivity: more with each further layer": "holds",
        "Guided backprop: more with each further layer": "does not hold",
        "Deep Taylor: more with each further layer": "open",
        "Sensitivity: most with ConvDeep": "holds",
        "Guided backprop: most with ConvDeep": "does not hold",
        "Deep Taylor: most with ConvDeep": "open",
        "Sensitivity gains more from depth than guided backprop": "holds",
        "Deep Taylor gains more from depth than guided backprop": "holds",  # which loses
        "Accuracy in the order ConvDeep, Deep, Shallow, DeepV2": "does not hold",
    }


def test_most_with_convolutions_is_compared_with_every_cell() -> None:
    """As with guided backprop on MNIST: more than in DeepV2, and less than in Shallow."""
    cells = _cells()
    for run in cells["Shallow"]:
        run["methods"]["sensitivity"]["share"]["mean"] = 0.99
    most = {c.says: c for c in majority_claims.claims("mnist", cells)}[
        "Sensitivity: most with ConvDeep"
    ]
    assert most.measured["ConvDeep − DeepV2"].verdict() == "holds"
    assert most.verdict() == "does not hold"


def test_shares_by_place_of_the_odd_digit() -> None:
    cells = _cells()
    late = [_profile(odd, [0.0, 0.1, 0.9]) for odd in range(3)]
    for run in cells["Shallow"]:
        run["methods"]["deep_taylor"]["steps"] = late[::-1]
        run["methods"]["sensitivity"]["steps"] = late[:2]  # no sample has it in the last place
    places = shares_by_place(cells)
    assert [i and i.mean for i in places["Shallow"]["sensitivity"]] == [1.0, 0.9, None]
    assert "| 1.000 / 0.900 / 0.100 |" in places_table(places)
    assert "| Uniform map | 1.000 / 1.000 / 1.000 |" in places_table(places)


def test_samples_left_out_are_counted_by_seed() -> None:
    cells = _cells()
    assert left_out(cells) == "None is left out."
    for seed, run in enumerate(cells["Deep"]):
        run["methods"]["deep_taylor"]["share"]["left_out"] = (158, 0, 7)[seed]
    assert "Deep Taylor left out, by seed: Shallow 0; Deep 158, 0, 7; DeepV2 0" in left_out(cells)


def _sequence(steps: int, profiles: Mapping[str, Sequence[float]], left: int = 0) -> dict[str, Any]:
    """Return a run whose pixels stand in the middle step."""
    middle = np.eye(steps)[steps // 2].tolist()
    shares = {
        m: {"mean": [*profiles.get(m, middle)], "samples": 9, "left out": left}
        for m in ("sensitivity", "guided_backprop", "deep_taylor")
    }
    mass = {"mean": middle, "samples": 9 + left, "left out": 0}
    return {"accuracy": 0.99, "epochs": 1, "shares": shares, "pixel mass": mass}


def test_claims_of_the_sequence_experiment() -> None:
    """Deep Taylor of Shallow is late; guided backprop is, too; 90 % are reached by one of two."""
    late = {m: [0, 0, 0, 0.1, 0, 0, 0.9] for m in ("deep_taylor", "guided_backprop")}
    early = {m: [0, 0, 0, 0.2, 0, 0, 0.8] for m in ("deep_taylor", "guided_backprop")}
    more = {m: [0, 0, 0, 0.05, 0, 0, 0.95] for m in ("deep_taylor", "guided_backprop")}
    shallow = [_sequence(7, of) for of in (late, early, more)]
    deep = [_sequence(7, {}) for _ in range(3)]
    runs = {("Shallow", 1): [], ("Deep", 1): [], ("Shallow", 7): shallow, ("Deep", 7): deep}
    found = {c.says: c for c in sequence_claims.claims("mnist", runs)}
    assert {says: claim.verdict() for says, claim in found.items()} == {
        "Deep Taylor, Shallow-7: over 90 % in the last 3 steps": "open",
        "Deep Taylor, Shallow: mainly in the last steps": "holds",
        "Deep Taylor: Deep like the data, Shallow not": "holds",
        "Sensitivity: Shallow and Deep alike, in contrast to deep Taylor": "holds",
        "Guided backprop: Shallow and Deep alike, in contrast to deep Taylor": "open",
    }
    swapped = {**runs, ("Shallow", 7): deep, ("Deep", 7): shallow}
    verdicts = [claim.verdict() for claim in sequence_claims.claims("mnist", swapped)]
    assert verdicts == ["does not hold", "open", "does not hold", "holds", "open"]


def test_the_page_of_sequences_counts_what_its_table_shows() -> None:
    """Samples left out are those of the row, by seed; not of the first cell and seed."""
    arrays = {m: np.ones((8, 28, 28), np.float16)
              for m in ("x", "sensitivity", "guided_backprop", "deep_taylor")}  # fmt: skip
    results = {
        f"mnist-mini-{cell}-{steps}-seed-{seed}": Kept(
            {}, _sequence(steps, {}, left), arrays, 1.0, {"processor": "Z80"}
        )
        for cell, of_seeds in (("Shallow", (3, 0)), ("Deep", (0, 0)))
        for steps in (1, 7)
        for seed, left in enumerate(of_seeds)
    }
    text = page(results, ["mnist-mini"], Settings(2, quick=True)).text
    rows = {tuple(row.split(" | ")[:2]): row.split(" | ")[-1] for row in text.splitlines()}
    assert rows["| Shallow-7", "deep Taylor"] == "3, 0 |"
    assert rows["| Deep-7", "deep Taylor"] == "0 |"
    assert "over 12 test samples" in text


def test_what_the_seminar_says_of_its_estimators() -> None:
    """The area of a worse map is larger, ρ of a better estimator is; conv_1 is the first layer."""

    def net(shift: float) -> Kept:
        rho = {"random": 0.0, "filter": 0.1, "linear": 0.9, "two_component": 0.5}
        quality = [
            {"module": name, "values": {key: value * deeper + shift for key, value in rho.items()}}
            for name, deeper in (("conv_1", 1.0), ("conv_2", 0.9), ("output", 0.9))
        ]
        areas = {"S_x": 0.5, "S_w": 0.6, "S_a": 0.55, "S_a+−": 0.5 + shift}
        area = {f"attribution {name}": value for name, value in areas.items()}
        numbers = {"quality": quality, "degradation": {"area": area | {"random order": 0.7}}}
        return Kept({}, numbers, {}, 1.0, {})

    found = signal_claims.claims([net(0.01), net(-0.02), net(0.01)])
    assert {claim.says: claim.verdict() for claim in found} == {
        "S_w is better than S_random": "holds",
        "S_w is worse in deeper layers": "holds",
        "S_a is much better than these": "holds",
        "S_a+− is much better than these": "holds",
        "S_a is ahead of S_a+− in fully connected layers": "holds",
        "S_a+− is the best over all": "does not hold",
        "S_a+− finds the most relevant patches best": "open",
        "S_a is the worst of the estimators": "does not hold",
        "S_x is better than S_w": "holds",
        "All are better than random order": "holds",
    }
    quality = {claim.says: claim.measured for claim in found}
    falls = quality["S_w is worse in deeper layers"]["conv_1 − other convolutions"]
    assert falls.mean == pytest.approx(0.1 - 0.09)
