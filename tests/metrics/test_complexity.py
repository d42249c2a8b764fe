# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from pyrel import metrics

EPS = np.finfo(np.float64).eps
MEASURES = [metrics.entropy, metrics.gini]


def test_entropy_by_hand():
    relevance = np.array([[[1.0, -1.0]], [[3.0, 1.0]], [[0.0, 7.0]]])
    wanted = [math.log(2), -(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), 0.0]
    np.testing.assert_allclose(metrics.entropy(relevance), wanted, rtol=4 * EPS)


def test_gini_is_half_the_mean_difference_over_the_mean():
    """The definition by pairs: Σ_ij |a_i - a_j| / (2 d² mean)."""
    relevance = np.random.default_rng(0).normal(size=(10, 4, 5))
    sizes = np.abs(relevance.reshape(10, -1))
    differences = np.abs(sizes[:, :, None] - sizes[:, None]).sum(axis=(1, 2))
    wanted = differences / (2 * 20**2 * sizes.mean(axis=1))
    np.testing.assert_allclose(metrics.gini(relevance), wanted, rtol=400 * EPS)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_the_scale_of_a_map_does_not_matter(scale):
    relevance = np.array([[1.0, 2.0, 3.0]])
    for measure in MEASURES:
        np.testing.assert_allclose(measure(scale * relevance), measure(relevance), rtol=16 * EPS)


@pytest.mark.parametrize("measure", MEASURES)
def test_empty_maps_are_left_out(measure):
    found = measure(np.array([[0.0, 0.0], [1.0, 1.0]]))
    assert np.isnan(found).tolist() == [True, False]
    assert measure(np.ones((0, 3))).shape == (0,)


@pytest.mark.parametrize("measure", MEASURES)
def test_bad_input_is_named(measure):
    with pytest.raises(ValueError, match="relevance: NaN or infinity in sample 1"):
        measure([[1.0, 2.0], [1.0, np.inf]])
    with pytest.raises(ValueError, match="relevance: wanted shape"):
        measure([1.0, 2.0])
    with pytest.raises(TypeError, match="relevance: wanted real numbers"):
        measure([[1j, 2.0]])
