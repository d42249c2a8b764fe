# SPDX-License-Identifier: Apache-2.0
"""Degradation curves of several methods on one model, with random order and pixel mass beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import nn

from pyrel.compiler.capture.capture import capture
from pyrel.explainer import Explainer
from pyrel.methods.base import Method
from pyrel.metrics import (
    Degradation,
    DegradationCurves,
    Perturbation,
    Summary,
    agreement,
    degradation,
    pixel_mass_map,
    random_degradation,
)

PIXEL_MASS = "pixel_mass"

_CHUNK = 250  # samples between two steps of the progress bar
_Floats = npt.NDArray[np.float32]
_Classes = npt.NDArray[np.int64]
# Told what is being done, and how much of how much of it is done.
Told = Callable[[str, int, int], None]


@dataclass(frozen=True, eq=False)
class DegradationStudy(DegradationCurves):
    """The curves of one model, and how alike the maps of its methods are.

    Attributes
    ----------
    curves
        By method, "pixel_mass" last: the map of the brightness of the pixels.
    random
        Regions in random order.
    rank_agreement, cosine_agreement
        By pair of methods, see `pyrel.metrics.agreement`.
    """

    curves: dict[str, Degradation]
    random: Degradation
    rank_agreement: dict[tuple[str, str], Summary]
    cosine_agreement: dict[tuple[str, str], Summary]


def degradation_study(
    model: nn.Module,
    x: _Floats,
    y: _Classes,
    methods: Mapping[str, Method] | Sequence[str],
    how: Perturbation,
    *,
    removed: Sequence[int] | None = None,
    draws: int = 5,
    seed: int = 0,
    low: float = 0.0,
    high: float = 1.0,
    progress: Told | None = None,
) -> DegradationStudy:
    """Explain the true class of all samples with all methods, and degrade the samples accordingly.

    Parameters
    ----------
    model
        A module in eval mode.
    x, y
        (n, ...) inputs and (n,) classes.
    methods
        Names, or methods by the names to give them.
    how, removed
        As `pyrel.metrics.degradation` takes them.
    draws, seed
        Of the random order.
    low, high
        Range of the inputs.
    progress
        Called with what is done, and how much of how much.

    Raises
    ------
    ValueError, UnsupportedModelError
        As `pyrel.Explainer` and `pyrel.metrics.degradation`; no method given.
    """
    chosen = methods if isinstance(methods, Mapping) else {name: name for name in methods}
    if not chosen:
        raise ValueError("methods: wanted at least one")
    graph = capture(model, x[:1])
    maps: dict[str, Any] = {}
    for name, method in chosen.items():
        explainer = Explainer(graph, method=method, low=low, high=high)
        maps[name] = relevance_of(explainer, x, y, _part(progress, f"explaining: {name}"))
    forward = explainer.forward
    curves = {
        name: degradation(forward, x, relevance, y, how=how, removed=removed,
                          progress=_part(progress, f"degrading: {name}"))
        for name, relevance in {**maps, PIXEL_MASS: pixel_mass_map(x, low)}.items()
    }  # fmt: skip
    told = _part(progress, "degrading: random order")
    random = random_degradation(
        forward, x, y, how=how, removed=removed, draws=draws, seed=seed, progress=told
    )
    return DegradationStudy(curves, random, agreement(maps, "rank"), agreement(maps, "cosine"))


def relevance_of(
    explainer: Explainer,
    x: _Floats,
    target: _Classes,
    progress: Callable[[int, int], None] | None = None,
) -> _Floats:
    """Explain all samples in chunks, and return their relevance."""
    relevance = np.empty(x.shape, dtype=np.float32)
    for first in range(0, len(x), _CHUNK):
        part = slice(first, min(first + _CHUNK, len(x)))
        explainer(x[part], target=target[part], out=relevance[part])
        if progress is not None:
            progress(part.stop, len(x))
    return relevance


def _part(progress: Told | None, what: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(what, done, total)
