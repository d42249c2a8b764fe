# SPDX-License-Identifier: Apache-2.0
"""Products of matrices that both depend on the input."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pyrel.compiler.graph.nodes import Addresses, Node


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
        return self.inputs[:, : self.rows * self.depth].reshape(-1, self.rows, self.depth)

    @property
    def right(self) -> Addresses:
        """Addresses of the right matrices, (products, depth, columns)."""
        return self.inputs[:, self.rows * self.depth :].reshape(-1, self.depth, self.columns)

    def of(self, left: Addresses, right: Addresses) -> Matmul:
        """Return the product of other addresses, of these shapes or transposed ones."""
        return replace(
            self, inputs=side_by_side(left, right), rows=left.shape[1], depth=left.shape[2]
        )


def side_by_side(left: Addresses, right: Addresses) -> Addresses:
    """Return the inputs of a `Matmul`, given its left and right matrices."""
    return np.concatenate([left.reshape(len(left), -1), right.reshape(len(right), -1)], axis=1)
