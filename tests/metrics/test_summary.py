# SPDX-License-Identifier: Apache-2.0
import math

import numpy as np
import pytest

from pyrel.metrics import Summary, paired_difference


def test_numbers_of_a_summary_with_samples_left_out():
    summary = Summary.of([1.0, np.nan, 2.0, 3.0, np.nan])
    assert (summary.used, summary.left_out) == (3, 2)
    assert summary.mean == 2.0
    # Standard deviation of 1, 2, 3 is 1.
    assert summary.standard_error == pytest.approx(1 / math.sqrt(3), rel=1e-15)
    assert summary.largest == 3.0
    assert str(summary) == "2.000 ± 0.577"


def test_booleans_count_as_zero_and_one():
    accuracy = Summary.of(np.array([True, True, False, True]))
    assert accuracy.mean == 0.75
    assert accuracy.values.dtype == np.float64


@pytest.mark.parametrize(
    ("values", "used"), [([], 0), ([np.nan, np.nan], 0), ([4.0], 1)], ids=["none", "all out", "one"]
)
def test_what_too_few_samples_cannot_say_is_nan(values, used):
    summary = Summary.of(values)
    assert summary.used == used
    assert math.isnan(summary.standard_error)
    assert math.isnan(summary.mean) == (used == 0)
    assert summary.to_dict()["standard_error"] is None


def test_paired_difference_uses_samples_that_both_have():
    difference = paired_difference(Summary.of([1.0, 2.0, np.nan]), Summary.of([0.5, np.nan, 1.0]))
    assert (difference.mean, difference.used) == (0.5, 1)
    with pytest.raises(ValueError, match="wanted 1 samples as in first, given 2"):
        paired_difference(Summary.of([1.0]), Summary.of([1.0, 2.0]))


@pytest.mark.parametrize(
    ("values", "message"), [([[1.0]], r"\(1, 1\)"), ([np.inf], "infinity")], ids=["2-d", "inf"]
)
def test_bad_values_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        Summary.of(values)
