# SPDX-License-Identifier: Apache-2.0
"""Programs as data: instructions with the memory they touch, matrices and vectors.

A `Program` is what lowering makes and what an engine runs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pyrel.compiler.program.instructions import Float32s, Instruction, Offsets, Repeat
from pyrel.compiler.program.limits import NO_LIMITS, Limits
from pyrel.compiler.program.single import single

_Stored = TypeVar("_Stored", Float32s, Offsets)


@dataclass(eq=False)
class Program:
    """Everything the engine needs to explain a batch with one method.

    Attributes
    ----------
    input_size, arena_size, classes : int
        Floats per sample of the input, the working memory and the output.
    conserves : bool
        Whether relevance is propagated, so that its sum can be compared with what was put in.
    limits : Limits
        Of what loading it may take.
    """

    input_size: int
    classes: int
    conserves: bool
    arena_size: int = 0
    instructions: tuple[Instruction | Repeat, ...] = ()
    matrices: list[Float32s] = field(default_factory=list)
    vectors: list[Float32s] = field(default_factory=list)
    indices: list[Offsets] = field(default_factory=list)
    tables: list[Float32s] = field(default_factory=list)
    limits: Limits = NO_LIMITS
    _interned: dict[tuple[str, bytes, tuple[int, ...]], int] = field(default_factory=dict)

    def matrix(self, values: npt.ArrayLike) -> int:
        """Index of a (depth, columns) matrix, stored once for equal contents."""
        return self._intern("matrix", self.matrices, single(values))

    def vector(self, values: npt.ArrayLike) -> int:
        """Index of a vector, stored once for equal contents."""
        return self._intern("vector", self.vectors, single(values))

    def index(self, values: npt.ArrayLike) -> int:
        """Index of a gather or scatter index, stored once for equal contents."""
        return self._intern("index", self.indices, np.array(values, dtype=np.int64))

    def table(self, values: npt.ArrayLike) -> int:
        """Index of a (rows, columns) table to embed by, stored once for equal contents."""
        return self._intern("table", self.tables, single(values))

    def _intern(self, kind: str, store: list[_Stored], array: _Stored) -> int:
        key = kind, *content_of(array)
        if key not in self._interned:
            self._interned[key] = len(store)
            store.append(array)
        return self._interned[key]

    def every_instruction(self) -> Iterator[Instruction]:
        """Yield all instructions in order, those in the body of a `Repeat` once."""
        for item in self.instructions:
            if isinstance(item, Repeat):
                yield from item.body
            else:
                yield item


def content_of(array: npt.NDArray[Any]) -> tuple[bytes, tuple[int, ...]]:
    """Tell contiguous arrays apart by their contents and shape."""
    return hashlib.blake2b(array.data).digest(), array.shape
