# SPDX-License-Identifier: Apache-2.0
"""Repeats do what their body does when it is written out; programs can share their weights."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine.running import ARENA, INPUT, instruction, program, run

from pyrel import _core, methods
from pyrel.compiler.graph.functions import Function
from pyrel.compiler.program.enums import Post, Share, Space
from pyrel.compiler.program.file_limits import NO_LIMITS
from pyrel.compiler.program.instructions import (
    Absorb,
    Activate,
    Epilogue,
    Gather,
    Gemm,
    Instruction,
    Map,
    MaxPool,
    Reduce,
    Repeat,
    Scatter,
    Seed,
)
from pyrel.compiler.program.program import Program
from pyrel.engine.compiled import Compiled
from pyrel.engine.devices import Binding
from pyrel.engine.inputs import Inputs
from pyrel.engine.loaded import Weights, bind
from pyrel.engine.program_file import read_program, write_program
from pyrel.methods.enums import Start

ISAS = _core.instruction_sets()
HIDDEN, WIDTH = 19, 5
STATE = 0  # of every step, from the one before the first on; the pre-activations come behind them


def weights(own: Program) -> tuple[int, int, int]:
    rng = np.random.default_rng(0)
    matrix = own.matrix(rng.standard_normal((HIDDEN + WIDTH, HIDDEN)) / 3)
    return matrix, own.vector(rng.standard_normal(HIDDEN)), own.index([3, 0, 3, 7])


def recurrence(own: Program, steps: int) -> tuple[list[Instruction], Repeat, int]:
    """Return a first state, a repeat of all kinds of rows, and how many floats they take."""
    matrix, bias, index = weights(own)
    t = np.arange(steps)
    pre = (steps + 1) * HIDDEN
    half = np.arange(2 * steps)
    gathered = pre + steps * HIDDEN
    gemm = Gemm(((ARENA, HIDDEN), (INPUT, WIDTH)), matrix, HIDDEN, ARENA, Epilogue(bias=bias))
    body = (
        instruction(gemm, t * HIDDEN, t * WIDTH, pre + t * HIDDEN),
        instruction(
            Activate(ARENA, HIDDEN, ARENA, Function.tanh), pre + t * HIDDEN, (t + 1) * HIDDEN
        ),
        # Two rows an iteration: the first and the last floats of the new state.
        instruction(
            Map(ARENA, 4, ARENA, Epilogue(post=Post.square)),
            HIDDEN + half // 2 * HIDDEN + half % 2 * (HIDDEN - 4),
            HIDDEN + half // 2 * HIDDEN + half % 2 * (HIDDEN - 4),
        ),
        instruction(Gather(ARENA, 8, index, 4, ARENA), (t + 1) * HIDDEN, gathered + t * 4),
        instruction(Scatter(ARENA, 8, index, 4, ARENA), gathered + t * 4, (t + 1) * HIDDEN),
        instruction(
            MaxPool((ARENA, ARENA), 2, ARENA),
            (t + 1) * HIDDEN,
            (t + 1) * HIDDEN + 2,
            (t + 1) * HIDDEN,
        ),
        instruction(
            Reduce(ARENA, 3, 5, 4, ARENA, accumulate=True), (t + 1) * HIDDEN + 4, (t + 1) * HIDDEN
        ),
        instruction(Absorb(ARENA, bias, HIDDEN, Share.weighted), (t + 1) * HIDDEN),
    )
    start = [instruction(Map(None, HIDDEN, ARENA), [STATE])]
    return start, Repeat(body, steps), gathered + steps * 4


def unrolled(repeat: Repeat) -> list[Instruction]:
    found = []
    for i in range(repeat.count):
        for inner in repeat.body:
            k = inner.offsets.shape[1] // repeat.count
            found.append(Instruction(inner.template, inner.offsets[:, i * k : (i + 1) * k]))
    return found


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("steps", [1, 2, 17])
def test_a_repeat_is_its_body_written_out(isa: str, steps: int) -> None:
    x = np.random.default_rng(1).standard_normal((29, steps * WIDTH)).astype(np.float32)
    found = []
    for written_out in (False, True):
        own = program(0)
        start, repeat, own.arena_size = recurrence(own, steps)
        body = unrolled(repeat) if written_out else [repeat]
        found.append(run(own, [*start, *body], x, steps * HIDDEN, HIDDEN, isa))
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert np.abs(found[0][0]).min() > 0


def explaining(steps: int) -> Program:
    """Return a whole program with a repeat: the last state, and relevance that is the input."""
    own = program(0)
    start, repeat, own.arena_size = recurrence(own, steps)
    own.input_size, own.classes = steps * WIDTH, HIDDEN
    seed = instruction(Seed(HIDDEN, Start.one), [steps * HIDDEN], [own.arena_size])
    relevance = instruction(Map(INPUT, own.input_size, Space.relevance), [0], [0])
    own.instructions = (*start, repeat, seed, relevance)
    own.arena_size += HIDDEN
    return own


def outputs(core: _core.Engine, x: Any) -> Any:
    relevance, output = np.empty_like(x), np.empty((len(x), HIDDEN), np.float32)
    explained = np.empty(len(x), np.int64)
    rest = [np.empty(len(x), np.float32) for _ in range(3)]
    status = core.run(x, None, None, None, True, 1, relevance, output, explained, *rest)
    assert status.outcome == _core.Outcome.done
    np.testing.assert_array_equal(relevance, x)
    return output


def test_repeats_and_tables_are_kept_in_files(tmp_path: Path) -> None:
    steps, file = 6, tmp_path / "program"
    own = explaining(steps)
    own.table(np.ones((3, 2)))
    x = np.random.default_rng(1).standard_normal((7, steps * WIDTH)).astype(np.float32)
    write_program(file, methods.Gradient(), Inputs((steps, WIDTH)), Compiled({"explain": own}))
    *_, compiled = read_program(file, Binding(ISAS[-1]))
    np.testing.assert_array_equal(
        outputs(bind(compiled.program, ISAS[-1]), x), outputs(bind(own, ISAS[-1]), x)
    )
    np.testing.assert_array_equal(compiled.program.tables[0], np.ones((3, 2)))
    (kept,) = (item for item in compiled.program.instructions if isinstance(item, Repeat))
    assert kept.count == steps
    for one, other in zip(
        compiled.program.every_instruction(), own.every_instruction(), strict=True
    ):
        assert one.template == other.template
        np.testing.assert_array_equal(one.offsets, other.offsets)


def weights_of(own: Program, isa: str) -> Weights:
    core = _core.Program(input_size=1, arena_size=1, classes=1, conserves=False)
    for matrix in own.matrices:
        core.add_matrix(matrix)
    for vector in own.vectors:
        core.add_vector(vector)
    return Weights(core, _core.PackedMatrices(isa))


@pytest.mark.parametrize("isa", ISAS)
def test_programs_for_other_steps_share_weights(isa: str) -> None:
    x = np.random.default_rng(1).standard_normal((7, 9 * WIDTH)).astype(np.float32)
    weights = weights_of(explaining(4), isa)
    kept, other = bind(explaining(4), isa, weights), explaining(9)
    other.limits = replace(NO_LIMITS, packed=1)  # no room for anything that is packed anew
    shared = bind(other, isa, weights)
    del kept
    np.testing.assert_array_equal(outputs(shared, x), outputs(bind(explaining(9), isa), x))
    del shared
    with pytest.raises(ValueError, match="more memory than it may, as packed"):
        bind(other, isa, weights)


def test_weights_of_another_instruction_set_are_refused() -> None:
    if len(ISAS) < 2:
        pytest.skip("this machine has one instruction set")
    with pytest.raises(ValueError, match="another instruction set"):
        bind(explaining(1), ISAS[1], weights_of(explaining(1), ISAS[0]))


MEGABYTE = 2**20
SLAB = 64 * MEGABYTE


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory in use from /proc")
@pytest.mark.parametrize("megabytes", [12, 24, 80])
def test_a_slab_takes_little_memory(megabytes: int) -> None:
    """64 MB, or one sample where that has more; all of the arena is written."""

    def memory(field: str) -> int:
        (line,) = (n for n in Path("/proc/self/status").read_text().splitlines() if field in n)
        return int(line.split()[1]) * 1024

    size = megabytes * MEGABYTE // 4 - 4
    x = np.ones((12, 4), np.float32)
    own = program(size)
    steps = [instruction(Map(None, size, ARENA), [0])]
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    run(own, steps, x, 0, 4, ISAS[-1])
    taken = memory("VmHWM") - before
    # The stride between samples is a little more than they take.
    assert taken <= max(SLAB, megabytes * MEGABYTE) + 8 * MEGABYTE, taken / MEGABYTE
