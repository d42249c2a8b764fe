# SPDX-License-Identifier: Apache-2.0
"""`ByHand` with NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.benchmark.peers.by_hand import TINY

Array = npt.NDArray[Any]


class NumpyLibrary:
    """The operations of `ArrayLibrary` in NumPy, in one precision."""

    def __init__(self, dtype: npt.DTypeLike = np.float32) -> None:
        self._dtype = dtype

    def array(self, values: Array) -> Array:
        """Return the values in the precision of the library."""
        return values.astype(self._dtype)

    def affine(self, a: Array, weight: Array, bias: Array) -> Array:
        """Return a @ weight + bias."""
        z: Array = a @ weight
        z += bias
        return z

    def add_product(self, base: Array, a: Array, weight: Array) -> Array:
        """Return base + a @ weight."""
        return self.affine(a, weight, base)

    def product(self, a: Array, weight: Array) -> Array:
        """Return a @ weight."""
        z: Array = a @ weight
        return z

    def relu(self, over: Array) -> Array:
        """Return max(0, over), in place."""
        return np.maximum(over, 0, out=over)

    def at_least_tiny(self, over: Array) -> Array:
        """Return max(TINY, over), in place."""
        return np.maximum(over, TINY, out=over)

    def times(self, a: Array, over: Array) -> Array:
        """Return a · over, in place."""
        over *= a
        return over

    def where_active(self, a: Array, over: Array, guided: bool) -> Array:
        """Return `over` where a > 0 (guided: and `over` > 0), else 0, in place."""
        over *= a > 0
        return np.maximum(over, 0, out=over) if guided else over

    def add_after_first(self, over: Array, rest: Array) -> Array:
        """Add `rest` to the steps from 1 on, in place."""
        over[:, 1:] += rest
        return over

    def stack(self, steps: list[Array]) -> Array:
        """Stack arrays (n, width) to (n, steps, width)."""
        return np.stack(steps, axis=1)

    def start(self, output: Array, propagates: bool) -> Array:
        """Return max(0, output), or else 1, at the largest output of each row, 0 beside it."""
        rows, target = np.arange(len(output)), output.argmax(axis=1)
        r = np.zeros_like(output)
        r[rows, target] = np.maximum(output[rows, target], 0) if propagates else 1
        return r
