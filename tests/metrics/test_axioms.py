# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pyrel import metrics


def test_conservation_is_what_came_out_minus_what_was_put_in():
    relevance = np.array([[[1.0], [2.0]], [[3.0], [-1.0]], [[0.0], [0.0]]])
    np.testing.assert_array_equal(metrics.total_relevance(relevance), [3.0, 2.0, 0.0])
    np.testing.assert_array_equal(metrics.conservation(relevance, [3.0, 5.0, 0.0]), [0, -3, 0])
    kept = metrics.conservation(relevance, [4.0, 5.0, 0.0], absorbed=[1.0, 3.0, 0.5])
    np.testing.assert_array_equal(kept, [0, 0, 0.5])


def test_error_is_relative_to_the_relevance_at_hand():
    relevance = np.array([[[1.0], [2.0]], [[3.0], [-1.0]], [[0.0], [0.0]], [[0.0], [0.0]]])
    error = metrics.conservation_error(relevance, [4.0, 1.0, 0.0, 2.0])
    # |3 - 4| / 4; |2 - 1| / (3 + 1); nothing in and out; all lost.
    np.testing.assert_array_equal(error, [0.25, 0.25, 0.0, 1.0])
    absorbed = metrics.conservation_error(relevance[2:3], [0.0], absorbed=[0.5])
    np.testing.assert_array_equal(absorbed, [1.0])


def test_sums_do_not_lose_what_float32_would():
    # 2**24 + 1 is no float32: a float32 sum would end at 2**24 and report relevance lost.
    relevance = np.zeros((1, 2, 2), dtype=np.float32)
    relevance[0, :, 0] = [2.0**24, 1.0]
    assert metrics.conservation(relevance, [2.0**24 + 1]) == 0


def test_positivity_is_the_positive_share():
    relevance = np.array([[[1.0], [2.0]], [[3.0], [-1.0]], [[-1.0], [-1.0]], [[0.0], [0.0]]])
    np.testing.assert_array_equal(metrics.positivity(relevance), [1.0, 0.75, 0.0, np.nan])


@pytest.mark.parametrize("measure", [metrics.conservation, metrics.conservation_error])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0],), r"start: wanted shape \(2,\), given \(1,\)"),
        (([1.0, np.nan],), "start: wanted finite"),
        (([1.0, 1.0], [1.0]), r"absorbed: wanted shape \(2,\)"),
        (([1.0, 1.0], [1.0, np.inf]), "absorbed: wanted finite"),
    ],
    ids=["start short", "start NaN", "absorbed short", "absorbed infinite"],
)
def test_bad_accounts_are_named(measure, arguments, message):
    with pytest.raises(ValueError, match=message):
        measure(np.ones((2, 3, 1)), *arguments)


@pytest.mark.parametrize("n", [0, 1])
def test_no_and_one_sample(n):
    relevance = np.ones((n, 3, 1))
    assert metrics.conservation(relevance, np.full(n, 3.0)).tolist() == [0.0] * n
    assert metrics.positivity(relevance).tolist() == [1.0] * n
