# SPDX-License-Identifier: Apache-2.0
"""The plans of methods that average gradients: along a path, or around a sample."""

from __future__ import annotations

import numpy as np

from pyrel.engine.arrays import Float32s
from pyrel.engine.plans.base import EXPLAIN, Runner
from pyrel.engine.plans.copies import Float64s, OfCopies, broadcast, of_targets
from pyrel.engine.results import Results, Samples
from pyrel.methods import IntegratedGradients, SmoothGrad

Bounds = tuple[Float32s, Float32s] | None


class Integrated(OfCopies):
    """(x − x') ∫ ∂f/∂x (x' + α (x − x')) dα, by Gauss-Legendre quadrature.

    Parameters
    ----------
    method : IntegratedGradients
    shape : tuple of int
        Of a sample.
    bounds : pair of flat float32 arrays, or None
        Smallest and largest value of each element.

    Raises
    ------
    ValueError
        If the baseline has another shape, or lies outside the bounds.
    """

    def __init__(self, method: IntegratedGradients, shape: tuple[int, ...], bounds: Bounds) -> None:
        super().__init__(method.n_steps, shape)
        self._alphas, self._weights = method.quadrature()
        given = np.zeros(()) if method.baseline is None else method.baseline
        self._baseline = np.array(broadcast("baseline", given, shape), np.float32, order="C")
        if bounds is not None:
            _check_inside(self._baseline, *bounds)

    def fill(self, copies: Float32s, values: Float32s, first: int) -> None:
        """Write points of the paths."""
        way = values - self._baseline
        for copy, alpha in zip(copies, self._alphas[first:], strict=False):
            np.multiply(way, np.float32(alpha), out=copy)
            copy += self._baseline

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
        total *= values.astype(np.float64) - self._baseline
        results.relevance[:] = total
        start = of_targets(results.output, targets) - of_targets(self._at_baseline(runner), targets)
        sums = results.relevance.reshape(len(targets), -1).sum(axis=1, dtype=np.float64)
        results.conservation[:] = sums - start

    def _at_baseline(self, runner: Runner) -> Float32s:
        results = Results.places(None, 1, runner.classes)
        try:
            runner.run(EXPLAIN, Samples(self._baseline[None], None, results))
        except ValueError as error:
            raise ValueError(
                "baseline: the model's output for it is NaN or infinite: the computation overflows "
                "in float32"
            ) from error
        return results.output


def _check_inside(baseline: Float32s, low: Float32s, high: Float32s) -> None:
    flat = baseline.reshape(-1)
    outside = np.flatnonzero((flat < low) | (flat > high))
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
    shape : tuple of int
        Of a sample.
    bounds : pair of flat float32 arrays, or None
        Smallest and largest value of each element.
    """

    def __init__(self, method: SmoothGrad, shape: tuple[int, ...], bounds: Bounds) -> None:
        super().__init__(method.n_samples, shape)
        self._method = method
        self._size: Float32s | None = None  # of the noise, (...) or a number; by sample if None
        if method.std is not None:
            self._size = np.array(broadcast("std", np.asarray(method.std), shape), np.float32)
        elif bounds is not None and np.isfinite(bounds[0]).all() and np.isfinite(bounds[1]).all():
            self._size = (np.float32(method.noise) * (bounds[1] - bounds[0])).reshape(shape)

    def fill(self, copies: Float32s, values: Float32s, first: int) -> None:
        """Write samples with noise."""
        size = self._size_for(values)
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
        with np.errstate(over="ignore"):
            spread = flat.max(axis=1) - flat.min(axis=1)
        sizes: Float32s = np.float32(self._method.noise) * spread
        return sizes.reshape(-1, *(1 for _ in self.shape))

    def add(self, total: Float64s, first: int, found: Float32s, values: Float32s) -> None:
        """Add gradients or their squares."""
        for gradient in found:
            total += np.square(gradient, out=gradient) if self._method.squared else gradient

    def finish(self, runner: Runner, total: Float64s, here: Samples, values: Float32s) -> None:
        """Divide by their number."""
        assert here.results.relevance is not None
        here.results.relevance[:] = total / self.copies
