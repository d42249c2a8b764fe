# SPDX-License-Identifier: Apache-2.0
"""Random integers that stay the same."""

from __future__ import annotations

import numpy as np
import pytest

from pyrel.data._random import Draws


def test_the_stream_of_raw_integers_stays() -> None:
    first = [0xA30FEBCFD9C2825F, 0x4510BDF882D9D721, 0x0A7D3DA94ECDE8B8]
    assert Draws(0).keys(3).tolist() == first


def lemire(seed: int, bounds: list[int]) -> list[int]:
    """Map draws to ranges with Python's integers, rejected ones again at the end of the round."""
    draws = Draws(seed)
    result: dict[int, int] = {}
    waiting = list(range(len(bounds)))
    while waiting:
        rejected = []
        for index in waiting:
            high, low = divmod((int(draws.keys(1)[0]) >> 32) * bounds[index], 1 << 32)
            if low < (1 << 32) % bounds[index]:
                rejected.append(index)
            else:
                result[index] = high
        waiting = rejected
    return [result[index] for index in range(len(bounds))]


def test_against_exact_integers() -> None:
    # The middle ones reject a quarter of the draws, or all but half of them.
    bounds = [1, 2, 3, 6, 60_000, 3 << 30, (1 << 31) + 1, (1 << 32) - 1] * 20
    assert Draws(7).below(np.array(bounds)).tolist() == lemire(7, bounds)


def test_none() -> None:
    assert Draws(0).below(np.empty(0, np.int64)).shape == (0,)


def test_uniform() -> None:
    n, bound = 60_000, 6
    counts = np.bincount(Draws(1).below(np.full(n, bound)), minlength=bound)
    # chi-square with 5 degrees of freedom; 30 is passed by a fair die once in 70,000 seeds
    assert ((counts - n / bound) ** 2 / (n / bound)).sum() < 30


@pytest.mark.parametrize("seed", [np.int32(3), np.uint64(3), 3])
def test_integers_of_any_type_are_seeds(seed) -> None:
    np.testing.assert_array_equal(Draws(seed).keys(4), Draws(3).keys(4))


@pytest.mark.parametrize("seed", [1.0, "1", None, True, np.bool_(True), [1]])
def test_seeds_of_another_type(seed) -> None:
    with pytest.raises(TypeError, match="seed: got .*, an integer is wanted"):
        Draws(seed)


def test_a_negative_seed() -> None:
    with pytest.raises(ValueError, match="seed: got -1, at least 0"):
        Draws(-1)
