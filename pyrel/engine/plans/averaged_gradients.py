# SPDX-License-Identifier: Apache-2.0
"""The plans of methods that average gradients: along a path, or around a sample."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from pyrel.engine.arrays import Float32s
from pyrel.engine.inputs import Inputs
from pyrel.engine.plans.base import EXPLAIN, Runner
from pyrel.engine.plans.copies import Float64s, OfCopies, of_targets
from pyrel.engine.plans.of_inputs import Mask, option_of, slices_of
from pyrel.engine.results import Results, Samples
from pyrel.methods import IntegratedGradients, SmoothGrad

Bounds = tuple[Float32s, Float32s] | None
Floats = npt.NDArray[np.floating[Any]]


class Integrated(OfCopies):
    """(x − x') ∫ ∂f/∂x (x' + α (x − x')) dα, by Gauss-Legendre quadrature.

    Parameters
    ----------
    method : IntegratedGradients
    shape : tuple of int
        Of a sample.
    bounds : pair of flat float32 arrays, or None
        Smallest and largest value of each element.
    baseline : ndarray, shape of a sample
    held : ndarray of bool, broadcast to a sample, optional
        Which elements are those of the sample on the whole path.

    Raises
    ------
    ValueError
        If the baseline lies outside the bounds.
    """

    def __init__(
        self,
        method: IntegratedGradients,
        shape: tuple[int, ...],
        bounds: Bounds,
        baseline: npt.NDArray[Any],
        held: Mask | None = None,
    ) -> None:
        super().__init__(method.n_steps, shape)
        self._alphas, self._weights = method.quadrature()
        self._baseline = np.array(baseline, np.float32, order="C")
        self._held = held
        if bounds is not None:
            check_inside(self._baseline, *bounds, held)

    def _baselines(self, values: Float32s) -> Float32s:
        """Return the baseline, or that of each sample, whose own the elements are that are held."""
        return (
            self._baseline if self._held is None else np.where(self._held, values, self._baseline)
        )

    def fill(self, copies: Float32s, values: Float32s, first: int) -> None:
        """Write points of the paths."""
        start = self._baselines(values)
        way = values - start
        for copy, alpha in zip(copies, self._alphas[first:], strict=False):
            np.multiply(way, np.float32(alpha), out=copy)
            copy += start

    def add(self, total: Float64s, first: int, found: Float32s, values: Float32s) -> None:
        """Add gradients, times their weights, in the order of the path."""
        for gradient, weight in zip(found, self._weights[first:], strict=False):
            gradient *= np.float32(weight)
            total += gradient

    def finish(self, runner: Runner, total: Float64s, here: Samples, values: Float32s) -> None:
        """Multiply by the way from the baseline, and compare with the difference of the outputs."""
        results, targets = here.results, here.targets
        assert targets is not None
        assert results.relevance is not None
        baselines = self._baselines(values)
        results.relevance[:] = self.shared_out(runner, total, here, values)
        start = of_targets(results.output, targets)
        start -= of_targets(self._at_baseline(runner, baselines, here), targets)
        sums = results.relevance.reshape(len(targets), -1).sum(axis=1, dtype=np.float64)
        results.conservation[:] = sums - start

    def shared_out(
        self, runner: Runner, total: Float64s, here: Samples, values: Float32s
    ) -> Floats:
        """Return relevance of a mean of gradients; it may be overwritten."""
        total *= values.astype(np.float64) - self._baselines(values)
        return total

    def _at_baseline(self, runner: Runner, baselines: Float32s, here: Samples) -> Float32s:
        rows = baselines.reshape(-1, *self.shape)
        results = Results.places(None, len(rows), runner.classes)
        with of_baseline():
            runner.run(EXPLAIN, Samples(rows, None, results))
        return results.output


@contextmanager
def of_baseline() -> Iterator[None]:
    """Say of a run that is refused that it is the baseline's."""
    try:
        yield
    except ValueError as error:
        raise ValueError(
            "baseline: the model's output for it is NaN or infinite: the computation overflows in "
            "float32"
        ) from error


def check_inside(
    baseline: Float32s, low: Float32s, high: Float32s, held: Mask | None = None
) -> None:
    """Refuse a baseline that lies outside the bounds, but for what is held."""
    flat = baseline.reshape(-1)
    beyond = (flat < low) | (flat > high)
    outside = np.flatnonzero(beyond if held is None else beyond & ~held)
    if outside.size:
        element = int(outside[0])
        raise ValueError(
            f"baseline: wanted values in [low, high] = [{low[element]}, {high[element]}], got "
            f"{flat[element]}"
        )


class Smooth(OfCopies):
    """The mean of gradients, or of their squares, at x + noise.

    The noise of copy k is the same for all samples, but for its size: so a sample gets the same in
    any batch.

    Parameters
    ----------
    method : SmoothGrad
    inputs : Inputs
    steps : int
    held : ndarray of bool, shape of a row of several inputs, optional
        Which elements get no noise.

    Raises
    ------
    ValueError
        If the method's ``std`` does not fit the input.
    """

    def __init__(
        self, method: SmoothGrad, inputs: Inputs, steps: int, held: Mask | None = None
    ) -> None:
        shape = inputs.of_steps(steps)
        super().__init__(method.n_samples, shape)
        self._method, self._held = method, held
        self._size: Float32s | None = None  # of the noise, (...); by sample if None
        self._ranges: list[tuple[slice, Float32s | None]] = []  # of each input, where it is known
        if method.std is not None:
            self._size = np.array(option_of("std", method.std, inputs, steps), np.float32)
            return
        bounds = inputs.bounds(steps)
        for where in slices_of(inputs, steps):
            ends = None if bounds is None else (bounds[0][where], bounds[1][where])
            known = ends is not None and all(np.isfinite(end).all() for end in ends)
            self._ranges.append((where, ends[1] - ends[0] if known and ends is not None else None))

    def fill(self, copies: Float32s, values: Float32s, first: int) -> None:
        """Write samples with noise."""
        size = self._size_for(values)
        if self._held is not None:
            size = np.where(self._held, np.float32(0), size)
        for k, copy in enumerate(copies, start=first):
            random = np.random.default_rng([self._method.seed, k])
            noise = random.standard_normal(self.shape, np.float32)
            np.multiply(size, noise, out=copy)
            copy += values

    def _size_for(self, values: Float32s) -> Float32s:
        """Return the size of the noise, (samples, ...) or for all of them."""
        if self._size is not None:
            return self._size
        flat = values.reshape(len(values), -1)
        sizes = np.empty_like(flat)
        with np.errstate(over="ignore"):
            for where, known in self._ranges:
                part = flat[:, where]
                spread = (part.max(axis=1) - part.min(axis=1))[:, None] if known is None else known
                sizes[:, where] = np.float32(self._method.noise) * spread
        return sizes.reshape(values.shape)

    def add(self, total: Float64s, first: int, found: Float32s, values: Float32s) -> None:
        """Add gradients or their squares."""
        for gradient in found:
            total += np.square(gradient, out=gradient) if self._method.squared else gradient

    def finish(self, runner: Runner, total: Float64s, here: Samples, values: Float32s) -> None:
        """Divide by their number."""
        assert here.results.relevance is not None
        here.results.relevance[:] = total / self.copies
