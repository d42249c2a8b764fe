# SPDX-License-Identifier: Apache-2.0
"""Maps of colour images, summed over their channels."""

from __future__ import annotations

import numpy as np
import pytest

from pyrel import metrics


@pytest.mark.parametrize("axis", [1, 3, -1])
def test_sums_of_maps_stay(axis: int) -> None:
    maps = np.random.default_rng(0).normal(size=(4, 3, 5, 2)).astype(np.float32)
    summed = metrics.channel_sum(maps, axis)
    assert summed.ndim == 3
    np.testing.assert_allclose(summed, maps.astype(float).sum(axis), rtol=1e-14)
    np.testing.assert_allclose(
        metrics.total_relevance(summed), metrics.total_relevance(maps), rtol=1e-12
    )


def test_what_is_no_channel() -> None:
    maps = np.zeros((4, 3, 5))
    for axis in (0, 3, -3):
        with pytest.raises(ValueError, match="axis: wanted one of the 3 but the first"):
            metrics.channel_sum(maps, axis)
    maps[1, 2, 0] = np.nan
    with pytest.raises(ValueError, match="finite|NaN"):
        metrics.channel_sum(maps)
