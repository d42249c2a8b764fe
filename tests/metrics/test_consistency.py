# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from pyrel import metrics

EPS = np.finfo(np.float64).eps


def test_definitions_by_hand():
    relevance = np.array(
        [
            [[1.0], [2.0]],  # f = 3: consistent
            [[4.0], [-1.0]],  # conservative, not positive
            [[1.0], [1.0]],  # positive, loses 1
            [[2.0], [-2.0]],  # f = 0, and yet a map: conservative in sum alone
            [[0.0], [0.0]],  # f = 0, empty
        ]
    )
    found = metrics.consistency(relevance, [3.0, 3.0, 3.0, -2.0, 0.0])
    assert found.conservative.tolist() == [True, True, False, True, True]
    assert found.positive.tolist() == [True, False, True, False, True]
    assert found.consistent.tolist() == [True, False, False, False, True]
    np.testing.assert_array_equal(found.empty_at_zero, [np.nan] * 3 + [0.0, 1.0])


def test_what_biases_keep_is_not_lost_where_it_is_given():
    relevance = np.array([[1.0, 1.0]])
    assert not metrics.consistency(relevance, [3.0]).conservative.any()
    assert metrics.consistency(relevance, [3.0], absorbed=[1.0]).conservative.all()


def test_tolerances_are_relative():
    relevance = np.array([[1e6, -1.0], [1.0, 1e-3]])
    found = metrics.consistency(relevance, [1e6, 1.0], tolerance=1e-5)
    assert found.positive.tolist() == [True, True]
    assert found.conservative.tolist() == [True, False]
    assert not metrics.consistency(relevance, [1e6, 1.0], tolerance=0.0).positive[0]
    with pytest.raises(ValueError, match="tolerance"):
        metrics.consistency(relevance, [1.0, 1.0], tolerance=np.nan)


def test_fit_is_that_of_numpy():
    rng = np.random.default_rng(0)
    output = rng.normal(2.0, 3.0, 200)
    total = 0.4 * output + 0.1 + rng.normal(size=200)
    fit = metrics.conservation_fit(total, output)
    found = output > 0
    slope, intercept = np.polyfit(output[found], total[found], 1)
    assert fit.used == found.sum() < 200
    # The least-squares problem of 200 rows is well conditioned.
    np.testing.assert_allclose([fit.slope, fit.intercept], [slope, intercept], rtol=1e-12)
    wanted = np.corrcoef(total[found], output[found])[0, 1]
    np.testing.assert_allclose(fit.correlation, wanted, rtol=1e-12)
    errors = np.sort(np.abs(total - output)[found] / output[found])
    half = len(errors) // 2
    middle = errors[half] if len(errors) % 2 else errors[half - 1 : half + 1].mean()
    np.testing.assert_allclose(fit.median_error, middle, rtol=8 * EPS)


def test_a_fit_of_nothing_is_nan():
    nothing = metrics.conservation_fit([1.0], [-1.0])
    assert nothing.used == 0
    assert np.isnan([nothing.slope, nothing.correlation, nothing.median_error]).all()
    one = metrics.conservation_fit([1.0], [2.0])
    assert (one.used, one.median_error) == (1, 0.5)
    assert np.isnan(one.slope)
    flat = metrics.conservation_fit([1.0, 1.0], [2.0, 3.0])
    assert flat.slope == 0
    assert np.isnan(flat.correlation)


def test_histogram_counts_every_element_once():
    rng = np.random.default_rng(0)
    relevance = rng.normal(size=(6, 5, 4)).astype(np.float32)
    relevance[0, 0] = 0.0
    histogram = metrics.relevance_histogram(relevance, bins=17)
    assert histogram.zeros == 4
    assert histogram.counts.sum() == relevance.size - 4
    assert 0.0 in histogram.edges
    below = histogram.edges[1:] <= 0
    assert histogram.counts[below].sum() == (relevance < 0).sum()
    for count, low, high in zip(
        histogram.counts, histogram.edges[:-1], histogram.edges[1:], strict=True
    ):
        inside = (relevance >= low) & (relevance < high) & (relevance != 0)
        assert count == inside.sum() + (high == histogram.edges[-1]) * (relevance == high).sum()


@pytest.mark.parametrize(
    "values", [[0.0, 0.0], [1.0, 3.0], [-1.0, -3.0], [0.1, 0.3], [-1e-30, 1e30]]
)
def test_histograms_of_one_sign_and_of_nothing(values):
    histogram = metrics.relevance_histogram([values], bins=3)
    assert histogram.counts.sum() + histogram.zeros == 2
    assert 0.0 in histogram.edges
    assert (np.diff(histogram.edges) > 0).all()


def test_bad_input_is_named():
    with pytest.raises(ValueError, match=r"output: wanted shape \(1,\)"):
        metrics.consistency([[1.0]], [1.0, 2.0])
    with pytest.raises(ValueError, match="NaN or infinity in sample 0"):
        metrics.consistency([[np.nan]], [1.0])
    with pytest.raises(ValueError, match="total: wanted finite"):
        metrics.conservation_fit([np.nan], [1.0])
    with pytest.raises(ValueError, match=r"output: wanted shape \(1,\)"):
        metrics.conservation_fit([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="bins: wanted at least 2"):
        metrics.relevance_histogram([[1.0]], bins=1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        metrics.relevance_histogram([[np.inf]])
