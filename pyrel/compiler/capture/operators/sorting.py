# SPDX-License-Identifier: Apache-2.0
"""Sorted values, and those of a rank: a network of maxima and minima of pairs.

So gradients and relevance go to the value that is chosen. Which pairs are compared does not depend
on values (Batcher 1968; Knuth, *The Art of Computer Programming*, volume 3, algorithm 5.2.2M).
"""

from __future__ import annotations

import math
from typing import Any

import torch

from pyrel.compiler.capture.operators import packing
from pyrel.compiler.capture.operators.operands import NoValue, UnsupportedOperandsError
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.limits import MOST_PRODUCTS

_POSITIONS = NoValue("the position of a sorted value")
_Layers = list[tuple[list[int], list[int]]]


def sort(
    tracer: Tracer, value: Traced, dim: int = -1, descending: bool = False, **options: Any
) -> tuple[Traced, Any]:
    """``aten.sort``: of values, or of the lengths of a batch, as `packing.sort`."""
    if tracer.numbers.is_of_ids_alone(value):
        return packing.sort(tracer, value, dim, descending, **options)
    size = value.ids.shape[dim] if value.ids.dim() else 1
    return _ranked(tracer, value, dim, descending, range(size)), _POSITIONS


def top(
    tracer: Tracer, value: Traced, count: int, dim: int = -1, largest: bool = True, *_: Any
) -> tuple[Traced, NoValue]:
    """``aten.topk``, in order."""
    return _ranked(tracer, value, dim, largest, range(count)), _POSITIONS


def of_rank(
    tracer: Tracer, value: Traced, rank: int, dim: int = -1, keepdim: bool = False
) -> tuple[Traced, NoValue]:
    """``aten.kthvalue``: the value of a rank, the smallest being of rank 1."""
    found = _ranked(tracer, value, dim, False, range(rank - 1, rank)).ids
    return Traced(found if keepdim else found.squeeze(dim)), _POSITIONS


def median(
    tracer: Tracer, value: Traced, dim: int | None = None, keepdim: bool = False
) -> tuple[Traced, NoValue]:
    """``aten.median`` along a dimension: the lower one of two."""
    if dim is None:
        raise UnsupportedOperandsError("the median is of the whole batch; name a dimension")
    return of_rank(tracer, value, (value.ids.shape[dim] - 1) // 2 + 1, dim, keepdim)


def _ranked(tracer: Tracer, value: Traced, dim: int, descending: bool, ranks: range) -> Traced:
    """Return the values of some ranks, in their order along a dimension."""
    rest = value.ids.movedim(dim, -1)
    layers = _pruned(_network(rest.shape[-1]), set(ranks))
    pairs = sum(len(first) for first, _ in layers) * rest[..., 0].numel()
    if pairs > MOST_PRODUCTS:
        raise UnsupportedOperandsError(
            f"sorting takes {pairs:,} comparisons; up to {MOST_PRODUCTS:,} are supported"
        )
    ids = rest.clone()
    minus = torch.tensor(-1.0)
    for first, second in layers:
        a, b = Traced(ids[..., first]), Traced(ids[..., second])
        large = tracer.maximum(a, b, even=False)
        # Of equal values each is chosen once.
        negated = (tracer.scale(each, minus) for each in (b, a))
        small = tracer.scale(tracer.maximum(*negated, even=False), minus)
        ids[..., first], ids[..., second] = (
            (large.ids, small.ids) if descending else (small.ids, large.ids)
        )
    return Traced(ids[..., list(ranks)].movedim(-1, dim))


def _network(size: int) -> _Layers:
    """Places that are compared, layer by layer; the one of each pair that goes first, first."""
    layers: _Layers = []
    top = 1 << max(0, math.ceil(math.log2(max(1, size))) - 1)
    p = top if size > 1 else 0
    while p:
        q, r, d = top, 0, p
        while True:
            first = [i for i in range(size - d) if i & p == r]
            layers.append((first, [i + d for i in first]))
            if q == p:
                break
            d, q, r = q - p, q // 2, p
        p //= 2
    return layers


def _pruned(layers: _Layers, wanted: set[int]) -> _Layers:
    """Leave out the pairs on which no wanted place depends."""
    kept: _Layers = []
    for first, second in reversed(layers):
        pairs = [pair for pair in zip(first, second, strict=True) if wanted & {*pair}]
        wanted = wanted.union(*pairs)
        if pairs:
            kept.append(([i for i, _ in pairs], [j for _, j in pairs]))
    return kept[::-1]
