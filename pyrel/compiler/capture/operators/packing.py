# SPDX-License-Identifier: Apache-2.0
"""Packed sequences whose lengths are made of token ids: each step is taken, or left out, by a mask.

Packed data are interpreted as the padded tensor that they were made of. A layer carries its state
over the steps beyond the end of a sequence, and padding is put there when it is unpacked.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from pyrel.compiler.capture.id_numbers import Kind
from pyrel.compiler.capture.operators import arithmetic, of_counts
from pyrel.compiler.capture.operators.operands import NoValue, UnsupportedOperandsError, refuse_ids
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer


@dataclass(frozen=True)
class PackedSizes(NoValue):
    """The batch sizes of packed sequences, which depend on what the samples' lengths are.

    ``within`` and ``beyond`` are masks (n, steps) of the steps that a sequence has, and has not.
    """

    lengths: Traced
    within: Traced
    beyond: Traced


def batch_sizes(tracer: Tracer, lengths: Traced, steps: int, _batch: int) -> PackedSizes:
    """``pyrel::packed_lengths``: what ``pack_padded_sequence`` makes of lengths."""
    if not tracer.numbers.is_of_ids_alone(lengths) or tracer.numbers.kind(lengths) == Kind.other:
        raise UnsupportedOperandsError(
            "sequences are packed with lengths that depend on values of the input; they may be "
            "counted from token ids, or be an argument of forward (lengths=True)"
        )
    # torch refuses sequences of no step, and longer ones than there are.
    short = of_counts.at_most_zero(tracer, lengths)
    long = tracer.relu(arithmetic.subtract(tracer, lengths, steps))
    of_counts.require(tracer, tracer.add(short, long))
    number = torch.arange(steps)[None]
    left = arithmetic.subtract(tracer, Traced(lengths.ids[:, None]), number)
    beyond = of_counts.at_most_zero(tracer, left)
    within = of_counts.opposite(tracer, beyond)
    return PackedSizes("the sizes of packed batches", lengths, within, beyond)


def lengths_of(_tracer: Tracer, sizes: PackedSizes, _batch: int) -> Traced:
    """``pyrel::lengths_of``: the lengths that sequences were packed with."""
    return sizes.lengths


def padded(tracer: Tracer, value: Any, sizes: Any, filler: float) -> Any:
    """``pyrel::padded``: put padding beyond the ends of sequences, (steps, n, ...)."""
    if not isinstance(sizes, PackedSizes):
        return value
    refuse_ids(tracer, value)
    masks = [Traced(_over(m, tracer.ids(value))) for m in (sizes.within, sizes.beyond)]
    return tracer.choose([value, torch.as_tensor(float(filler))], masks)


def _over(mask: Traced, ids: torch.Tensor) -> torch.Tensor:
    """Give a mask, (n, steps), the shape of values (steps, n, ...)."""
    by_step = mask.ids.transpose(0, 1)
    return by_step.reshape(*by_step.shape, *[1] * (ids.dim() - 2))


def sort(
    tracer: Tracer, value: Traced, dim: int = -1, descending: bool = False, **_: Any
) -> tuple[Traced, torch.Tensor]:
    """``aten.sort`` of the lengths of a batch, which only changes the order of its samples.

    Any order stands for the one that the lengths have. It is not the samples' own, so that a model
    that does not put them back is seen.
    """
    length = value.ids.shape[0] if value.ids.dim() == 1 else 0
    if length != tracer.batch or not tracer.is_batch(value, 0):
        raise UnsupportedOperandsError("values of the input are sorted")
    if not tracer.numbers.is_of_ids_alone(value):
        raise UnsupportedOperandsError(
            "samples are sorted by what depends on values of the input; lengths that are counted "
            "from token ids may be sorted"
        )
    order = torch.arange(length).roll(1)
    return Traced(value.ids[order]), order


def argsort(tracer: Tracer, value: Traced, *args: Any, **kwargs: Any) -> torch.Tensor:
    """``aten.argsort``, as `sort`."""
    return sort(tracer, value, *args, **kwargs)[1]
