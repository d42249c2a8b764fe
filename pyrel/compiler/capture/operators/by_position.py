# SPDX-License-Identifier: Apache-2.0
"""Elements at positions that are counted from token ids, such as the last step of a sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from pyrel.compiler.capture.operators import arithmetic, of_counts
from pyrel.compiler.capture.operators.operands import (
    UnsupportedOperandsError,
    constant,
    refuse_ids,
)
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer


def index(tracer: Tracer, value: Any, indices: Any) -> Traced:
    """``aten.index`` with one index, of the first dimensions, that is counted from token ids."""
    counted = [d for d, i in enumerate(indices) if isinstance(i, Traced)]
    if len(counted) != 1 or any(i is None for i in indices):
        raise UnsupportedOperandsError(
            "the index depends on the input; one index may be counted from token ids, that of the "
            "step, beside constant ones of the dimensions before and behind, as in "
            "out[torch.arange(len(x)), lengths - 1]"
        )
    refuse_ids(tracer, value)
    ids, dim = tracer.ids(value), counted[0]
    others = [None if d == dim else constant(i, "index") for d, i in enumerate(indices)]
    shape = np.broadcast_shapes(
        *(i.ids.shape if isinstance(i, Traced) else i.shape for i in indices)
    )
    places = indices[dim].ids.expand(shape)

    def at(position: int) -> torch.Tensor:
        full = torch.full(shape, position)
        return ids[tuple(full if other is None else other for other in others)]

    return _chosen(tracer, Traced(places), ids.shape[dim], at, wraps=True)


def gather(tracer: Tracer, value: Any, dim: int, places: Traced) -> Traced:
    """``aten.gather`` at positions that are counted from token ids."""
    refuse_ids(tracer, value)
    ids = tracer.ids(value)

    def at(position: int) -> torch.Tensor:
        return ids.gather(dim, torch.full(places.ids.shape, position))

    return _chosen(tracer, places, ids.shape[dim], at, wraps=False)


def _chosen(
    tracer: Tracer, places: Traced, size: int, at: Callable[[int], torch.Tensor], wraps: bool
) -> Traced:
    """Choose among what is ``at`` each position; outside of 0 to size - 1 torch has nothing.

    Where it ``wraps``, positions below zero count from the end.
    """
    first = at(0)
    shape = (*places.ids.shape, *[1] * (first.dim() - places.ids.dim()))
    unique, where = torch.unique(places.ids, return_inverse=True)
    position = Traced(unique)
    if wraps:
        below = of_counts.at_most_zero(tracer, arithmetic.add(tracer, position, 1))
        from_end = arithmetic.multiply(tracer, below, float(size))
        position = tracer.add(position, from_end) if isinstance(from_end, Traced) else position
    of_counts.require_below(tracer, position, size)
    masks = [
        Traced(of_counts.equal(tracer, position, number).ids[where].reshape(shape))
        for number in range(size)
    ]
    return tracer.choose([Traced(at(number)) for number in range(size)], masks)
