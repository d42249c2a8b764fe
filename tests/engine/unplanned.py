# SPDX-License-Identifier: Apache-2.0
"""Programs as they are before the memory plan, or before loops are found in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

import pyrel
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Instruction, Operand, Repeat

Instructions = tuple[Instruction, ...]


def arena_runs(instruction: Instruction) -> Iterator[tuple[Operand, slice]]:
    """Yield the runs of floats in the arena that an instruction touches, step by step."""
    for operand, offsets in zip(instruction.template.operands(), instruction.offsets, strict=True):
        for offset in offsets.tolist() if operand.space == Space.arena else ():
            yield operand, slice(offset, offset + operand.size)


def arena_end(instructions: Instructions) -> int:
    """Return how many floats the arena must have."""
    return max(run.stop for i in instructions for _, run in arena_runs(i))


def explainer_without_plan(graph: pyrel.Graph, **options: Any) -> tuple[Any, Instructions]:
    """Return an explainer whose values have a place each, and its instructions."""
    seen: list[Instructions] = []

    def keep(items: tuple[Instruction | Repeat, ...], **_: object) -> tuple[Any, int]:
        instructions = written_out(items)
        seen.append(instructions)
        return items, arena_end(instructions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrel.compiler.lowering.lower.plan", keep)
        explainer = pyrel.Explainer(graph, **options)
    (instructions,) = seen
    return explainer, instructions


def assert_plan_changes_nothing(graph: pyrel.Graph, x: Any, **options: Any) -> None:
    """Every result has the same bits with and without the plan."""
    without, _ = explainer_without_plan(graph, **options)
    with_plan = pyrel.Explainer(graph, **options)
    one, other = with_plan(x), without(x)
    for field in ("relevance", "output", "target", "absorbed", "conservation", "amplification"):
        np.testing.assert_array_equal(getattr(one, field), getattr(other, field), strict=True)


def written_out(items: Sequence[Instruction | Repeat]) -> Instructions:
    """Return all instructions one after the other, those of a body as often as they run."""
    found: list[Instruction] = []
    for item in items:
        repeat = item if isinstance(item, Repeat) else Repeat((item,), 1)
        for i in range(repeat.count):
            for inner in repeat.body:
                offsets = np.split(inner.offsets, repeat.count, axis=1)[i]
                found.append(Instruction(inner.template, offsets))
    return tuple(found)


def explainer_unrolled(graph: pyrel.Graph, **options: Any) -> pyrel.Explainer:
    """Return an explainer whose program has no loops."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyrel.compiler.lowering.lower.roll", tuple)
        return pyrel.Explainer(graph, **options)
