# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest
from metrics.erasing import EPS, score_of, small_model, sorted_regions, without

from pyrel import metrics

SHAPE = (5, 4)
STEPS = metrics.step_regions(SHAPE)


@pytest.fixture
def case():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(6, *SHAPE))
    return small_model(20), x, rng.normal(size=x.shape), rng.integers(0, 3, 6)


@pytest.mark.parametrize("fractions", [(0.01, 0.05, 0.1, 0.2, 0.5), (0.6,), (1.0,)])
@pytest.mark.parametrize(
    ("measure", "score", "keep"),
    [
        (metrics.comprehensiveness, "probability", False),
        (metrics.sufficiency, "probability", True),
        (metrics.log_odds, "log_odds", False),
    ],
    ids=["comprehensiveness", "sufficiency", "log-odds"],
)
def test_against_one_sample_and_fraction_at_a_time(case, measure, score, keep, fractions):
    forward, x, relevance, target = case
    how = metrics.Perturbation(STEPS, replacement=0.0)
    found = measure(forward, x, relevance, target, how=how, fractions=fractions)
    for i, sample in enumerate(x):
        in_order = sorted_regions(relevance[i], STEPS)
        before = score_of(forward(sample[None])[0], target[i], score)
        falls = []
        for fraction in fractions:
            count = math.ceil(fraction * STEPS.count)
            replaced = in_order[count:] if keep else in_order[:count]
            copy = without(sample, STEPS, replaced, 0.0)
            falls.append(before - score_of(forward(copy[None])[0], target[i], score))
        np.testing.assert_allclose(found[i], np.mean(falls), rtol=0, atol=2000 * EPS)


def test_all_of_a_sample_is_sufficient(case):
    forward, x, relevance, target = case
    how = metrics.Perturbation(STEPS, replacement=0.0)
    found = metrics.sufficiency(forward, x, relevance, target, how=how, fractions=[1.0])
    np.testing.assert_allclose(found, 0.0, atol=200 * EPS)


def test_empty_maps_are_left_out(case):
    forward, x, relevance, target = case
    relevance[3] = 0.0
    how = metrics.Perturbation(STEPS, replacement=0.0)
    for measure in (metrics.comprehensiveness, metrics.sufficiency, metrics.log_odds):
        found = measure(forward, x, relevance, target, how=how)
        assert np.flatnonzero(np.isnan(found)).tolist() == [3]


@pytest.mark.parametrize("fractions", [(), (0.0,), (1.5,), (np.nan,)])
def test_bad_fractions_are_named(case, fractions):
    forward, x, relevance, target = case
    how = metrics.Perturbation(STEPS, replacement=0.0)
    with pytest.raises(ValueError, match="fractions: wanted numbers"):
        metrics.comprehensiveness(forward, x, relevance, target, how=how, fractions=fractions)


def test_bad_input_is_named(case):
    forward, x, relevance, target = case
    how = metrics.Perturbation(STEPS, replacement=0.0)
    with pytest.raises(ValueError, match="relevance: wanted 6 samples as in x, given 5"):
        metrics.sufficiency(forward, x, relevance[:5], target, how=how)
    with pytest.raises(ValueError, match="x: NaN or infinity in sample 0"):
        metrics.sufficiency(forward, x * np.nan, relevance, target, how=how)
