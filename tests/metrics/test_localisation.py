# SPDX-License-Identifier: Apache-2.0
import itertools

import numpy as np
import pytest

from pyrel import metrics

EPS = np.finfo(np.float64).eps


def test_mass_is_the_positive_relevance_inside():
    relevance = np.array([[[3.0, -1.0], [1.0, 0.0]], [[-1.0, -1.0], [0.0, 0.0]]])
    mask = np.array([[[True, True], [False, False]], [[True, False], [False, False]]])
    found = metrics.relevance_mass_accuracy(relevance, mask)
    np.testing.assert_array_equal(found, [0.75, np.nan])


def test_a_mask_of_steps_gives_the_share_in_the_region():
    rng = np.random.default_rng(0)
    relevance, steps = rng.normal(size=(20, 4, 3, 2)), rng.random((20, 4)) < 0.5
    steps[:, 0] = True
    found = metrics.relevance_mass_accuracy(relevance, steps)
    wanted = metrics.relevance_in_region(relevance, steps)
    np.testing.assert_allclose(found, wanted, rtol=64 * EPS)


def test_rank_counts_the_top_k_inside():
    relevance = np.array([[5.0, 4.0, 3.0, 2.0, 1.0]] * 3)
    mask = np.array([[1, 1, 0, 0, 0], [0, 0, 0, 1, 1], [1, 0, 1, 0, 1]], dtype=bool)
    found = metrics.relevance_rank_accuracy(relevance, mask)
    np.testing.assert_allclose(found, [1.0, 0.0, 2 / 3])


def test_ties_count_what_all_their_orders_do_on_average():
    relevance = np.array([[2.0, 1.0, 1.0, 1.0, 0.0]])
    mask = np.array([[False, True, True, False, True]])
    hits = [len({0, *pair} & {1, 2, 4}) / 3 for pair in itertools.combinations([1, 2, 3], 2)]
    found = metrics.relevance_rank_accuracy(relevance, mask)
    np.testing.assert_allclose(found, [np.mean(hits)], rtol=4 * EPS)


def test_an_empty_map_has_no_rank():
    found = metrics.relevance_rank_accuracy(np.zeros((1, 3)), np.array([[True, False, False]]))
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    "measure", [metrics.relevance_mass_accuracy, metrics.relevance_rank_accuracy]
)
@pytest.mark.parametrize(
    ("relevance", "mask", "kind", "message"),
    [
        (np.full((2, 3), np.nan), np.ones((2, 3), bool), ValueError, "NaN or infinity in sample 0"),
        (np.ones((2, 3)), np.ones((2, 4), bool), ValueError, r"mask: wanted shape \(2, 3\)"),
        (np.ones((2, 3)), np.ones(2, bool), ValueError, r"mask: wanted shape \(2, 3\)"),
        (np.ones((2, 3)), np.ones((2, 3)), TypeError, "mask: wanted a boolean"),
        (np.ones((2, 3)), np.zeros((2, 3), bool), ValueError, "a marked element in every sample"),
    ],
    ids=["NaN", "shape", "axes", "dtype", "nothing marked"],
)
def test_bad_input_is_named(measure, relevance, mask, kind, message):
    with pytest.raises(kind, match=message):
        measure(relevance, mask)


@pytest.mark.parametrize(
    "measure", [metrics.relevance_mass_accuracy, metrics.relevance_rank_accuracy]
)
def test_no_sample(measure):
    assert measure(np.ones((0, 3)), np.ones((0, 3), bool)).shape == (0,)
