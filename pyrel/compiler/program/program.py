# SPDX-License-Identifier: Apache-2.0
"""Programs as data: instructions with the memory they touch, matrices and vectors.

A `Program` is what lowering makes and what an engine runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from pyrel.compiler.program.file_limits import NO_LIMITS, Limits
from pyrel.compiler.program.instructions import Float32s, Instruction, Offsets, Repeat
from pyrel.compiler.program.single import single

_SAMPLE = 1 << 14  # elements of an array that are hashed
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
    keeps_forward : bool
        Whether its way back can run again after the same forward pass; see
        `pyrel.compiler.program.keep_forward`.
    matrices : sequence of ndarray
        A list, to which more can be added; or what an engine gives back of those that it packed.
    limits : Limits
        Of what loading it may take.
    """

    input_size: int
    classes: int
    conserves: bool
    arena_size: int = 0
    instructions: tuple[Instruction | Repeat, ...] = ()
    matrices: Sequence[Float32s] = field(default_factory=list)
    vectors: list[Float32s] = field(default_factory=list)
    indices: list[Offsets] = field(default_factory=list)
    tables: list[Float32s] = field(default_factory=list)
    limits: Limits = NO_LIMITS
    keeps_forward: bool = False
    _interned: dict[tuple[str, Contents], int] = field(default_factory=dict)

    def matrix(self, values: npt.ArrayLike) -> int:
        """Index of a (depth, columns) matrix, stored once for equal contents."""
        return self._intern("matrix", self.matrices, single(values))

    def take_matrix(self, array: Float32s) -> int:
        """Index of a matrix that is in float32 already, and is not copied; so it must not change.

        It may be a view, such as the transpose of another one.
        """
        return self._intern("matrix", self.matrices, array)

    def vector(self, values: npt.ArrayLike) -> int:
        """Index of a vector, stored once for equal contents."""
        return self._intern("vector", self.vectors, single(values))

    def index(self, values: npt.ArrayLike) -> int:
        """Index of a gather or scatter index, stored once for equal contents."""
        return self._intern("index", self.indices, np.array(values, dtype=np.int64))

    def table(self, values: npt.ArrayLike) -> int:
        """Index of a (rows, columns) table to embed by, stored once for equal contents."""
        return self._intern("table", self.tables, single(values))

    def _intern(self, kind: str, store: Sequence[_Stored], array: _Stored) -> int:
        key = kind, Contents(array)
        if key not in self._interned:
            assert isinstance(store, list)  # no engine holds it yet
            self._interned[key] = len(store)
            store.append(array)
        return self._interned[key]

    def __str__(self) -> str:
        """Show every instruction: what it writes, of what, and how."""
        from pyrel.compiler.program.text import program_text  # which reads what is here

        return program_text(self)

    @property
    def multiplies_bf16(self) -> bool:
        """Whether it has products of bfloat16."""
        return any(getattr(each.template, "bf16", False) for each in self.every_instruction())

    def every_instruction(self) -> Iterator[Instruction]:
        """Yield all instructions in order, those in the body of a `Repeat` once."""
        for item in self.instructions:
            if isinstance(item, Repeat):
                yield from item.body
            else:
                yield item


class Contents:
    """An array as a key: equal are those of equal bits, shape and type.

    Of a large array the hash is that of a sample, so that interning it takes no time; only arrays
    whose samples are equal are compared.
    """

    __slots__ = ("_array", "_hash")

    def __init__(self, array: npt.NDArray[Any]) -> None:
        # Elements of a view, such as a transpose, are picked without a copy of all.
        flat = array.reshape(-1) if array.flags.c_contiguous else array.flat
        step = -(-array.size // _SAMPLE) or 1
        self._array = array
        self._hash = hash((array.shape, array.dtype.str, flat[::step].tobytes()))

    def __hash__(self) -> int:
        """Hash of shape, type and a sample of the bits."""
        return self._hash

    def __eq__(self, other: object) -> bool:
        """Whether shape, type and all bits are equal."""
        if not isinstance(other, Contents):
            return NotImplemented
        one, two = self._array, other._array
        if one is two:
            return True
        alike = self._hash == other._hash and one.shape == two.shape and one.dtype == two.dtype
        bits = f"u{one.itemsize}"
        return alike and np.array_equal(one.view(bits), two.view(bits))
