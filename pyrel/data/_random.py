# SPDX-License-Identifier: Apache-2.0
"""Random integers that are the same on every machine and with every version of NumPy.

NumPy guarantees the raw 64-bit stream of PCG64 for a seed, but not what its ``Generator`` makes of
it. So only the raw integers are used here, and the mapping to a range is our own.
"""

from __future__ import annotations

import operator

import numpy as np
import numpy.typing as npt


class Draws:
    """A stream of random integers from the raw output of PCG64.

    Parameters
    ----------
    seed : int
        At least 0.
    """

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(_checked_seed(seed))

    def keys(self, count: int) -> npt.NDArray[np.uint64]:
        """Return `count` raw 64-bit integers: sort keys for a random order."""
        return self._bits.random_raw(count)

    def below(self, bounds: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Draw one integer per bound, uniform in [0, bound), without bias.

        Lemire, "Fast random integer generation in an interval" (2019), algorithm 5, on the upper 32
        bits of each draw. Rejected elements are drawn again, together, in their order.

        Parameters
        ----------
        bounds : array of integers, shape (n,), each in 1 … 2³² − 1

        Returns
        -------
        array of int64, shape (n,)
        """
        bounds = bounds.astype(np.uint64)
        # 2³² mod bound draws would fall twice as often as the rest: those products are rejected.
        threshold = np.uint64(1 << 32) % bounds
        result = np.empty(bounds.shape, np.int64)
        waiting = np.arange(bounds.size)
        while waiting.size:
            product = (self.keys(waiting.size) >> np.uint64(32)) * bounds[waiting]
            result[waiting] = product >> np.uint64(32)
            waiting = waiting[(product & np.uint64(0xFFFFFFFF)) < threshold[waiting]]
        return result


def _checked_seed(seed: int) -> int:
    if isinstance(seed, (bool, np.bool_)):
        raise TypeError(f"seed: got {seed!r}, an integer is wanted")
    try:
        value = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed: got {type(seed).__name__} {seed!r}, an integer is wanted") from None
    if value < 0:
        raise ValueError(f"seed: got {value}, at least 0 is wanted")
    return value
