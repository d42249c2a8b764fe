# SPDX-License-Identifier: Apache-2.0
"""What `judge` keeps for the report: maps of all classes, outputs, degradation curves."""

from __future__ import annotations

import numpy as np
import pytest

import pyrel
from pyrel import metrics
from pyrel.experiment import Problem, TrainedCell, degradation_study, judge, new_cell
from pyrel.training import predict

METHODS = ("gradient_x_input", "deep_taylor")
PROBLEM = Problem.of("mnist-mini", "majority")


@pytest.fixture(scope="module")
def cell() -> TrainedCell:
    return TrainedCell("Shallow", new_cell("Shallow", PROBLEM).eval(), PROBLEM, 0.0, 1.0, {})


@pytest.fixture(scope="module")
def samples():
    return PROBLEM.samples(PROBLEM.images("test"), count=12)


@pytest.fixture(scope="module")
def study(cell, samples) -> metrics.Study:
    told = []
    made = judge(
        [cell], PROBLEM, samples, methods=METHODS, shown=2, degraded=5,
        progress=lambda what, done, total: told.append((done, total)),
    )  # fmt: skip
    assert told[-1] == (12 * 2 + 5 * 4, 12 * 2 + 5 * 4)
    return made


def test_shown_samples_have_maps_of_every_class(study, cell, samples) -> None:
    shown, result = study.shown, study.cells["Shallow"]
    np.testing.assert_allclose(result.outputs, predict(cell.model, shown.x), rtol=1e-4, atol=1e-5)
    for method, maps in result.heatmaps.items():
        assert maps.shape == (2, 10, *shown.x.shape[1:])
        for c in range(10):
            e = pyrel.explain(cell.model, shown.x, method, target=c, low=0.0, high=1.0)
            np.testing.assert_array_equal(maps[:, c], e.relevance)


def test_degradation_curves_are_those_of_a_degradation_study(study, cell, samples) -> None:
    x, y, _ = (part[:5] for part in samples)
    how = metrics.Perturbation(metrics.patch_regions(x.shape[1:], 7))
    wanted = degradation_study(cell.model, x, y, METHODS, how, removed=range(31))
    made = study.cells["Shallow"].degradation
    assert list(made.curves) == list(wanted.curves) == [*METHODS, "pixel_mass"]
    for curve, other in ((made.random, wanted.random), *zip(
        made.curves.values(), wanted.curves.values(), strict=True
    )):  # fmt: skip
        np.testing.assert_array_equal(curve.scores, other.scores)
        np.testing.assert_array_equal(curve.removed, np.arange(31))
    assert study.config["degradation curves"]["samples"] == 5


def test_curves_can_be_left_out_and_are_of_no_more_samples_than_there_are(cell, samples) -> None:
    without = judge([cell], PROBLEM, samples, methods=METHODS[:1], shown=1, degraded=0)
    assert without.cells["Shallow"].degradation is None
    assert "degradation curves" not in without.config
    made = judge([cell], PROBLEM, samples, methods=METHODS[:1], shown=1, degraded=99)
    assert len(made.cells["Shallow"].degradation.random.scores) == 12
    assert made.config["degradation curves"]["samples"] == 12
    with pytest.raises(ValueError, match="degraded: wanted 0 or more samples, given -1"):
        judge([cell], PROBLEM, samples, degraded=-1)
