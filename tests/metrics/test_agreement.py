# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pyrel import metrics

EPS = np.finfo(np.float64).eps


def ranks(row):
    """Rank by counting: one more than the smaller ones, plus half of the other equal ones."""
    return [1 + sum(o < v for o in row) + (sum(o == v for o in row) - 1) / 2 for v in row]


def test_rank_correlation_is_that_of_counted_ranks():
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, 5, (12, 3, 4)), rng.integers(-9, 9, (12, 3, 4))
    wanted = [
        np.corrcoef(ranks(a.ravel()), ranks(b.ravel()))[0, 1]
        for a, b in zip(first, second, strict=True)
    ]
    found = metrics.rank_correlation(first, second)
    np.testing.assert_allclose(found, wanted, rtol=0, atol=64 * EPS)


def test_cosine_is_that_of_the_flattened_maps():
    rng = np.random.default_rng(1)
    first, second = rng.normal(size=(2, 700, 3, 4))
    a, b = first.reshape(700, -1), second.reshape(700, -1)
    wanted = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(metrics.map_cosine(first, second), wanted, atol=32 * EPS)


def test_tiny_and_huge_maps_have_a_cosine():
    found = metrics.map_cosine([[1e-200, 1e-200], [1e200, 0.0]], [[1.0, 1.0], [2e200, 0.0]])
    np.testing.assert_allclose(found, 1.0, rtol=4 * EPS)


def test_what_has_no_similarity_is_left_out():
    constant, other = np.ones((1, 3)), np.array([[1.0, 2.0, 3.0]])
    assert np.isnan(metrics.rank_correlation(constant, other)).all()
    assert not np.isnan(metrics.map_cosine(constant, other)).any()
    assert np.isnan(metrics.map_cosine(0 * constant, other)).all()


@pytest.mark.parametrize("similarity", ["rank", "cosine"])
def test_pairs_of_methods_are_those_one_by_one(similarity):
    rng = np.random.default_rng(2)
    maps = {name: rng.normal(size=(300, 5, 2)) for name in "abc"}
    alone = metrics.rank_correlation if similarity == "rank" else metrics.map_cosine
    found = metrics.agreement(maps, similarity)
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    for (first, second), summary in found.items():
        np.testing.assert_array_equal(summary.values, alone(maps[first], maps[second]))


def test_no_sample_and_no_pair():
    assert metrics.rank_correlation(np.ones((0, 3)), np.ones((0, 3))).shape == (0,)
    assert metrics.agreement({"alone": np.ones((2, 3))}) == {}


def test_bad_input_is_named():
    good = np.ones((2, 3))
    with pytest.raises(ValueError, match=r"b: wanted maps of shape \(2, 3\), given \(2, 4\)"):
        metrics.agreement({"a": good, "b": np.ones((2, 4))})
    with pytest.raises(ValueError, match="second: NaN or infinity in sample 0"):
        metrics.map_cosine(good, good * np.nan)
    with pytest.raises(ValueError, match="similarity: wanted 'rank' or 'cosine'"):
        metrics.agreement({"a": good, "b": good}, "pearson")
