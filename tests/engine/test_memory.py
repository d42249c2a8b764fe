# SPDX-License-Identifier: Apache-2.0
"""The memory plan: nothing is lost by sharing memory, and little more is taken than is needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from engine.cases import ALL_CASES, Case, by_name, captured, inputs
from engine.cells import CellCase
from engine.unplanned import (
    Instructions,
    arena_end,
    arena_runs,
    assert_plan_changes_nothing,
    explainer_without_plan,
    written_out,
)
from hypothesis import given, settings
from hypothesis import strategies as st

import pyrel
from pyrel.compiler.limits import LINE
from pyrel.compiler.program.enums import Post, Scale, Space
from pyrel.compiler.program.instructions import Epilogue, Gather, Gemm, Instruction, Map, Template
from pyrel.compiler.program.memory import Items, plan
from pyrel.compiler.program.schedule import row_op, schedule

LINES = 24  # of the made-up programs' arenas
Ints = npt.NDArray[np.int64]
SIZES = (1, 5, 16, 16, 16, 17, 32, 40)


def place(draw: Any, size: int, allowed: np.ndarray) -> int | None:
    """Draw where a run of ``size`` floats lies within what is allowed; None if nowhere."""
    places = np.flatnonzero(np.lib.stride_tricks.sliding_window_view(allowed, size).all(axis=1))
    # Mostly whole lines: else everything would soon be one block.
    lines = places[places % LINE == 0]
    choices = lines if lines.size and draw(st.integers(0, 9)) else places
    return draw(st.sampled_from(choices.tolist())) if choices.size else None


def draw_template(draw: Any) -> Template:
    """Draw what an instruction does: only what it touches matters to the plan."""
    size = st.sampled_from(SIZES)
    space = st.sampled_from([Space.arena, Space.arena, Space.arena, Space.relevance])
    columns, out = draw(size), draw(space)
    if not draw(st.integers(0, 3)):
        return Gather(Space.arena, draw(size), 0, columns, out)
    scaled, divided = draw(st.booleans()), draw(st.booleans())
    epilogue = Epilogue(
        accumulate=draw(st.booleans()),
        scale=Scale.operand if scaled else Scale.none,
        scale_space=Space.arena if scaled else None,
        post=Post.divide if divided else Post.none,
        post_space=Space.arena if divided else None,
    )
    reading = st.sampled_from([Space.arena, Space.arena, Space.input])
    segments = draw(st.lists(st.tuples(reading, size), max_size=2))
    if not segments:
        return Map(None, columns, out, epilogue)
    return Gemm(tuple(segments), 0, columns, out, epilogue)


def draw_step(draw: Any, template: Template, written: np.ndarray) -> list[int] | None:
    """Draw an offset for each operand; what is read whole was written before."""
    anywhere = np.ones_like(written)
    offsets = []
    for operand in template.operands():
        allowed = written if operand.space == Space.arena and operand.read else anywhere
        offset = place(draw, operand.size, allowed if operand.whole else anywhere)
        if offset is None:
            return None
        offsets.append(offset)
    return offsets


def independent(one: Instruction, other: Instruction) -> bool:
    """Whether neither writes in the arena where the other reads or writes."""
    for a, b in ((one, other), (other, one)):
        touched = [run for _, run in arena_runs(b)]
        for operand, run in arena_runs(a):
            if operand.written and any(run.start < t.stop and t.start < run.stop for t in touched):
                return False
    return True


@st.composite
def programs(draw: Any) -> Instructions:
    """Draw instructions that read only what was written and whose rows may run in any order."""
    written = np.zeros(LINES * LINE, dtype=bool)
    instructions = [Instruction(Map(None, 16, Space.arena), np.array([[0, 16]]))]
    written[:32] = True
    for _ in range(draw(st.integers(1, 14))):
        template = draw_template(draw)
        steps: list[Instruction] = []
        for _ in range(draw(st.integers(1, 3))):
            offsets = draw_step(draw, template, written)
            if offsets is None:
                continue
            step = Instruction(template, np.array([offsets]).T)
            if all(independent(step, other) for other in steps):
                steps.append(step)
        if steps:
            offsets_of_all = np.concatenate([step.offsets for step in steps], axis=1)
            instructions.append(Instruction(template, offsets_of_all))
        for step in steps:
            for operand, run in arena_runs(step):
                written[run] |= operand.written
    return tuple(instructions)


def assert_same_run(before: Instructions, after: Instructions, size: int) -> None:
    """Run both without numbers: follow whose value each float of the planned memory holds.

    ``version`` is what each place of the program before holds, by the instruction that wrote it;
    ``owner`` and ``held`` say the place and the version that each float after holds. Reads are
    looked at before and after the instruction's writes, as its rows run in no particular order.
    """
    version = np.full(arena_end(before), -1)
    owner, held = np.full(size, -1), np.full(size, -1)
    for time, (one, other) in enumerate(zip(before, after, strict=True)):
        assert one.template is other.template
        elsewhere = [operand.space != Space.arena for operand in one.template.operands()]
        np.testing.assert_array_equal(one.offsets[elsewhere], other.offsets[elsewhere])
        runs = [
            (operand, np.arange(a.start, a.stop), np.arange(b.start, b.stop))
            for (operand, a), (_, b) in zip(arena_runs(one), arena_runs(other), strict=True)
        ]
        reads = [run for run in runs if run[0].read]
        writes = [run for run in runs if run[0].written]
        assert_intact(reads, version, owner, held)
        for _, places, memory in writes:
            assert memory[-1] < size
            version[places] = held[memory] = time
            owner[memory] = places
        assert_intact(reads + writes, version, owner, held)


def assert_intact(runs: list[Any], version: Ints, owner: Ints, held: Ints) -> None:
    """Every run of the planned memory holds what its places hold."""
    for operand, places, memory in runs:
        known = version[places] >= 0
        assert known.all() or not operand.whole
        np.testing.assert_array_equal(owner[memory][known], places[known])
        np.testing.assert_array_equal(held[memory][known], version[places][known])


def assert_plan_holds(items: Items) -> tuple[Instructions, int]:
    """Follow every value through the planned program; return it and the size of its arena."""
    planned, size = plan(items)
    after = written_out(planned)
    assert_same_run(written_out(items), after, size)
    return after, size


def assert_all_plans_hold(items: Items) -> None:
    """Plan as for few values, and as for so many that the plan takes them together."""
    assert_plan_holds(items)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrel.compiler.program.block_placement._FEW", 0)
        assert_plan_holds(items)
        patch.setattr("pyrel.compiler.program.block_placement._MOST_SIZES", 2)
        patch.setattr("pyrel.compiler.program.block_placement._MOST_HEIGHTS", 1)
        patch.setattr("pyrel.compiler.program.memory._MOST_BLOCKS", 8)
        assert_plan_holds(items)


@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(before=programs())
def test_every_read_sees_the_last_write(before: Instructions) -> None:
    assert_all_plans_hold(before)


def test_rows_of_one_instruction_do_not_share_memory() -> None:
    """A value that is read for the last time keeps its memory until the instruction is done."""
    read, write = Map(None, 16, Space.arena), Map(Space.arena, 16, Space.arena)
    before = (
        Instruction(read, np.array([[0, 16]])),
        Instruction(write, np.array([[0, 16], [32, 48]])),
    )
    assert assert_plan_holds(before)[1] == 64


def test_reading_what_was_never_written_is_a_fault() -> None:
    first = row_op(Map(None, 16, Space.arena), 0)
    late = row_op(Map(Space.arena, 17, Space.arena), 0, 32)
    with pytest.raises(AssertionError, match="operation 1 reads what no earlier one wrote"):
        schedule([first, late], 1, 64)
    summed = row_op(Map(None, 8, Space.arena, Epilogue(accumulate=True)), 8)
    with pytest.raises(AssertionError, match="operation 0 reads"):
        schedule([summed, first], 1, 64)


@pytest.mark.parametrize("case", ALL_CASES, ids=lambda case: case.name)
@pytest.mark.parametrize("method", ["deep_taylor", "guided_backprop"])
def test_results_are_those_without_a_plan(case: Case | CellCase, method: str) -> None:
    _, graph = captured(case)
    assert_plan_changes_nothing(
        graph, inputs(case, 13), method=method, low=case.low, high=case.high
    )


def peak(instructions: Instructions) -> int:
    """Most floats that are in use at once, each from the first instruction to touch it on."""
    end = arena_end(instructions)
    birth, death = np.full(end, len(instructions)), np.full(end, -1)
    for time, instruction in enumerate(instructions):
        for _, run in arena_runs(instruction):
            birth[run] = np.minimum(birth[run], time)
            death[run] = time
    return max(((birth <= t) & (t <= death)).sum() for t in range(len(instructions)))


@pytest.fixture(scope="module", params=["Deep-12", "Shallow-7", "DeepV2-4"])
def cell_graph(request: pytest.FixtureRequest) -> pyrel.Graph:
    name, steps = request.param.split("-")
    cell = getattr(pyrel.nn, name).for_majority(int(steps)).eval()
    example = np.zeros((2, cell.steps, *cell.step_shape), np.float32)
    graph: pyrel.Graph = pyrel.capture(cell, example)
    return graph


@pytest.mark.parametrize("method", ["gradient", "deep_taylor", "lrp_epsilon", "lrp_alpha_beta"])
def test_cells_take_little_more_than_what_is_in_use(cell_graph: pyrel.Graph, method: str) -> None:
    """A quarter is room for gaps: the plan takes the largest first, not the best of all."""
    _, before = explainer_without_plan(cell_graph, method=method, low=0.0, high=1.0)
    after, size = assert_plan_holds(before)
    assert peak(before) <= size <= 1.25 * peak(before)
    assert size < 0.75 * arena_end(before)
    assert all(run.start % LINE == 0 for i in after for _, run in arena_runs(i))


def test_a_copy_of_many_values_does_not_keep_those_between_them_alive() -> None:
    """The states of all steps are read together; the encoder's outputs lie between them."""
    case = by_name("AllStates")
    _, graph = captured(case)
    _, before = explainer_without_plan(graph, method="gradient", low=case.low, high=case.high)
    _, size = plan(before)
    assert size <= 1.25 * peak(before)
    assert size < 0.75 * arena_end(before)
