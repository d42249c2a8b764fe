# SPDX-License-Identifier: Apache-2.0
"""Products of matrices that both depend on the input."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pyrel.compiler.graph.nodes import Addresses, Node

_Number = TypeVar("_Number", np.int64, np.float64)


@dataclass(frozen=True, eq=False)
class Matmul(Node):
    """Products of two matrices that both depend on the input, one for each row of ``inputs``.

    A row of ``inputs``, (products, rows · depth + depth · columns), has a left matrix and a right
    one, each row by row. So have the outputs, (products, rows, columns).
    """

    rows: int
    depth: int

    @property
    def columns(self) -> int:
        """Number of columns of the right matrices, and of the products."""
        return int(self.inputs.shape[1]) // self.depth - self.rows

    @property
    def size(self) -> int:
        """Number of outputs of all products."""
        return int(self.inputs.shape[0]) * self.rows * self.columns

    @property
    def left(self) -> Addresses:
        """Addresses of the left matrices, (products, rows, depth)."""
        return left_and_right(self.inputs, self.rows, self.depth)[0]

    @property
    def right(self) -> Addresses:
        """Addresses of the right matrices, (products, depth, columns)."""
        return left_and_right(self.inputs, self.rows, self.depth)[1]

    def of(self, left: Addresses, right: Addresses) -> Matmul:
        """Return the product of other addresses, of these shapes or transposed ones."""
        return replace(
            self, inputs=side_by_side(left, right), rows=left.shape[1], depth=left.shape[2]
        )


def side_by_side(left: Addresses, right: Addresses) -> Addresses:
    """Return the inputs of a `Matmul`, given its left and right matrices."""
    return np.concatenate([left.reshape(len(left), -1), right.reshape(len(right), -1)], axis=1)


def left_and_right(
    both: npt.NDArray[_Number], rows: int, depth: int
) -> tuple[npt.NDArray[_Number], npt.NDArray[_Number]]:
    """Return left and right matrices, which lie side by side along the last axis."""
    lead, cut = both.shape[:-1], rows * depth
    left, right = both[..., :cut], both[..., cut:]
    return left.reshape(*lead, rows, depth), right.reshape(*lead, depth, -1)
