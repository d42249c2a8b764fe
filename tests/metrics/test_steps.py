# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pyrel import metrics

EPS = np.finfo(np.float64).eps


def test_shares_are_each_steps_part_of_the_positive_relevance():
    relevance = np.array([[[1.0, -5.0], [2.0, 1.0], [-1.0, 0.0]]])
    np.testing.assert_allclose(metrics.step_shares(relevance), [[0.25, 0.75, 0.0]], rtol=4 * EPS)


def test_pixel_mass_of_inputs_that_start_below_zero_is_brightness_above_empty():
    x = np.full((1, 3, 2), -1.0)
    x[0, 1, 0] = 2.0
    x[0, 2, 0] = 0.0
    mass = metrics.step_shares(metrics.pixel_mass_map(x, low=-1.0))
    np.testing.assert_array_equal(mass, [[0.0, 0.75, 0.25]])
    with pytest.raises(ValueError, match="x: wanted values >= low = 0.0, given -1.0"):
        metrics.pixel_mass_map(x)


def test_uniform_map_takes_no_memory():
    uniform = metrics.uniform_map(np.zeros((3, 4, 5)))
    assert uniform.shape == (3, 4, 5)
    assert uniform.strides == (0, 0, 0)


def test_profiles_average_each_arrangement_apart():
    relevant = np.array([[True, True, False], [False, True, True], [True, True, False]])
    shares = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [0.7, 0.2, 0.1]])
    right, left = metrics.step_profiles(shares, relevant)
    assert right.relevant.tolist() == [False, True, True]
    np.testing.assert_array_equal(right.mean, shares[1])
    assert np.isnan(right.standard_error).all()
    assert left.relevant.tolist() == [True, True, False]
    np.testing.assert_allclose(left.mean, [0.6, 0.35, 0.05], rtol=8 * EPS)
    # Two values a, b: standard deviation |a - b| / sqrt(2), error |a - b| / 2.
    np.testing.assert_allclose(left.standard_error, [0.1, 0.15, 0.05], rtol=64 * EPS)
    assert (left.used, left.left_out) == (2, 0)


def test_profile_without_mask_takes_all_samples_and_counts_empty_maps():
    relevance = np.ones((4, 6, 2))
    relevance[3] = 0.0
    (profile,) = metrics.step_profiles(metrics.step_shares(relevance))
    assert not profile.relevant.any()
    np.testing.assert_allclose(profile.mean, 1 / 6, rtol=4 * EPS)
    assert (profile.used, profile.left_out) == (3, 1)


def test_profile_of_nothing_but_empty_maps_is_nan():
    (profile,) = metrics.step_profiles(metrics.step_shares(np.zeros((2, 3, 1))))
    assert np.isnan(profile.mean).all()
    assert (profile.used, profile.left_out) == (0, 2)


def test_profiles_refuse_a_mask_of_another_shape():
    with pytest.raises(ValueError, match=r"wanted shape \(2, 3\), given \(2, 4\)"):
        metrics.step_profiles(np.ones((2, 3)) / 3, np.ones((2, 4), bool))
