# SPDX-License-Identifier: Apache-2.0
"""Small programs built by hand: what they compute comes back as their output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from engine import cuda_emulated

from pyrel._core import Outcome
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Instruction, Seed, Template
from pyrel.compiler.program.program import Program
from pyrel.engine.loaded import bind, checked
from pyrel.methods.enums import Start

Step = tuple[Template, Sequence[Sequence[int]]]


def instruction(template: Template, *offsets: Sequence[int]) -> Instruction:
    """Return an instruction with these offsets of its operands, one for each step."""
    return Instruction(template, np.array(offsets, dtype=np.int64))


def run(
    program: Program,
    steps: Sequence[Any],
    x: Any,
    result: int,
    size: int,
    isa: str,
    check_finite: bool = True,
) -> tuple[Any, Any]:
    """Run the steps on samples ``x``; return ``size`` floats of the arena from ``result``.

    Also returned is what was absorbed; `measured` returns the amplification too. The seed takes the
    arena's last floats. The steps run in both layouts of the samples, with the same bits, and those
    of AVX2 on the emulated device, too.
    """
    return measured(program, steps, x, result, size, isa, check_finite)[:2]


def measured(
    program: Program,
    steps: Sequence[Any],
    x: Any,
    result: int,
    size: int,
    isa: str,
    check_finite: bool = True,
) -> tuple[Any, Any, Any]:
    """Do what `run` does, and return the amplification as well."""
    x = np.ascontiguousarray(x, np.float32)
    n, program.input_size = x.shape
    program.classes = size
    program.arena_size += size
    seed = instruction(Seed(size, Start.one), [result], [program.arena_size - size])
    program.instructions = (*steps, seed)
    core = bind(program, isa)
    explained, conservation = np.empty(n, np.int64), np.empty(n, np.float32)
    found = []
    for layout in (False, True):
        output = np.empty((n, size), np.float32)
        absorbed, amplification = np.empty(n, np.float32), np.empty(n, np.float32)
        results = (None, output, explained, absorbed, conservation, amplification)
        status = core.run(x, None, None, None, check_finite, 2, *results, in_lanes=layout)
        assert status.outcome == Outcome.done, status.outcome
        found.append((output, absorbed, amplification))
    apart, in_lanes = found
    assert [each.tobytes() for each in apart] == [each.tobytes() for each in in_lanes]
    if isa == cuda_emulated.ISA:
        on_device = cuda_emulated.explain(
            checked(program), x, relevance=False, check_finite=check_finite
        )
        named = (on_device.output, on_device.absorbed, on_device.amplification)
        assert [each.tobytes() for each in apart] == [each.tobytes() for each in named]
    return apart


def program(arena_size: int) -> Program:
    """Return a program that `run` completes."""
    return Program(input_size=1, classes=1, conserves=False, arena_size=arena_size)


INPUT, ARENA = Space.input, Space.arena
