# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pyrel import metrics

EPS = np.finfo(np.float64).eps


def test_what_each_digit_gets_of_the_relevance_in_all_evidence():
    # Four steps, two digits of two; the second sample has evidence in its last digit alone.
    shares = np.array([[0.1, 0.1, 0.2, 0.4], [0.7, 0.1, 0.1, 0.1], [np.nan] * 4])
    mass = np.array([[0.25] * 4, [0.25] * 4, [0.25] * 4])
    relevant = np.array([[True] * 4, [False, False, True, True], [True] * 4])
    first, last = metrics.position_shares(shares, mass, relevant, parts=2)
    np.testing.assert_allclose(first.relevance.values, [0.25, np.nan, np.nan], rtol=8 * EPS)
    np.testing.assert_allclose(last.relevance.values, [0.75, 1.0, np.nan], rtol=8 * EPS)
    np.testing.assert_allclose(last.evidence.values, [0.5, 1.0, 0.5], rtol=8 * EPS)
    np.testing.assert_allclose(last.excess.values, [0.25, 0.0, np.nan], atol=8 * EPS)
    assert (first.position, last.position) == (0, 1)


def test_all_steps_count_where_no_evidence_is_known():
    rng = np.random.default_rng(0)
    shares = metrics.step_shares(rng.random((20, 5, 3)))
    mass = metrics.step_shares(rng.random((20, 5, 3)))
    found = metrics.position_shares(shares, mass)
    for i, part in enumerate(found):
        np.testing.assert_allclose(part.relevance.values, shares[:, i], rtol=16 * EPS)
        np.testing.assert_allclose(part.evidence.values, mass[:, i], rtol=16 * EPS)


def test_a_map_of_the_pixels_has_no_excess():
    mass = metrics.step_shares(np.random.default_rng(0).random((9, 6, 2)))
    relevant = np.zeros((9, 6), bool)
    relevant[:, :4] = True
    for part in metrics.position_shares(mass, mass, relevant, parts=3)[:2]:
        assert (part.excess.values == 0).all()
    assert metrics.position_shares(mass, mass, relevant, parts=3)[2].excess.used == 0


def test_relevance_without_any_in_the_evidence_is_left_out():
    found = metrics.position_shares([[0.0, 1.0]], [[0.5, 0.5]], [[True, False]])
    assert np.isnan(found[0].relevance.values).all()


def test_centre_and_last_steps():
    shares = np.array([[0.0, 0.0, 1.0], [0.5, 0.25, 0.25], [np.nan] * 3])
    np.testing.assert_allclose(
        metrics.centre_of_relevance(shares), [1.0, 0.375, np.nan], rtol=4 * EPS
    )
    np.testing.assert_array_equal(metrics.last_steps_share(shares, 2), [1.0, 0.5, np.nan])
    assert metrics.centre_of_relevance([[1.0]]).tolist() == [0.0]


def test_bad_input_is_named():
    shares = np.full((2, 4), 0.25)
    with pytest.raises(ValueError, match=r"mass: wanted shape \(2, 4\), given \(2, 3\)"):
        metrics.position_shares(shares, shares[:, :3])
    with pytest.raises(ValueError, match="parts: 4 steps cannot be divided into 3"):
        metrics.position_shares(shares, shares, parts=3)
    with pytest.raises(TypeError, match="relevant: wanted a boolean"):
        metrics.position_shares(shares, shares, shares)
    with pytest.raises(ValueError, match="shares: wanted shape"):
        metrics.centre_of_relevance([0.5, 0.5])
    with pytest.raises(ValueError, match="count: wanted at most 4"):
        metrics.last_steps_share(shares, 5)
