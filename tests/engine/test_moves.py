# SPDX-License-Identifier: Apache-2.0
"""Results that are only moved on to the relevance of the input."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine.running import ARENA
from torch import Tensor, nn

import pyrel
from pyrel.compiler.lowering.lower import lower
from pyrel.compiler.program.enums import Space
from pyrel.compiler.program.instructions import Epilogue, Map
from pyrel.compiler.program.moves import without_moves
from pyrel.compiler.program.schedule import RowOp, row_op

RELEVANCE = Space.relevance
EPS = float(np.finfo(np.float32).eps)


class First(nn.Module):
    """A ReLU of the input, alone or beside another reader."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.layer, self.out = kind, nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Any:
        h = torch.relu(x)
        out = self.out(torch.tanh(self.layer(h)))
        return out + x[:, :3] if self.kind == "read twice" else out


def moves(model: nn.Module, x: Tensor) -> int:
    graph = pyrel.capture(model, x)
    unbounded = np.full(graph.input_size, np.inf)
    program = lower(graph, pyrel.methods.Gradient(), -unbounded, unbounded)
    return sum(
        isinstance(i.template, Map)
        and (i.template.out, i.template.epilogue) == (RELEVANCE, Epilogue())
        for i in program.every_instruction()
    )


@pytest.mark.parametrize(("kind", "left"), [("alone", False), ("read twice", True)])
def test_what_arrives_at_the_input_is_written_there(kind: str, left: bool) -> None:
    torch.manual_seed(0)
    model, x = First(kind).eval(), torch.randn(6, 8)
    assert bool(moves(model, x)) == left
    given = x.clone().requires_grad_()
    target = model(x).argmax(1)
    model(given)[torch.arange(6), target].sum().backward()
    found = pyrel.explain(model, x, target=target, method="gradient").relevance
    assert given.grad is not None
    size = np.abs(given.grad.numpy()).max()
    np.testing.assert_allclose(found, given.grad, rtol=0, atol=30 * EPS * size)


def operations(*more: RowOp, before: tuple[RowOp, ...] = ()) -> list[RowOp]:
    """Return a map in the arena whose two rows are moved to the relevance, in the other order."""
    return [
        *before,
        row_op(Map(ARENA, 2, ARENA), np.array([8, 10]), np.array([0, 2])),
        row_op(Map(ARENA, 2, RELEVANCE), np.array([2, 0]), np.array([4, 6])),
        *more,
    ]


def test_rows_go_where_each_is_moved_to() -> None:
    (left,) = without_moves(operations(), 12)
    assert left.template == Map(ARENA, 2, RELEVANCE)
    assert left.offsets.tolist() == [[8, 10], [6, 4]]


@pytest.mark.parametrize(
    "other",
    [
        row_op(Map(ARENA, 1, ARENA), np.array([3]), np.array([11])),  # reads a part of a result
        row_op(Map(None, 1, ARENA, Epilogue(accumulate=True)), np.array([0])),
    ],
    ids=["read", "added to"],
)
def test_what_others_touch_is_moved(other: RowOp) -> None:
    given = operations(other)
    assert without_moves(given, 12) == given


def test_what_is_written_before_is_not_overtaken() -> None:
    given = operations(before=(row_op(Map(None, 1, RELEVANCE), np.array([5])),))
    assert without_moves(given, 12) == given


def test_parts_of_a_result_are_moved() -> None:
    """As more than one map moves them, or one of which the rest is read by nobody."""
    whole = row_op(Map(ARENA, 4, ARENA), np.array([8]), np.array([0]))
    part = row_op(Map(ARENA, 2, RELEVANCE), np.array([2]), np.array([4]))
    assert without_moves([whole, part], 12) == [whole, part]
