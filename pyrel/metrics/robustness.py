# SPDX-License-Identifier: Apache-2.0
"""How far an explanation moves when noise is added to its input."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyrel.metrics.maps import FloatArray, as_maps, as_rows, sum_by_slab
from pyrel.metrics.outputs import IntArray, Progress, as_count, batch_size
from pyrel.metrics.perturbation import MAX_BYTES

# Relevance, or an `Explanation`, of a batch (n, ...) and its classes (n,): an `Explainer`.
Explain = Callable[[NDArray[Any], IntArray], Any]


@dataclass(frozen=True)
class Noise:
    """Noise that is added to inputs, uniform in [-radius, radius] and apart for each element.

    Attributes
    ----------
    radius
        Largest size, above 0.
    draws
        Noisy copies of each sample.
    low, high
        Range of the inputs, to which noisy ones are clipped.
    seed
        Of the noise, which does not depend on the size of batches.
    max_bytes
        Memory for the noisy copies at a time.

    Raises
    ------
    ValueError, TypeError
        If the radius is not above 0 or infinite; draws or bytes below 1.
    """

    radius: float
    draws: int = 10
    low: float = -np.inf
    high: float = np.inf
    seed: int = 0
    max_bytes: int = MAX_BYTES

    def __post_init__(self) -> None:
        """Check the settings."""
        if not 0 < self.radius < np.inf:
            raise ValueError(f"radius: wanted a number above 0, given {self.radius}")
        as_count(self.draws, "draws")
        as_count(self.max_bytes, "max_bytes")

    def batches(self, x: NDArray[Any]) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield, draw after draw, parts of the samples and these with noise."""
        generator = np.random.Generator(np.random.PCG64(self.seed))
        size = batch_size(x, self.max_bytes)
        for _ in range(self.draws):
            for first in range(0, len(x), size):
                part = slice(first, min(first + size, len(x)))
                noise = self.radius * (2.0 * generator.random(x[part].shape) - 1.0)
                yield part, np.clip(x[part] + noise, self.low, self.high).astype(x.dtype)


def noise_sensitivity(
    explain: Explain,
    x: ArrayLike,
    target: ArrayLike,
    noise: Noise,
    *,
    reduce: Literal["max", "mean"] = "max",
    progress: Progress | None = None,
) -> FloatArray:
    """Return how far relevance moves under noise on the input: |R(x + δ) - R(x)| / |R(x)|.

    Yeh et al., On the (in)fidelity and sensitivity of explanations (2019): max-sensitivity,
    relative to the size of the map; Bhatt et al. (2020) take the mean. Norms are Euclidean.

    Parameters
    ----------
    explain
        A function of a batch (n, ...) and classes (n,) that returns relevance in the shape of the
        batch, or an object with it as `relevance`: a `pyrel.Explainer`.
    x
        (n, ...) inputs, floats.
    target
        The explained class, or (n,) classes, which noise does not change.
    noise
        What is added.
    reduce
        "max" or "mean" over the draws.
    progress
        Called with how many noisy copies of how many are explained.

    Returns
    -------
    Shape (n,), at least 0; NaN where all relevances of x are 0.

    Raises
    ------
    ValueError, TypeError
        For unknown `reduce`, relevance of another shape, NaN or infinity; elements of wrong types.

    Examples
    --------
    >>> noise = pyrel.metrics.Noise(radius=0.1)
    >>> moved = pyrel.metrics.noise_sensitivity(lambda x, target: x, np.ones((1, 4)), 0, noise)
    >>> bool(0 < moved[0] <= 0.1)
    True
    """
    inputs, classes = _checked(x, target, reduce)
    maps = _all_relevance(explain, inputs, classes, noise)
    distances, done = np.zeros(len(inputs)), 0
    for part, noisy in noise.batches(inputs):
        moved = _norms(_relevance(explain, noisy, classes[part]) - maps[part])
        distances[part] = _joined(distances[part], moved, reduce)
        done += len(moved)
        if progress is not None:
            progress(done, noise.draws * len(inputs))
    sizes, ratio = _norms(maps), np.full(len(inputs), np.nan)
    np.divide(distances, sizes, out=ratio, where=sizes > 0)
    return ratio if reduce == "max" else ratio / noise.draws


def _joined(before: FloatArray, moved: FloatArray, reduce: str) -> FloatArray:
    return np.maximum(before, moved) if reduce == "max" else before + moved


def _all_relevance(
    explain: Explain, x: NDArray[Any], classes: IntArray, noise: Noise
) -> NDArray[Any]:
    maps, size = np.empty(x.shape), batch_size(x, noise.max_bytes)
    for first in range(0, len(x), size):
        part = slice(first, first + size)
        maps[part] = _relevance(explain, x[part], classes[part])
    return maps


def _relevance(explain: Explain, x: NDArray[Any], classes: IntArray) -> NDArray[Any]:
    answer = explain(x, classes)
    relevance = np.asarray(getattr(answer, "relevance", answer), dtype=np.float64)
    if relevance.shape != x.shape:
        raise ValueError(f"explain: wanted relevance of shape {x.shape}, given {relevance.shape}")
    if not np.isfinite(relevance).all():
        raise ValueError("explain: wanted finite relevance, given NaN or infinity")
    return relevance


def _norms(maps: NDArray[Any]) -> FloatArray:
    norms: FloatArray = np.linalg.norm(as_rows(maps), axis=1)
    return norms


def _checked(x: ArrayLike, target: ArrayLike, reduce: str) -> tuple[NDArray[Any], IntArray]:
    inputs = as_maps(x, "x")
    if inputs.dtype.kind != "f":
        raise TypeError(f"x: wanted floats, to which noise can be added, given {inputs.dtype}")
    sum_by_slab(inputs, np.abs, "x")
    if reduce not in ("max", "mean"):
        raise ValueError(f"reduce: wanted 'max' or 'mean', given {reduce!r}")
    classes = np.asarray(target)
    if classes.dtype.kind not in "iu":
        raise TypeError(f"target: wanted integers, given dtype {classes.dtype}")
    if classes.shape not in ((), (len(inputs),)):
        raise ValueError(f"target: wanted a class or shape ({len(inputs)},), given {classes.shape}")
    return inputs, np.array(np.broadcast_to(classes, (len(inputs),)), dtype=np.int64)
