# SPDX-License-Identifier: Apache-2.0
"""The engine refuses a program that would read or write what is not its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from engine.building_programs import Building, Function, Post, Scale, Share, Space, Start, epilogue

from pyrel import _core, methods
from pyrel.compiler.graph import functions
from pyrel.compiler.program import enums

INT64_MAX = 2**63 - 1
INPUTS, CLASSES, ARENA = 3, 2, 8


def input_at(*offsets: int) -> tuple[int, list[int]]:
    return Space.input, list(offsets)


def arena(*offsets: int) -> tuple[int, list[int]]:
    return Space.arena, list(offsets)


def relevance(*offsets: int) -> tuple[int, list[int]]:
    return Space.relevance, list(offsets)


def routed(p: Any, values: list[Any], columns: int, outs: list[Any]) -> None:
    """Add a pool route to program ``p``."""
    p.pool_route(values, columns, arena(2), outs, False, True)


def begun() -> Building:
    """Return a program with outputs at 0 and their relevance at 2; 4 to 7 are not written."""
    program = Building(input_size=INPUTS, arena_size=ARENA, classes=CLASSES, conserves=False)
    program.add_matrix(np.ones((INPUTS, CLASSES), np.float32))
    program.add_matrix(np.ones((CLASSES, INPUTS), np.float32))
    program.add_vector(np.ones(CLASSES, np.float32))
    program.add_vector(np.ones(INPUTS, np.float32))
    program.add_table(np.ones((5, 3), np.float32))
    program.gemm([(input_at(0), INPUTS)], 0, arena(0), epilogue())
    program.seed(0, 2, Start.one)
    return program


def complete(program: Building) -> None:
    program.gemm([(arena(2), CLASSES)], 1, relevance(0), epilogue())


def run(program: Building, samples: int) -> Any:
    x = np.ones((samples, INPUTS), np.float32)
    out, floats = np.empty_like(x), [np.empty(samples, np.float32) for _ in range(3)]
    output, target = np.empty((samples, CLASSES), np.float32), np.empty(samples, np.int64)
    _core.Engine(program.core, "baseline").run(
        x, None, None, None, True, 2, out, output, target, *floats
    )
    return out


def test_a_complete_program_runs() -> None:
    program = begun()
    complete(program)
    program.finish()
    np.testing.assert_array_equal(run(program, 5), np.ones((5, INPUTS), np.float32))


def test_only_a_finished_program_runs_and_nothing_is_added_to_it() -> None:
    program = begun()
    complete(program)
    with pytest.raises(ValueError, match="not finished"):
        run(program, 1)
    program.finish()
    with pytest.raises(ValueError, match="is finished"):
        complete(program)


def test_relevance_must_be_written_everywhere() -> None:
    program = begun()
    program.map(None, INPUTS - 1, relevance(1), epilogue())
    with pytest.raises(ValueError, match="elements of the relevance unwritten"):
        program.finish()


@pytest.mark.parametrize("seeds", [0, 2])
def test_a_program_has_one_seed(seeds: int) -> None:
    program = Building(input_size=2, arena_size=2, classes=1, conserves=False)
    program.map(None, 1, arena(0), epilogue())
    for _ in range(seeds):
        program.seed(0, 1, Start.one)
    with pytest.raises(ValueError, match="one seed"):
        program.finish()


def test_no_relevance_is_written_before_the_seed() -> None:
    """A run for the outputs alone, which ends with the seed, has no memory for relevance."""
    program = Building(input_size=2, arena_size=2, classes=1, conserves=False)
    with pytest.raises(ValueError, match="writes relevance before the seed"):
        program.map(None, 2, relevance(0), epilogue())
    program.map(None, 1, arena(0), epilogue())
    program.seed(0, 1, Start.one)
    program.map(None, 2, relevance(0), epilogue())
    program.finish()


@pytest.mark.parametrize("size", [0, -1, 2**31 + 1, INT64_MAX])
@pytest.mark.parametrize("which", ["input_size", "arena_size", "classes"])
def test_sizes(which: str, size: int) -> None:
    sizes = {"input_size": 1, "arena_size": 1, "classes": 1} | {which: size}
    with pytest.raises(ValueError, match="input, arena"):
        Building(**sizes, conserves=False)


Build = Callable[[Building], object]
WRONG: dict[str, Build] = {
    "gemm reads beyond the input": lambda p: p.gemm([(input_at(1), 3)], 0, arena(4), epilogue()),
    "gemm reads before the input": lambda p: p.gemm([(input_at(-1), 3)], 0, arena(4), epilogue()),
    "offset near overflow": lambda p: p.map(input_at(INT64_MAX), 2, arena(4), epilogue()),
    "negative offset": lambda p: p.map(input_at(-INT64_MAX), 2, arena(4), epilogue()),
    "one bad step": lambda p: p.map(input_at(0, 2), 2, arena(4, 6), epilogue()),
    "writes beyond the arena": lambda p: p.map(None, 5, arena(4), epilogue()),
    "columns near overflow": lambda p: p.map(None, INT64_MAX, arena(4), epilogue()),
    "no columns": lambda p: p.map(None, 0, arena(4), epilogue()),
    "writes to the input": lambda p: p.map(arena(0), 2, input_at(0), epilogue()),
    "steps that differ": lambda p: p.map(input_at(0, 1), 1, arena(4), epilogue()),
    "no steps": lambda p: p.map(None, 1, arena(), epilogue()),
    "no such matrix": lambda p: p.gemm([(arena(0), 2)], 2, arena(4), epilogue()),
    "negative matrix": lambda p: p.gemm([(arena(0), 2)], -1, arena(4), epilogue()),
    "no segments": lambda p: p.gemm([], 0, arena(4), epilogue()),
    "nine segments": lambda p: p.gemm([(input_at(0), 1)] * 9, 0, arena(4), epilogue()),
    "negative depth": lambda p: p.gemm(
        [(input_at(0), 2), (input_at(0), 2), (input_at(0), -1)], 0, arena(4), epilogue()
    ),
    "depths that do not fit": lambda p: p.gemm([(input_at(0), 2)], 0, arena(4), epilogue()),
    "unwritten source": lambda p: p.map(arena(4), 2, arena(6), epilogue()),
    "partly unwritten segment": lambda p: p.gemm([(arena(2), 3)], 0, arena(4), epilogue()),
    "adds to what is not there": lambda p: p.map(None, 1, arena(4), epilogue(accumulate=True)),
    "bias of another width": lambda p: p.map(None, 2, arena(4), epilogue(bias=1)),
    "no such bias": lambda p: p.map(None, 2, arena(4), epilogue(bias=2)),
    "unused vector that is not there": lambda p: p.map(
        None, 2, arena(4), epilogue(scale_vector=2**31 - 1)
    ),
    "scale without its vector": lambda p: p.map(None, 2, arena(4), epilogue(scale=Scale.vector)),
    "scale without its operand": lambda p: p.map(None, 2, arena(4), epilogue(scale=Scale.operand)),
    "post without its operand": lambda p: p.map(None, 2, arena(4), epilogue(post=Post.divide)),
    "unused operand with fewer steps": lambda p: p.map(
        None, 2, arena(4, 6), epilogue(post_rows=arena(0))
    ),
    "unused operand beyond the arena": lambda p: p.map(
        None, 2, arena(4), epilogue(scale_rows=arena(7))
    ),
    "gather beyond the input": lambda p: p.gather(input_at(0), [0, 3], arena(4)),
    "gather near overflow": lambda p: p.gather(input_at(0), [INT64_MAX], arena(4)),
    "gather from an offset near overflow": lambda p: p.gather(input_at(INT64_MAX), [1], arena(4)),
    "negative gather": lambda p: p.gather(input_at(1), [-1], arena(4)),
    "gather of nothing": lambda p: p.gather(input_at(0), [], arena(4)),
    "gather without rows": lambda p: p.gather(input_at(), [0], arena()),
    "gather of unwritten values": lambda p: p.gather(arena(0), [0, 4], arena(6)),
    "gather into the input": lambda p: p.gather(arena(0), [0], input_at(0)),
    "scatter beyond the relevance": lambda p: p.scatter(arena(0), [3], relevance(0)),
    "scatter to unwritten values": lambda p: p.scatter(arena(0), [0], arena(4)),
    "scatter into the input": lambda p: p.scatter(arena(0), [0], input_at(0)),
    "seed from unwritten values": lambda p: p.seed(4, 6, Start.one),
    "seed beyond the arena": lambda p: p.seed(0, 7, Start.one),
    "seed near overflow": lambda p: p.seed(INT64_MAX, 0, Start.one),
    "absorb of another width": lambda p: p.absorb(arena(2), 2, Share.weighted, None, 1, 0.0),
    "absorb without a vector": lambda p: p.absorb(arena(2), 2, Share.weighted, None, -1, 0.0),
    "absorb without rows": lambda p: p.absorb(arena(), 2, Share.weighted, None, 0, 0.0),
    "epsilon below 0": lambda p: p.map(None, 2, arena(4), epilogue(epsilon=-1e-9)),
    "epsilon that is no number": lambda p: p.map(None, 2, arena(4), epilogue(epsilon=float("nan"))),
    "stabilised division by nothing": lambda p: p.map(
        None, 2, arena(4), epilogue(post=Post.divide_stabilised)
    ),
    "division of nothing": lambda p: p.map(None, 2, arena(4), epilogue(post=Post.divide_operand)),
    "absorb where an operand is missing": lambda p: p.absorb(
        arena(2), 2, Share.undivided, None, 0, 0.0
    ),
    "absorb by an unwritten operand": lambda p: p.absorb(
        arena(2), 2, Share.stabiliser, arena(4), -1, 0.0
    ),
    "absorb with an infinite epsilon": lambda p: p.absorb(
        arena(2), 2, Share.stabiliser, arena(0), -1, float("inf")
    ),
    "absorb with a vector of another width": lambda p: p.absorb(
        arena(2), 2, Share.undivided, arena(0), 1, 0.0
    ),
    "absorb of no columns": lambda p: p.absorb(arena(2), 0, Share.undivided, arena(0), -1, 0.0),
    "activate beyond the arena": lambda p: p.activate(arena(0), 5, arena(4), SIGMOID, 0.0),
    "activate of nothing": lambda p: p.activate(arena(0), 0, arena(4), SIGMOID, 0.0),
    "activate from unwritten values": lambda p: p.activate(arena(5), 2, arena(6), SIGMOID, 0.0),
    "activate into the input": lambda p: p.activate(arena(0), 2, input_at(0), SIGMOID, 0.0),
    "infinite parameter": lambda p: p.activate(arena(0), 2, arena(4), SIGMOID, float("inf")),
    "slope at unwritten values": lambda p: p.slope(
        arena(0), arena(4), 2, arena(6), SIGMOID, 0.0, False
    ),
    "slope added to what is not there": lambda p: p.slope(
        arena(0), arena(0), 2, arena(4), SIGMOID, 0.0, True
    ),
    "slope with a parameter that is no number": lambda p: p.slope(
        arena(0), arena(0), 2, arena(4), SIGMOID, float("nan"), False
    ),
    "reduce beyond the input": lambda p: p.reduce(input_at(0), 2, 2, 2, arena(4), False),
    "reduce from before the input": lambda p: p.reduce(input_at(-1), 2, 1, 1, arena(4), False),
    "reduce with a count near overflow": lambda p: p.reduce(
        input_at(0), INT64_MAX, 1, 1, arena(4), False
    ),
    "reduce with a stride near overflow": lambda p: p.reduce(
        input_at(0), 2, INT64_MAX, 1, arena(4), False
    ),
    "reduce of as much as memory may have": lambda p: p.reduce(
        input_at(0), 2**31, 2**31, 2**31, arena(4), False
    ),
    "reduce of no rows": lambda p: p.reduce(input_at(0), 0, 1, 1, arena(4), False),
    "reduce of no columns": lambda p: p.reduce(input_at(0), 1, 1, 0, arena(4), False),
    "reduce without a stride": lambda p: p.reduce(input_at(0), 2, 0, 1, arena(4), False),
    "reduce with a stride below 0": lambda p: p.reduce(input_at(2), 2, -1, 1, arena(4), False),
    "reduce of unwritten values": lambda p: p.reduce(arena(0), 2, 4, 2, arena(6), False),
    "reduce with other steps": lambda p: p.reduce(input_at(0, 1), 2, 1, 1, arena(4), False),
    "reduce into the input": lambda p: p.reduce(arena(0), 2, 1, 1, input_at(0), False),
    "reduce beyond the arena": lambda p: p.reduce(input_at(0), 2, 1, 2, arena(7), False),
    "reduce added to what is not there": lambda p: p.reduce(
        input_at(0), 2, 1, 1, arena(4), True
    ),
    "max of nothing": lambda p: p.max_pool([], 1, arena(4)),
    "max of no columns": lambda p: p.max_pool([arena(0)], 0, arena(4)),
    "max of unwritten values": lambda p: p.max_pool([arena(0), arena(4)], 1, arena(5)),
    "max with other steps": lambda p: p.max_pool([arena(0), arena(0, 1)], 1, arena(4)),
    "max into the input": lambda p: p.max_pool([arena(0)], 1, input_at(0)),
    "pool routed to fewer": lambda p: routed(p, [arena(0), arena(1)], 1, [arena(0)]),
    "pool routed to unwritten places": lambda p: routed(p, [arena(0)], 1, [arena(4)]),
    "pool routed to the input": lambda p: routed(p, [arena(0)], 1, [input_at(0)]),
    "pool routed beyond": lambda p: routed(p, [arena(0)], 2, [arena(7)]),
    "normalise beyond the input": lambda p: p.normalise(input_at(0), 4, arena(4), 1e-5),
    "normalise with epsilon below 0": lambda p: p.normalise(input_at(0), 3, arena(4), -1.0),
    "normalise no columns": lambda p: p.normalise(input_at(0), 0, arena(4), 1e-5),
    "normalise back at unwritten values": lambda p: p.normalise_back(
        arena(0), arena(5), 2, arena(4), 1e-5, False, False
    ),
    "normalise back onto what is not there": lambda p: p.normalise_back(
        arena(0), arena(0), 2, arena(4), 1e-5, True, True
    ),
    "no such table": lambda p: p.embed(input_at(0), 1, arena(4)),
    "negative table": lambda p: p.embed(input_at(0), -1, arena(4)),
    "embed beyond the arena": lambda p: p.embed(input_at(0), 0, arena(6)),
    "embed unwritten numbers": lambda p: p.embed(arena(4), 0, arena(5)),
    "repeat of nothing": lambda p: repeat(p, 2),
    "repeat without iterations": lambda p: repeat(p, 0),
    "rows that iterations cannot share": lambda p: repeat(
        p, 2, lambda: p.map(None, 1, arena(4, 5, 6), epilogue())
    ),
    "fewer rows than iterations": lambda p: repeat(
        p, 2, lambda: p.map(None, 1, arena(4), epilogue())
    ),
    "no rows in a repeat": lambda p: repeat(p, 2, lambda: p.map(None, 1, arena(), epilogue())),
    "operands with other steps in a repeat": lambda p: repeat(
        p, 2, lambda: p.map(arena(0), 1, arena(4, 5), epilogue())
    ),
    "more steps than the output in a repeat": lambda p: repeat(
        p, 1, lambda: p.map(arena(0, 1), 1, arena(4), epilogue())
    ),
    "a repeat reads what its next iteration writes": lambda p: repeat(
        p,
        2,
        lambda: p.map(arena(4, 6), 1, arena(7, 7), epilogue()),
        lambda: p.map(None, 1, arena(6, 4), epilogue()),
    ),
    "a repeat's last iteration reaches beyond": lambda p: repeat(
        p, 3, lambda: p.map(None, 2, arena(4, 5, 7), epilogue())
    ),
    "a repeat's gather of unwritten values": lambda p: repeat(
        p, 2, lambda: p.gather(arena(0, 6), [0, 1], arena(4, 4))
    ),
    "a repeat's gather with other steps": lambda p: repeat(
        p, 2, lambda: p.gather(arena(0), [0, 1], arena(4, 6))
    ),
    "a repeat's scatter with other steps": lambda p: repeat(
        p, 2, lambda: p.scatter(arena(0), [0], arena(0, 1))
    ),
}  # fmt: skip
SIGMOID = Function.sigmoid


def repeat(program: Building, count: int, *body: Callable[[], object]) -> None:
    program.begin_repeat(count)
    for add in body:
        add()
    program.end_repeat()


@pytest.mark.parametrize(
    "inner",
    [lambda p: p.seed(0, 4, Start.one), lambda p: p.begin_repeat(2)],
    ids=["seed", "repeat"],
)
def test_neither_seeds_nor_repeats_are_repeated(inner: Build) -> None:
    program = begun()
    program.begin_repeat(2)
    with pytest.raises(ValueError, match="no seed and no repeat"):
        inner(program)


def test_a_repeat_begins_and_ends() -> None:
    program = begun()
    with pytest.raises(ValueError, match="no repeat"):
        program.end_repeat()
    program.begin_repeat(1)
    complete(program)
    with pytest.raises(ValueError, match="has no end"):
        program.finish()
    program.end_repeat()
    program.finish()
    np.testing.assert_array_equal(run(program, 2), np.ones((2, INPUTS), np.float32))


@pytest.mark.parametrize("rows", [0, 2**24 + 1])
def test_sizes_of_tables(rows: int) -> None:
    with pytest.raises(ValueError, match="a table"):
        begun().add_table(np.zeros((rows, 1), np.float32))


@pytest.mark.parametrize("name", _core.enums)
def test_python_and_the_engine_number_alike(name: str) -> None:
    (home,) = (each for each in (enums, functions, methods.enums) if hasattr(each, name))
    assert {m.name: m.value for m in getattr(home, name)} == _core.enums[name]


def test_fields_are_those_of_the_instruction() -> None:
    fields = {"source": arena(0), "columns": 2, "out": arena(4), "epsilon": 1e-5}
    program = begun()
    for wrong in ({**fields, "more": 1}, {n: v for n, v in fields.items() if n != "columns"}):
        with pytest.raises(TypeError, match="field"):
            program.add("Normalise", wrong)
    with pytest.raises(ValueError, match="no such columns"):
        program.add("Normalise", fields | {"columns": 2**64})
    with pytest.raises(ValueError, match="no instruction 'Normalize'"):
        program.add("Normalize", fields)
    program.add("Normalise", fields)


@pytest.mark.parametrize("number", [-1, 3])
def test_no_such_member(number: int) -> None:
    with pytest.raises(ValueError, match="no such Start"):
        begun().seed(0, 4, number)


@pytest.mark.parametrize("add", WRONG.values(), ids=WRONG)
def test_instructions_stay_within_what_is_theirs(add: Build) -> None:
    program = begun()
    with pytest.raises(ValueError, match=r"operand|index|vector|matrix|depth|segment|input|column"):
        add(program)
    complete(program)  # what was refused left nothing behind
    program.finish()
    np.testing.assert_array_equal(run(program, 2), np.ones((2, INPUTS), np.float32))
