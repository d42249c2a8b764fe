# SPDX-License-Identifier: Apache-2.0
"""Products of two matrices that both depend on the input."""

from __future__ import annotations

import math

import numpy as np
import torch

from pyrel.compiler.capture.operators.operands import UnsupportedOperandsError
from pyrel.compiler.capture.samples import addresses_of
from pyrel.compiler.capture.traced import Traced
from pyrel.compiler.capture.tracer import Tracer
from pyrel.compiler.graph.matrices import Matmul, left_and_right
from pyrel.compiler.graph.nodes import Addresses
from pyrel.compiler.limits import MOST_PRODUCTS


def of_values(tracer: Tracer, left: Traced, right: Traced) -> Traced:
    """Multiply matrices that both depend on the input.

    With a vector, or with constants among few numbers, they are written out product by product.
    """
    if min(left.ids.dim(), right.ids.dim()) < 2:
        raise UnsupportedOperandsError("a vector is multiplied; matrices are wanted")
    rows, columns = left.ids.unsqueeze(-1), right.ids.unsqueeze(-3)
    count = math.prod(np.broadcast_shapes(rows.shape, columns.shape))
    with_vector = left.ids.shape[-2] == 1 or right.ids.shape[-1] == 1
    if count <= MOST_PRODUCTS and (with_vector or _hold_known(tracer, left, right)):
        products = tracer.product(Traced(rows), Traced(columns)).ids
        return tracer.add(*(Traced(part) for part in products.unbind(-2)))
    return _multiplied(tracer, left, right)


def _multiplied(tracer: Tracer, left: Traced, right: Traced) -> Traced:
    """Make one node of all products; other dimensions than the last two broadcast."""
    lead = np.broadcast_shapes(left.ids.shape[:-2], right.ids.shape[:-2])
    (rows, depth), columns = left.ids.shape[-2:], right.ids.shape[-1]
    pairs = [
        value.ids.expand(*lead, *value.ids.shape[-2:]).reshape(-1, value.ids.shape[-2:].numel())
        for value in (left, right)
    ]

    def make(both: Addresses) -> Addresses:
        builder = tracer.builder
        if (both < 0).all():
            matrices = left_and_right(builder.values(both), rows, depth)
            return builder.constants((matrices[0] @ matrices[1]).reshape(len(both), -1))
        node = Matmul(builder.end, both, rows, depth, module=builder.module)
        return builder.added(node).reshape(len(both), -1)

    products = tracer.rows(Traced(torch.cat(pairs, 1)), make).ids
    return Traced(products.reshape(*lead, rows, columns))


def _hold_known(tracer: Tracer, *values: Traced) -> bool:
    """Whether constants, or functions of single token ids, are among the elements."""
    lookups = tracer.builder.lookups
    return any(
        bool((value.ids < 0).any()) or bool(lookups.are(addresses_of(value.ids.numpy())).any())
        for value in values
    )
