# SPDX-License-Identifier: Apache-2.0
"""Programs whose matrices an engine keeps packed, and nobody keeps as they were.

A compiled explainer holds its weights once for each way that a product takes them. What needs them
as they were, such as `pyrel.Explainer.save`, gets them back from there, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import overload

import numpy as np

from pyrel import _core
from pyrel.compiler.program.instructions import Float32s, Gemm
from pyrel.compiler.program.program import Program
from pyrel.engine.compiled import Compiled
from pyrel.engine.engines import Engine


def kept_packed(compiled: Compiled, engines: Mapping[str, Engine]) -> Compiled:
    """Return the programs that these engines are bound to, without matrices of the model's."""
    programs = {
        name: replace(program, matrices=PackedMatrices(program, engines[name]), _interned={})
        for name, program in compiled.programs.items()
    }
    return replace(compiled, programs=programs)


class PackedMatrices(Sequence[Float32s]):
    """The matrices of a program that an engine holds; each is unpacked anew when it is asked for.

    Those that the engine holds rounded to bfloat16 only are copied, and kept; and all those that a
    device holds.

    Parameters
    ----------
    program : Program
        That has its own.
    engine : Engine
        Bound to it.
    """

    def __init__(self, program: Program, engine: Engine) -> None:
        self._engine = engine if isinstance(engine, _core.Engine) else None
        templates = [each.template for each in program.every_instruction()]
        packed = {t.matrix for t in templates if isinstance(t, Gemm) and not t.bf16}
        self._count = len(program.matrices)
        self._own = {
            number: np.array(matrix)  # what it is a view of may change
            for number, matrix in enumerate(program.matrices)
            if self._engine is None or number not in packed
        }

    @property
    def own_bytes(self) -> int:
        """What is held beside the engine."""
        return sum(matrix.nbytes for matrix in self._own.values())

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    @overload
    def __getitem__(self, index: int) -> Float32s: ...

    @overload
    def __getitem__(self, index: slice) -> list[Float32s]: ...

    def __getitem__(self, index: int | slice) -> Float32s | list[Float32s]:
        """Return one as it was, or several."""
        if isinstance(index, slice):
            return [self[number] for number in range(self._count)[index]]
        number = range(self._count)[index]
        if self._engine is None or number in self._own:
            return self._own[number]
        return self._engine.matrix(number)
