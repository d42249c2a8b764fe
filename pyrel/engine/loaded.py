# SPDX-License-Identifier: Apache-2.0
"""Hands programs to the compiled engine, which checks them and packs their matrices."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple, TypeAlias, cast, get_args, get_type_hints

import numpy as np

from pyrel import _core
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import (
    Epilogue,
    Instruction,
    Offsets,
    Planned,
    Repeat,
    Template,
)
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.step_pattern import Pattern

_Rows: TypeAlias = Iterator[tuple[int, Offsets]]


class Weights(NamedTuple):
    """Matrices, vectors and tables that programs share, and what of the matrices is packed."""

    program: _core.Program
    packed: _core.PackedMatrices


def bind(program: Program, isa: str, weights: Weights | None = None) -> _core.Engine:
    """Bind a program to an instruction set.

    Parameters
    ----------
    program : Program
    isa : str
    weights : Weights, optional
        Of a pattern that the program is written by, for the same instruction set. They are not
        copied again, nor is packed again what an engine in use has packed of them.

    Raises
    ------
    ValueError
        An instruction reads or writes what is not the program's own, or a limit is too small.
    """
    core = checked(program, weights)
    packed = None if weights is None else weights.packed
    return _core.Engine(core, isa, packed, program.limits.packed_bytes(program.matrices))


def checked(program: Program, weights: Weights | None = None) -> _core.Program:
    """Return a program as every engine takes it; options and errors are those of `bind`."""
    core = _core.Program(
        input_size=program.input_size,
        arena_size=program.arena_size,
        classes=program.classes,
        conserves=program.conserves,
        weights=None if weights is None else weights.program,
        **program.limits.of_program(),
    )
    program.limits.check("memory", program.arena_size, "floats of working memory")
    _add_constants(core, program)
    for item in program.instructions:
        if isinstance(item, Repeat):
            core.begin_repeat(item.count)
            for instruction in item.body:
                _add(core, program, instruction)
            core.end_repeat()
        else:
            _add(core, program, item)
    core.finish()
    return core


def bind_weights(pattern: Pattern, isa: str) -> Weights:
    """Return what the programs of all numbers of steps share, for `bind`; the same every time."""
    if isa not in pattern.packed:
        core = _core.Program(input_size=1, arena_size=1, classes=1, conserves=False)
        _add_constants(core, pattern)
        pattern.packed[isa] = Weights(core, _core.PackedMatrices(isa))
    return cast(Weights, pattern.packed[isa])


def _add_constants(core: _core.Program, made: Program | Pattern) -> None:
    """Add those that are not there yet; their numbers stay the same."""
    for matrix in made.matrices[core.matrices :]:
        core.add_matrix(matrix)
    for vector in made.vectors[core.vectors :]:
        core.add_vector(vector)
    for table in made.tables[core.tables :]:
        core.add_table(table)


def _add(core: _core.Program, program: Program, instruction: Instruction) -> None:
    template = instruction.template
    spaces = [operand.space.value for operand in template.operands()]
    offsets = np.ascontiguousarray(instruction.offsets)
    rows = iter(list(zip(spaces, offsets, strict=True)))
    core.add(type(template).__name__, _fields(template, rows, program))


def _fields(record: Template | Epilogue, rows: _Rows, program: Program) -> dict[str, Any]:
    """Return the fields of a template, or of an epilogue, as the engine takes them.

    Templates list their operands in the order of their fields, so each space takes the next rows.
    """
    found = {name: _field(getattr(record, name), rows, program) for name in _NAMES[type(record)]}
    if "index" in found:
        found["index"] = program.indices[found["index"]]
    return found


def _field(value: Any, rows: _Rows, program: Program) -> Any:
    if isinstance(value, Space):
        return next(rows)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, tuple):
        return [_field(item, rows, program) for item in value]
    return _fields(value, rows, program) if isinstance(value, Epilogue) else value


def _names(kind: Any) -> tuple[str, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(name for name, hint in hints.items() if hint != Planned)


_NAMES: dict[type[Any], tuple[str, ...]] = {
    kind: _names(kind) for kind in (*get_args(Template), Epilogue)
}
