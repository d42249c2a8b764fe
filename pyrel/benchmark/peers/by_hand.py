# SPDX-License-Identifier: Apache-2.0
"""Explanations of a cell written by hand with the matrix products of an array library.

What a careful user would write today: weights prepared once; everything that does not wait for the
recurrence (encoders, the part of the cell that reads them, all denominators) in one product over
all steps; the zero first recurrent input skipped. `ArrayLibrary` has the few operations that this
takes; NumPy, torch and JAX each have a module that fills it in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pyrel.benchmark.layers import Layer, Layers

Array = Any  # of the library in use

# Relevance arrives at active units only, and the biases of cells are below zero, so denominators
# that matter are above zero. The others are raised to this: 0 / TINY is 0.
TINY = 1e-30

METHODS = ("deep_taylor", "gradient", "sensitivity", "guided_backprop")


class ArrayLibrary(Protocol):
    """Operations of the algorithm. One may write its result over an argument named `over`."""

    def array(self, values: npt.NDArray[Any]) -> Array:
        """Return NumPy values as an array of the library."""

    def affine(self, a: Array, weight: Array, bias: Array) -> Array:
        """Return a @ weight + bias."""

    def add_product(self, base: Array, a: Array, weight: Array) -> Array:
        """Return base + a @ weight."""

    def product(self, a: Array, weight: Array) -> Array:
        """Return a @ weight."""

    def relu(self, over: Array) -> Array:
        """Return max(0, over)."""

    def at_least_tiny(self, over: Array) -> Array:
        """Return max(TINY, over)."""

    def times(self, a: Array, over: Array) -> Array:
        """Return a · over."""

    def where_active(self, a: Array, over: Array, guided: bool) -> Array:
        """Return `over` where a > 0 (guided: and `over` > 0), else 0."""

    def add_after_first(self, over: Array, rest: Array) -> Array:
        """Return `over` (n, steps, width) with `rest` (n, steps - 1, width) added from step 1."""

    def stack(self, steps: list[Array]) -> Array:
        """Stack arrays (n, width) to (n, steps, width)."""

    def start(self, output: Array, propagates: bool) -> Array:
        """Return max(0, output), or else 1, at the largest output of each row, 0 beside it."""


@dataclass(frozen=True, eq=False)
class _Matrix:
    """A weight as the passes want it: forward, in denominators, and on the way back."""

    forward: Array
    positive: Array
    back: Array


@dataclass(eq=False)
class _Activations:
    """Of the encoders in rows (n · steps, width), of the rest by step, (n, width)."""

    encoded: list[Array]
    before: Array  # what the encoded steps add to the cell, bias included: (n, steps, state)
    recurrent: list[Array]  # the inputs of the steps from 1 on
    states: list[Array]
    read: list[Array]  # what each reader reads
    output: Array


class ByHand:
    """Explains the predicted class of samples (n, steps, pixels) in [0, 1].

    Parameters
    ----------
    layers
        Of a cell, its biases at most zero.
    library
        The operations.
    method
        One of `METHODS`.
    box
        Whether deep Taylor takes the z^β rule at the pixels; otherwise z⁺.
    """

    def __init__(
        self, layers: Layers, library: ArrayLibrary, method: str, *, box: bool = True
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"method: no {method!r} by hand; there are {', '.join(METHODS)}")
        self._do, self._steps = library, layers.steps
        self._propagates = method == "deep_taylor"
        self._guided = method == "guided_backprop"
        self._squared = method in ("sensitivity", "guided_backprop")
        self._box = box and self._propagates
        from_step = Layer(layers.cell.weight[: layers.encoded], layers.cell.bias)
        chain = (*layers.encoders, from_step)
        self._chain = [self._matrix(c.weight, signed=self._box and c is chain[0]) for c in chain]
        self._chain_bias = [library.array(layer.bias) for layer in chain]
        self._from_state = self._matrix(layers.cell.weight[layers.encoded :])
        if layers.feedback is not None:
            self._feedback = self._matrix(layers.feedback.weight)
            self._feedback_bias = library.array(layers.feedback.bias)
        self._readers = [self._matrix(reader.weight) for reader in layers.readers]
        self._reader_bias = [library.array(reader.bias) for reader in layers.readers]
        # z^β for l = 0, h = 1: minus Σ_k s_k w⁻ on the way back; the denominator is z − b − Σ_j w⁻.
        negative = np.minimum(chain[0].weight, 0)
        self._minus_negative_back = library.array(np.ascontiguousarray(-negative.T))
        self._box_constant = library.array(-chain[0].bias - negative.sum(0, dtype=np.float64))

    def _matrix(self, weight: npt.NDArray[Any], *, signed: bool = False) -> _Matrix:
        array, positive = self._do.array, np.maximum(weight, 0)
        back = positive if self._propagates and not signed else weight
        return _Matrix(
            array(np.ascontiguousarray(weight)),
            array(positive),
            array(np.ascontiguousarray(back.T)),
        )

    def __call__(self, x: Array) -> Array:
        """Return the relevance of ``x``, of the same shape."""
        n, steps, pixels = x.shape
        seen = self.forward(x.reshape(n * steps, pixels))
        at_state = self._through_readers(seen)
        at_cell = self._through_time(seen, at_state)
        return self._through_encoders(seen, at_cell).reshape(n, steps, pixels)

    def forward(self, x: Array) -> _Activations:
        """Return all activations for rows (n · steps, pixels)."""
        do, encoded = self._do, [x]
        for matrix, bias in zip(self._chain[:-1], self._chain_bias, strict=False):
            encoded.append(do.relu(do.affine(encoded[-1], matrix.forward, bias)))
        before = self._by_step(
            do.affine(encoded[-1], self._chain[-1].forward, self._chain_bias[-1])
        )
        states, recurrent = [do.relu(before[:, 0] + 0)], []  # a copy: `before` is needed later
        for t in range(1, self._steps):
            fed = do.affine(states[-1], self._feedback.forward, self._feedback_bias)
            recurrent.append(do.relu(fed))
            joined = do.add_product(before[:, t], recurrent[-1], self._from_state.forward)
            states.append(do.relu(joined))
        read: list[Array] = []
        output = states[-1]
        for reader, bias in zip(self._readers, self._reader_bias, strict=True):
            read.append(do.relu(output) if read else output)
            output = do.affine(read[-1], reader.forward, bias)
        return _Activations(encoded, before, recurrent, states, read, output)

    def _through_readers(self, seen: _Activations) -> Array:
        r = self._do.start(seen.output, self._propagates)
        for reader, a in zip(reversed(self._readers), reversed(seen.read), strict=True):
            r = self._hand_down(a, self._share(r, self._plus(a, reader)), reader)
        return r

    def _through_time(self, seen: _Activations, r: Array) -> Array:
        """Return what every step's cell hands down, (n · steps, state)."""
        cell, feedback = self._denominators(seen)
        shares = []
        for t in range(self._steps - 1, 0, -1):
            shares.append(self._share(r, cell, t))
            r = self._hand_down(seen.recurrent[t - 1], shares[-1], self._from_state)
            r = self._hand_down(seen.states[t - 1], self._share(r, feedback, t - 1), self._feedback)
        shares.append(self._share(r, cell, 0))
        return self._rows(self._do.stack(shares[::-1]))

    def _through_encoders(self, seen: _Activations, s: Array) -> Array:
        do = self._do
        for i in range(len(self._chain) - 1, 0, -1):
            r = self._hand_down(seen.encoded[i], s, self._chain[i])
            boxed = self._box and i == 1
            z = seen.encoded[1] + self._box_constant if boxed else None
            s = self._share(r, z if boxed else self._plus(seen.encoded[i - 1], self._chain[i - 1]))
        x, first = seen.encoded[0], self._chain[0]
        down = do.product(s, first.back)
        if not self._propagates:
            return do.times(down, down) if self._squared else down
        down = do.times(x, down)
        return do.add_product(down, s, self._minus_negative_back) if self._box else down

    def _denominators(self, seen: _Activations) -> tuple[Array, Array]:
        """Of the cell and of the feedback at all steps: (n, steps, ...), (n, steps - 1, ...)."""
        if not self._propagates:
            return None, None
        do = self._do
        if self._box and len(self._chain) == 1:
            cell = seen.before + self._box_constant
        else:
            cell = self._by_step(do.product(seen.encoded[-1], self._chain[-1].positive))
        if self._steps == 1:
            return do.at_least_tiny(cell), None
        states = self._rows(do.stack(seen.states[:-1]))
        recurrent = self._rows(do.stack(seen.recurrent))
        steps = self._steps - 1
        rest = self._by_step(do.product(recurrent, self._from_state.positive), steps)
        feedback = self._by_step(do.product(states, self._feedback.positive), steps)
        return do.at_least_tiny(do.add_after_first(cell, rest)), do.at_least_tiny(feedback)

    def _plus(self, a: Array, matrix: _Matrix) -> Array:
        """Return the denominators of the z⁺ rule."""
        if not self._propagates:
            return None
        return self._do.at_least_tiny(self._do.product(a, matrix.positive))

    def _share(self, r: Array, z: Array, step: int | None = None) -> Array:
        """Return R / z; for gradients R itself."""
        if z is None:
            return r
        return r / (z if step is None else z[:, step])

    def _hand_down(self, a: Array, s: Array, matrix: _Matrix) -> Array:
        """Return a · (s @ wᵀ); for gradients, which ReLUs mask, that where a > 0, without a."""
        down = self._do.product(s, matrix.back)
        if self._propagates:
            return self._do.times(a, down)
        return self._do.where_active(a, down, self._guided)

    def _rows(self, values: Array) -> Array:
        return values.reshape(-1, values.shape[-1])

    def _by_step(self, rows: Array, steps: int | None = None) -> Array:
        return rows.reshape(-1, steps or self._steps, rows.shape[-1])
