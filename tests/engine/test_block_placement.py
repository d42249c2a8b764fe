# SPDX-License-Identifier: Apache-2.0
"""Blocks of memory are placed so that no two that are alive at once overlap."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyrel.compiler.program import block_placement
from pyrel.compiler.program.block_placement import peak, place

Ints = npt.NDArray[np.int64]
BLOCK = st.tuples(st.integers(1, 12), st.integers(0, 20), st.integers(0, 8))


def assert_apart(places: Ints, size: int, sizes: Ints, births: Ints, deaths: Ints) -> None:
    """No two blocks share a float at one moment, and none lies outside."""
    assert places.min() >= 0
    assert (places + sizes).max() <= size
    for a in range(sizes.size):
        beside = (births <= deaths[a]) & (deaths >= births[a])
        over = (places < places[a] + sizes[a]) & (places + sizes > places[a])
        assert np.flatnonzero(beside & over).tolist() == [a]


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(blocks=st.lists(BLOCK, min_size=1, max_size=60), few=st.sampled_from([0, 60]))
def test_blocks_that_live_together_lie_apart(blocks: list[tuple[int, ...]], few: int) -> None:
    sizes, births, lengths = np.array(blocks).T
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(block_placement, "_FEW", few)
        patch.setattr(block_placement, "_MOST_SIZES", 5)
        patch.setattr(block_placement, "_MOST_HEIGHTS", 3)
        places, size = place(sizes, births, births + lengths)
    assert_apart(places, size, sizes, births, births + lengths)
    assert size >= peak(sizes, births, births + lengths)


def test_peak_is_what_lives_at_once() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        sizes, births = rng.integers(1, 9, 12), rng.integers(0, 9, 12)
        deaths = births + rng.integers(0, 5, 12)
        alive = [sizes[(births <= t) & (deaths >= t)].sum() for t in range(20)]
        assert peak(sizes, births, deaths) == max(alive)


def test_many_blocks_are_packed_densely() -> None:
    """Random sizes and lives pack worse than those of programs, which take what is in use."""
    rng = np.random.default_rng(1)
    sizes = 16 * rng.integers(1, 9, 3000)
    births = rng.integers(0, 3000, 3000)
    deaths = births + rng.integers(0, 300, 3000)
    places, size = place(sizes, births, deaths)
    assert_apart(places, size, sizes, births, deaths)
    assert size < 1.2 * peak(sizes, births, deaths)
