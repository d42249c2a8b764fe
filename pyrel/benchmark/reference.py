# SPDX-License-Identifier: Apache-2.0
"""Reference answers in float64, with the error that float32 may make.

The bounds are those of the project's tests. A sum of products that float32 accumulates is off by
4 ε Σ|terms| at most, apart from rare exceptions; bounds of inputs add to it in quadrature, times
the weights. That bounds the outputs, and tells which ReLUs are so near to zero that float32 may
switch them. A sample is *decided* if neither the predicted class nor, for gradients, any ReLU is in
doubt; a benchmark uses only such samples, so that every timed answer can be checked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pyrel.benchmark.layers import Layer, Layers
from pyrel.benchmark.peers.by_hand import ByHand
from pyrel.benchmark.peers.with_numpy import NumpyLibrary

Floats = npt.NDArray[np.float64]

# Of float32: what all of pyrel promises, for 50 linear nodes one after the other.
RELATIVE = 1e-5
_NODES = 50
_EPSILON = float(np.finfo(np.float32).eps)
_SLAB = 256  # samples at a time, for the memory's sake


@dataclass(frozen=True, eq=False)
class Reference:
    """Right answers for samples, and how they were made.

    Attributes
    ----------
    relevance : float64, shape (n, steps, pixels)
    allowed : float64, shape (n,)
        Largest Euclidean norm of a sample's error.
    decided : bool, shape (n,)
    zeros : dict
        Share of zeros: ``"input"`` and ``"activations"``, these of all ReLUs.
    """

    relevance: Floats
    allowed: Floats
    decided: npt.NDArray[np.bool_]
    zeros: dict[str, float]


def explain(
    layers: Layers, x: npt.NDArray[np.floating], method: str, *, box: bool = True
) -> Reference:
    """Explain samples (n, steps, pixels) in [0, 1] in float64; `box` as `ByHand` takes it."""
    explainer = ByHand(layers, NumpyLibrary(np.float64), method, box=box)
    slabs = [x[i : i + _SLAB].astype(np.float64) for i in range(0, len(x), _SLAB)]
    relevance = np.concatenate([explainer(slab) for slab in slabs])
    forward = [_Forward(layers, slab) for slab in slabs]
    score, gap, unknown, margin = (
        np.concatenate(parts) for parts in zip(*(f.doubts() for f in forward), strict=True)
    )
    decided, relative = gap > 0, np.full(len(x), RELATIVE * max(1.0, _depth(layers) / _NODES))
    if method == "deep_taylor":
        decided &= score > unknown
        relative += np.divide(unknown, score, out=np.zeros_like(score), where=decided)
    else:
        decided &= margin > 1
    norm = np.sqrt((relevance.reshape(len(x), -1) ** 2).sum(axis=1))
    active = sum(f.active for f in forward) / sum(f.units for f in forward)
    zeros = {"input": float((x == 0).mean()), "activations": 1.0 - float(active)}
    return Reference(relevance, relative * norm, decided & (norm > 0), zeros)


def _depth(layers: Layers) -> int:
    """Linear nodes one after the other."""
    return len(layers.encoders) + 2 * layers.steps - 1 + len(layers.readers)


class _Forward:
    """Values with their float32 bounds, layer by layer."""

    def __init__(self, layers: Layers, x: Floats) -> None:
        n = len(x)
        self.margin = np.full(n, np.inf)
        self.active = self.units = 0
        state: tuple[Floats, Floats] | None = None
        for t in range(layers.steps):
            step = (x[:, t], np.zeros_like(x[:, t]))
            for encoder in layers.encoders:
                step = self._relu(*_affine(encoder, *step))
            if state is None:
                weight = layers.cell.weight[: layers.encoded]
                state = self._relu(*_affine(Layer(weight, layers.cell.bias), *step))
                continue
            assert layers.feedback is not None
            fed = self._relu(*_affine(layers.feedback, *state))
            joined = (np.concatenate(pair, axis=1) for pair in zip(step, fed, strict=True))
            state = self._relu(*_affine(layers.cell, *joined))
        assert state is not None
        for reader in layers.readers[:-1]:
            state = self._relu(*_affine(reader, *state))
        self.output, self.bound = _affine(layers.readers[-1], *state)

    def _relu(self, z: Floats, bound: Floats) -> tuple[Floats, Floats]:
        ratio = np.divide(np.abs(z), bound, out=np.full_like(z, np.inf), where=bound > 0)
        self.margin = np.minimum(self.margin, ratio.min(axis=1))
        self.active += int((z > 0).sum())
        self.units += z.size
        return np.maximum(z, 0), np.where(z > -bound, bound, 0.0)

    def doubts(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Return the largest output, its lead beyond all bounds, its own bound, and the margin."""
        rows = np.arange(len(self.output))
        best = self.output.argmax(axis=1)
        score, unknown = self.output[rows, best], self.bound[rows, best]
        rivals = self.output + self.bound
        rivals[rows, best] = -np.inf
        return score, score - unknown - rivals.max(axis=1), unknown, self.margin


def _affine(layer: Layer, a: Floats, bound: Floats) -> tuple[Floats, Floats]:
    weight = layer.weight.astype(np.float64)
    magnitude = np.abs(a) @ np.abs(weight) + np.abs(layer.bias)
    variance = bound**2 @ weight**2 + (4 * _EPSILON * magnitude) ** 2
    return a @ weight + layer.bias, np.sqrt(variance)
