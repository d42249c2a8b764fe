# SPDX-License-Identifier: Apache-2.0
"""Hands programs to the compiled engine, which checks and packs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

import numpy as np

from pyrel import _core
from pyrel.compiler.program.instructions import (
    Absorb,
    Activate,
    Embed,
    Epilogue,
    Gather,
    Gemm,
    Instruction,
    Map,
    MaxPool,
    Normalise,
    NormaliseBack,
    Offsets,
    PoolRoute,
    Repeat,
    Scatter,
    Seed,
    Slope,
    Template,
)
from pyrel.compiler.program.program import Program
from pyrel.compiler.program.step_pattern import Pattern

_Rows: TypeAlias = list[tuple[int, Offsets]]


def bind(program: Program, isa: str, weights: _core.Program | None = None) -> _core.Program:
    """Pack a program for an instruction set.

    Parameters
    ----------
    program : Program
    isa : str
    weights : _core.Program, optional
        What a program with equal matrices, vectors and tables was bound to, for the same
        instruction set. What it has packed and copied is then used and not made again.

    Raises
    ------
    ValueError
        An instruction reads or writes what is not the program's own, or a limit is too small.
    """
    core = _core.Program(
        input_size=program.input_size,
        arena_size=program.arena_size,
        classes=program.classes,
        conserves=program.conserves,
        isa=isa,
        weights=weights,
        **program.limits.of_core(program.matrices),
    )
    program.limits.check("memory", program.arena_size, "floats of working memory")
    for vector in program.vectors[core.vectors :]:
        core.add_vector(vector)
    for table in program.tables[core.tables :]:
        core.add_table(table)
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


def bind_weights(pattern: Pattern, isa: str) -> _core.Program:
    """Pack what the programs of all numbers of steps share, for `bind`; once for each set."""
    if isa in pattern.packed:
        return cast(_core.Program, pattern.packed[isa])
    core = _core.Program(
        input_size=1,
        arena_size=1,
        classes=1,
        conserves=False,
        isa=isa,
        **pattern.limits.of_core(pattern.matrices),
    )
    for vector in pattern.vectors:
        core.add_vector(vector)
    for table in pattern.tables:
        core.add_table(table)
    for template in (part.template for item in pattern.items for part in item.body):
        if isinstance(template, Gemm):
            key, bf16 = template.matrix, template.bf16
            if key < len(pattern.matrices) and core.find_matrix(key, bf16) < 0:
                core.add_matrix(pattern.matrices[key], bf16, key)
    pattern.packed[isa] = core
    return core


def _add(core: _core.Program, program: Program, instruction: Instruction) -> None:
    template = instruction.template
    spaces = [operand.space.value for operand in template.operands()]
    offsets = np.ascontiguousarray(instruction.offsets)
    _ADDERS[type(template)](core, program, template, list(zip(spaces, offsets, strict=True)))


def _gemm(core: _core.Program, program: Program, template: Gemm, rows: _Rows) -> None:
    count = len(template.segments)
    depths = [depth for _, depth in template.segments]
    segments = list(zip(rows[:count], depths, strict=True))
    epilogue = _epilogue(template.epilogue, rows[count + 1 :])
    if template.matrix not in range(len(program.matrices)):
        raise ValueError(f"no such matrix: {template.matrix}")
    key, bf16 = template.matrix, template.bf16
    matrix = core.find_matrix(key, bf16)
    if matrix < 0:
        matrix = core.add_matrix(program.matrices[key], bf16, key)
    core.gemm(segments, matrix, rows[count], epilogue)


def _map(core: _core.Program, _: Program, template: Map, rows: _Rows) -> None:
    source = None if template.source is None else rows[0]
    out = 0 if source is None else 1
    epilogue = _epilogue(template.epilogue, rows[out + 1 :])
    core.map(source, template.columns, rows[out], epilogue)


def _gather(core: _core.Program, program: Program, template: Gather, rows: _Rows) -> None:
    core.gather(rows[0], program.indices[template.index], rows[1])


def _scatter(core: _core.Program, program: Program, template: Scatter, rows: _Rows) -> None:
    core.scatter(rows[0], program.indices[template.index], rows[1])


def _seed(core: _core.Program, _: Program, template: Seed, rows: _Rows) -> None:
    core.seed(int(rows[0][1][0]), int(rows[1][1][0]), template.start.value)


def _absorb(core: _core.Program, _: Program, template: Absorb, rows: _Rows) -> None:
    operand = None if template.operand is None else rows[1]
    share = template.share.value
    core.absorb(rows[0], template.columns, share, operand, template.vector, template.epsilon)


def _activate(core: _core.Program, _: Program, template: Activate, rows: _Rows) -> None:
    function, parameter = template.function.value, template.parameter
    core.activate(rows[0], template.columns, rows[1], function, parameter)


def _slope(core: _core.Program, _: Program, template: Slope, rows: _Rows) -> None:
    source, value, out = rows
    function, parameter = template.function.value, template.parameter
    core.slope(source, value, template.columns, out, function, parameter, template.accumulate)


def _max_pool(core: _core.Program, _: Program, template: MaxPool, rows: _Rows) -> None:
    core.max_pool(rows[:-1], template.columns, rows[-1])


def _pool_route(core: _core.Program, _: Program, template: PoolRoute, rows: _Rows) -> None:
    count = len(template.values)
    core.pool_route(
        rows[:count],
        template.columns,
        rows[count],
        rows[count + 1 :],
        template.shares,
        template.accumulate,
    )


def _normalise(core: _core.Program, _: Program, template: Normalise, rows: _Rows) -> None:
    core.normalise(rows[0], template.columns, rows[1], template.epsilon)


def _normalise_back(core: _core.Program, _: Program, template: NormaliseBack, rows: _Rows) -> None:
    source, value, out = rows
    columns, epsilon = template.columns, template.epsilon
    core.normalise_back(
        source, value, columns, out, epsilon, template.detached, template.accumulate
    )


def _embed(core: _core.Program, program: Program, template: Embed, rows: _Rows) -> None:
    if template.table not in range(len(program.tables)):
        raise ValueError(f"no such table: {template.table}")
    core.embed(rows[0], template.table, rows[1])


_ADDERS: dict[type[Template], Callable[[_core.Program, Program, Any, _Rows], None]] = {
    Gemm: _gemm,
    Map: _map,
    Gather: _gather,
    Scatter: _scatter,
    Seed: _seed,
    Absorb: _absorb,
    Activate: _activate,
    Slope: _slope,
    MaxPool: _max_pool,
    PoolRoute: _pool_route,
    Normalise: _normalise,
    NormaliseBack: _normalise_back,
    Embed: _embed,
}


def _epilogue(epilogue: Epilogue, rows: _Rows) -> _core.Epilogue:
    left = iter(rows)
    scale_rows = next(left) if epilogue.scale_space is not None else None
    post_rows = next(left) if epilogue.post_space is not None else None
    return _core.Epilogue(
        bias=epilogue.bias,
        scale=epilogue.scale.value,
        scale_rows=scale_rows,
        scale_vector=epilogue.scale_vector,
        accumulate=epilogue.accumulate,
        post=epilogue.post.value,
        post_rows=post_rows,
        post_vector=epilogue.post_vector,
        epsilon=epilogue.epsilon,
    )
