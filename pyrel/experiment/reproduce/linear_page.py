# SPDX-License-Identifier: Apache-2.0
"""The section of the page of `signal` on the linear model: figure 2 of the seminar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pyrel.experiment.linear_model import LinearModel, angle
from pyrel.experiment.reproduce.numbers import Interval, table
from pyrel.experiment.reproduce.signal_runs import COUNTS, DISTRACTORS

_LABELS = {
    "linear": "S_a",
    "two_component": "S_a+−",
    "filter": "S_w",
    "gradient": "gradient",
    "random": "random",
}
_WITHIN = 0.15  # of the first order

_TEXT = """## The linear model (figure 2)

x = a_s y + a_d ε with a_s = (1, 0), a_d = (1, 1), y uniform in [−1, 1], ε normal with deviation 1:
the signal is known. Angle between it and what an estimator takes for it, in degrees: root of the
mean square over {draws} draws of n samples, mean over seeds, and 95 % interval. First order: what
is expected of S_a for large n, s = σ_ε / (σ_y √n). Exact: what is expected for this n. The angle is
that of a_s + δ a_d to a_s, atan(δ / (1 + δ)) with a mean square of about s² (1 + 7 s²), and
δ = cov(ε, y) / var(y) is normal given y; by quadrature over δ and var(y)
(`LinearModel.moment_of_angle`). With n = {fewest} it is {above:.0f} % above the first order, so
that by sampling alone some seeds are more than {within:.0f} % off the latter. The seminar says that
S_a is perfect here, and that gradient and S_w depend on the distractor."""

_OTHERS = """Other distractors, n = {count:,}. Expected of gradient and S_w: the angle of the
direction across the distractor."""

Line = Mapping[str, Any]  # what a run of the linear model found


def linear_section(lines: Sequence[Line], draws: int) -> str:
    """Return the tables of the linear model: by samples, and by distractor."""
    model, within = LinearModel(), 100 * _WITHIN
    above = 100 * (_expected(model, COUNTS[0]) / model.first_order_angle(COUNTS[0]) - 1)
    labels = list(_LABELS.values())
    of_first = ["first order of S_a", "S_a over first order", f"seeds within {within:.0f} % of it"]
    return "\n\n".join(
        [
            _TEXT.format(draws=draws, fewest=COUNTS[0], above=above, within=within),
            table(["n", *of_first, "exact of S_a", "S_a over exact", *labels], _by_count(lines)),
            _OTHERS.format(count=COUNTS[1]),
            table(
                ["a_d", "expected of gradient, S_w", "exact of S_a", *labels],
                _by_distractor(lines),
            ),
            "![The linear model](signal/linear-model.svg)",
        ]
    )


def _by_count(lines: Sequence[Line]) -> list[list[object]]:
    model, rows = LinearModel(), []
    for count in COUNTS:
        of = [line["by count"][str(count)] for line in lines]
        first, exact = model.first_order_angle(count), _expected(model, count)
        over_first, over_exact = ([each["linear"] / to for each in of] for to in (first, exact))
        within = sum(abs(ratio - 1) <= _WITHIN for ratio in over_first)
        told = [_degrees(first), Interval.of(over_first), f"{within} of {len(lines)}"]
        told += [_degrees(exact), Interval.of(over_exact)]
        rows.append([f"{count:,}", *told, *_of_estimators(of)])
    return rows


def _by_distractor(lines: Sequence[Line]) -> list[list[object]]:
    rows = []
    for i, distractor in enumerate(DISTRACTORS):
        model = LinearModel(distractor=distractor)
        across = math.pi / 2 - angle(model.signal, distractor)
        told = [_degrees(across), _degrees(_expected(model, COUNTS[1]))]
        of = [line["by distractor"][str(i)] for line in lines]
        rows.append([f"({distractor[0]:g}, {distractor[1]:g})", *told, *_of_estimators(of)])
    return rows


def _of_estimators(of_seeds: Sequence[Mapping[str, float]]) -> list[Interval]:
    angles = ([each[name] for each in of_seeds] for name in _LABELS)
    return [Interval.of(np.degrees(each).tolist()) for each in angles]


def _expected(model: LinearModel, count: int) -> float:
    return math.sqrt(model.moment_of_angle(count))


def _degrees(radians: float) -> str:
    return f"{math.degrees(radians):.3f}"
