# SPDX-License-Identifier: Apache-2.0
"""Programs as text."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from enum import Enum
from itertools import count
from typing import Any

from pyrel.compiler.program.enums import Post, Scale
from pyrel.compiler.program.instructions import (
    Absorb,
    Epilogue,
    Instruction,
    Offsets,
    Operand,
    Repeat,
)
from pyrel.compiler.program.program import Program

# Fields that the operands show.
_SILENT = frozenset({"columns", "span", "classes", "accumulate", "epilogue", "sources"})


def program_text(program: Program) -> str:
    """Show each instruction on a numbered line: what it writes, of what, and how.

    ``arena[16..17]`` are two floats of one sample; ``arena[0..1 +16 × 12]`` twelve rows of two, 16
    floats apart, and ``…`` stands for rows at uneven distances. ``m`` are matrices, ``v`` vectors,
    ``i`` indices and ``t`` tables.
    """
    head = (
        f"{program.input_size} inputs, {program.classes} outputs, "
        f"{program.arena_size} floats of working memory"
    )
    return "\n".join([head, *_lines(program)])


def _lines(program: Program) -> Iterator[str]:
    numbers = count()
    for item in program.instructions:
        if isinstance(item, Repeat):
            yield f"     repeat {item.count} times"
            yield from (f"{next(numbers):>3}    {_line(each, program)}" for each in item.body)
        else:
            yield f"{next(numbers):>3}  {_line(item, program)}"


def _line(instruction: Instruction, program: Program) -> str:
    template = instruction.template
    places = [*map(_place, template.operands(), instruction.offsets)]
    epilogue = getattr(template, "epilogue", Epilogue())
    own = len(places) - len(epilogue.operands(1))
    operands = [*zip(template.operands()[:own], places, strict=False)]
    to_sum = isinstance(template, Absorb)
    written = [place for operand, place in operands if operand.written and not to_sum]
    read = [place for operand, place in operands if to_sum or not operand.written]
    adds = getattr(template, "accumulate", epilogue.accumulate)
    parts = [
        f"{type(template).__name__.lower():<9}",
        f"{', '.join(written) or 'absorbed'} {'+=' if adds or to_sum else '='}",
        ", ".join(read) or "0",
        *(_detail(field, template, program) for field in fields(template)),
        *_epilogue(epilogue, iter(places[own:])),
    ]
    return " ".join(part for part in parts if part)


def _place(operand: Operand, offsets: Offsets) -> str:
    """Show the floats that an operand touches in its rows."""
    first, rows = int(offsets[0]), offsets.size
    run = str(first) if operand.size == 1 else f"{first}..{first + operand.size - 1}"
    if rows > 1:
        apart = {*(offsets[1:] - offsets[:-1]).tolist()}
        run += f" {apart.pop():+d} × {rows}" if len(apart) == 1 else f" … × {rows}"
    return f"{operand.space.name}[{run}]"


def _detail(field: Any, template: Any, program: Program) -> str:
    """Show a field, unless it has its default or the operands show it."""
    name, value = field.name, getattr(template, field.name)
    if name == "matrix":
        return f"@ m{value} ({'×'.join(map(str, program.matrices[value].shape))})"
    if name in ("vector", "index", "table"):
        return f"{name[0]}{value}" if value >= 0 else ""
    if name in _SILENT or isinstance(value, tuple | None) or value == field.default:
        return ""
    if isinstance(value, Enum):
        return "" if type(value).__name__ == "Space" else value.name
    return name if value is True else f"{name}={value:g}"


def _epilogue(epilogue: Epilogue, operands: Iterator[str]) -> Iterator[str]:
    """Show what happens to a result, in that order."""
    if epilogue.bias >= 0:
        yield f"+ v{epilogue.bias}"
    if epilogue.scale == Scale.vector:
        yield f"* v{epilogue.scale_vector}"
    elif epilogue.scale == Scale.operand:
        yield f"* {next(operands)}"
    elif epilogue.scale == Scale.operand_minus_vector:
        yield f"* ({next(operands)} - v{epilogue.scale_vector})"
    if epilogue.post != Post.none:
        yield epilogue.post.name
        if epilogue.post_space is not None:
            yield next(operands)
        if epilogue.post_vector >= 0:
            yield f"+ v{epilogue.post_vector}"
        if epilogue.epsilon:
            yield f"epsilon={epilogue.epsilon:g}"
