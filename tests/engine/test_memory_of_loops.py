# SPDX-License-Identifier: Apache-2.0
"""The memory plan of programs with loops loses nothing, and takes little."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine.cases import by_name, captured, inputs
from engine.test_memory import assert_all_plans_hold, assert_plan_holds
from engine.unplanned import explainer_without_plan
from hypothesis import given, settings
from hypothesis import strategies as st

import pyrel
from pyrel.compiler.program.enums import Scale, Space
from pyrel.compiler.program.instructions import Epilogue, Instruction, Map, Repeat
from pyrel.compiler.program.loops import roll
from pyrel.compiler.program.memory import plan

ARENA = Space.arena


@st.composite
def loops(draw: Any) -> tuple[Instruction | Repeat, ...]:
    """Draw loops of which each fills a row of places an iteration from ones filled before.

    Each reads at one or two distances, forwards or backwards; some values are read again later.
    """
    count = draw(st.integers(3, 9))
    t = np.arange(count)
    margin = 3
    items: list[Instruction | Repeat] = []
    starts = []
    origin = 0
    for _ in range(draw(st.integers(1, 5))):
        body: list[Instruction] = []
        inside: list[int] = []
        down = draw(st.booleans())
        for _ in range(draw(st.integers(1, 4))):
            size = draw(st.sampled_from([3, 16, 16, 20]))
            start, origin = origin, origin + 20 * (count + 2 * margin)
            # Before the first iteration and behind the last there is something to read too.
            rim = [*range(margin), *range(count + margin, count + 2 * margin)]
            items.append(Instruction(Map(None, 20, ARENA), start + 20 * np.array([rim])))
            write = start + 20 * (margin + (t[::-1] if down else t))
            if not starts and not inside:
                body.append(Instruction(Map(None, size, ARENA), write[None]))
            else:
                source = draw(st.sampled_from([*starts, *inside]))
                far = draw(st.integers(1, margin)) * (-1 if not down else 1)
                near = 0 if source in inside or draw(st.booleans()) else far
                reads = [write - start + source + 20 * d for d in (near, far)]
                template = Map(ARENA, 3, ARENA, Epilogue(scale=Scale.operand, scale_space=ARENA))
                body.append(Instruction(template, np.stack([reads[0], write, reads[1]])))
            inside.append(start)
        items.append(Repeat(tuple(body), count))
        starts += draw(st.lists(st.sampled_from(inside), max_size=2))
    return tuple(items)


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(items=loops())
def test_loops_read_what_they_would(items: tuple[Instruction | Repeat, ...]) -> None:
    assert_all_plans_hold(items)


def chain(count: int) -> tuple[Instruction | Repeat, ...]:
    """A recurrence forwards whose states and inner values are read on the way back."""
    t = 32 * np.arange(count)
    inner, back = 32 * (count + 1), 32 * (2 * count + 2)
    first = Instruction(Map(None, 32, ARENA), np.array([[0]]))
    copy = Map(ARENA, 32, ARENA)
    forward = (
        Instruction(copy, np.stack([t, inner + t])),
        Instruction(copy, np.stack([inner + t, 32 + t])),
    )
    down = t[::-1]
    twice = Map(ARENA, 32, ARENA, Epilogue(scale=Scale.operand, scale_space=ARENA))
    backward = (Instruction(twice, np.stack([back + 32 + down, back + down, inner + down])),)
    seed = Instruction(copy, np.array([[32 * count], [back + 32 * count]]))
    read = Instruction(copy, np.stack([back + t, 32 * (3 * count + 4) + t]))
    return (first, Repeat(forward, count), seed, Repeat(backward, count), read)


def test_values_of_a_loop_share_places_with_those_of_the_next() -> None:
    """States take two places in turn; what goes back takes the inner values' places."""
    for count in (3, 10, 50):
        _, size = assert_plan_holds(chain(count))
        # The inner values, one place more for the way back; the results; a few others.
        assert size <= 32 * (2 * count + 6)


@pytest.mark.parametrize("count", [3_000, 100_000])
def test_long_loops_take_little_more_than_what_is_in_use(count: int) -> None:
    """Their values are placed some at a time, so that the plan takes hardly longer."""
    _, size = plan(chain(count))
    assert 32 * 2 * count <= size < 32 * 2 * 1.01 * count


@pytest.mark.parametrize("name", ["Elman", "AllStates", "EncodedAtOnce"])
@pytest.mark.parametrize("method", ["deep_taylor", "gradient"])
def test_rolled_models_compute_the_same(name: str, method: str) -> None:
    case = by_name(name)
    _, graph = captured(case)
    options = {"method": method, "low": case.low, "high": case.high}
    _, before = explainer_without_plan(graph, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrel.compiler.program.loops.LEAST_SAVED", 2)
        assert_plan_holds(roll(before))
        planned = pyrel.Explainer(graph, **options)
    x = inputs(case, 5)
    for field in ("relevance", "output", "target", "absorbed"):
        one = getattr(planned(x), field)
        np.testing.assert_array_equal(one, getattr(pyrel.Explainer(graph, **options)(x), field))
