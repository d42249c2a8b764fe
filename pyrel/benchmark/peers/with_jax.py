# SPDX-License-Identifier: Apache-2.0
"""`ByHand` with JAX."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy.typing as npt

from pyrel.benchmark.peers.by_hand import TINY

Array = Any


class JaxLibrary:
    """The operations of `ArrayLibrary` in JAX, to be compiled as a whole by `jax.jit`."""

    def array(self, values: npt.NDArray[Any]) -> Array:
        """Return a float32 array of the values."""
        return jnp.asarray(values, jnp.float32)

    def affine(self, a: Array, weight: Array, bias: Array) -> Array:
        """Return a @ weight + bias."""
        return a @ weight + bias

    def add_product(self, base: Array, a: Array, weight: Array) -> Array:
        """Return base + a @ weight."""
        return base + a @ weight

    def product(self, a: Array, weight: Array) -> Array:
        """Return a @ weight."""
        return a @ weight

    def relu(self, over: Array) -> Array:
        """Return max(0, over)."""
        return jnp.maximum(over, 0)

    def at_least_tiny(self, over: Array) -> Array:
        """Return max(TINY, over)."""
        return jnp.maximum(over, TINY)

    def times(self, a: Array, over: Array) -> Array:
        """Return a · over."""
        return a * over

    def where_active(self, a: Array, over: Array, guided: bool) -> Array:
        """Return `over` where a > 0 (guided: and `over` > 0), else 0."""
        return jnp.where((a > 0) & (over > 0) if guided else a > 0, over, 0)

    def add_after_first(self, over: Array, rest: Array) -> Array:
        """Return `over` with `rest` added to the steps from 1 on."""
        return over.at[:, 1:].add(rest)

    def stack(self, steps: list[Array]) -> Array:
        """Stack arrays (n, width) to (n, steps, width)."""
        return jnp.stack(steps, axis=1)

    def start(self, output: Array, propagates: bool) -> Array:
        """Return max(0, output), or else 1, at the largest output of each row, 0 beside it."""
        chosen = jax.nn.one_hot(output.argmax(axis=1), output.shape[1], dtype=output.dtype)
        return chosen * jnp.maximum(output, 0) if propagates else chosen
