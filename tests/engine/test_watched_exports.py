# SPDX-License-Identifier: Apache-2.0
"""What an export notes of the model's code, and when torch keeps what operators gave."""

from __future__ import annotations

import copy
import queue

import sympy
import torch
from sympy.solvers import inequalities
from torch import Tensor, nn
from torch.fx import _lazy_graph_module

from pyrel.compiler.capture.export import export
from pyrel.compiler.capture.places import place_of_node
from pyrel.compiler.capture.spared import spared


def halved(x: Tensor) -> Tensor:
    return x * 0.5


class Helped(nn.Module):
    """Calls a function of its own, and a layer of torch's."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(halved(x))


class Turning(nn.Module):
    """Notes whether torch keeps what operators give: before a loop, and after each turn."""

    def __init__(self) -> None:
        super().__init__()
        self.again = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        mode = torch._guards.detect_fake_mode([x])
        h = torch.tanh(self.again(x[:, 0])) + self.again(x[:, 1]) - self.again(x[:, 2])
        kept = [mode.cache_enabled]
        for step in x.unbind(1):
            h = torch.tanh(self.again(step) + h)
            kept.append(mode.cache_enabled)
        KEPT.put(kept)
        return h


KEPT: queue.SimpleQueue[list[bool]] = queue.SimpleQueue()  # a list would be put back


def test_operators_are_of_the_innermost_line_that_is_no_librarys() -> None:
    for program in export(Helped().eval(), torch.rand(2, 5)):
        nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        assert [place_of_node(node).code for node in nodes] == [
            "return x * 0.5",
            "return self.inner(halved(x))",
        ]


def test_layers_alone_have_no_line() -> None:
    for program in export(nn.Sequential(nn.Linear(5, 4), nn.Tanh()).eval(), torch.rand(2, 5)):
        nodes = [node for node in program.graph.nodes if node.op == "call_function"]
        assert [place_of_node(node).at for node in nodes] == ["", ""]


def test_torch_keeps_what_operators_give_from_the_third_turn_of_a_loop_on() -> None:
    programs = export(Turning().eval(), torch.rand(2, 5, 4))
    found = [KEPT.get() for _ in range(KEPT.qsize())]
    assert len(found) >= len(programs) > 1
    assert all(each == [False, False, False, True, True, True] for each in found)


def test_work_is_spared_during_an_export_only() -> None:
    def state() -> tuple[object, object]:
        return inequalities.reduce_inequalities, _lazy_graph_module._use_lazy_graph_module_flag

    before = state()
    with spared():
        assert all(one is not other for one, other in zip(state(), before, strict=True))
        x = sympy.Symbol("x", positive=True, integer=True)
        for relations in ({x >= 2}, {x >= 2, x <= 9}, [x >= 2, x <= 9], {x >= 2}):
            given = copy.copy(relations)
            assert inequalities.reduce_inequalities(relations, x) == before[0](given, x)
    for program in export(Helped().eval(), torch.rand(2, 5)):
        assert "torch.ops.aten.linear.default" in program.graph_module.code
    assert state() == before
